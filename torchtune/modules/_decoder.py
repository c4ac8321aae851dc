"""The decoder-only language model."""

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn

from torchtune.modules._adapter import Adapter
from torchtune.modules._architecture import Architecture
from torchtune.modules._attention_mask import PassShape
from torchtune.modules._context import PassContext, add_up
from torchtune.modules._decoder_layer import DecoderLayer
from torchtune.modules._documents import Documents
from torchtune.modules._hardware import hardware_of
from torchtune.modules._kv_cache import KVCache
from torchtune.modules._linear import Embedding, Linear
from torchtune.modules._parts import HasReset


class Decoder(nn.Module):
    """A decoder-only transformer, by default with RMS norms, rotary positions and gated feed-forwards.

    The model has parameters but no buffers: a model built on the meta device is complete once its parameters are
    loaded, or once `to_empty` and `init_weights` have been called.

    Args:
        architecture: Sizes and constants; stored as `architecture`.
    """

    compute_dtype: torch.dtype | None = None
    """Dtype that trained parameters are cast to in forward passes of training; None: no cast."""
    reduces_gradients_once: bool = False
    """Whether gradients are reduced across ranks only in the last micro-batch of a step."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.rotary, self.local_rotary = a.positions.rotations(a.attention.rotary_dim)
        self.embed_tokens = Embedding(a.vocab_size, a.embed_dim)
        self.embed_positions = a.positions.embedding(a)
        self.layers = nn.ModuleList(DecoderLayer(a, i) for i in range(a.num_layers))
        self.norm = a.norm.build(a.embed_dim)
        if not a.tied_embeddings:
            self.lm_head = Linear(a.embed_dim, a.vocab_size)

    def init_weights(self) -> None:
        """Initialize all weights, including adapters, in the same way as when the model is built."""
        for module in self.modules():
            if isinstance(module, HasReset):
                module.reset_parameters()

    @property
    def head_weight(self) -> Tensor:
        """The output head's weight `[v, d]`, not including its adapter's update (see `head`)."""
        return self._head_layer.weight

    @torch.no_grad()
    def untie(self) -> None:
        """Untie the output head from the embedding table, in place; the new head is a copy of the table."""
        assert self.architecture.tied_embeddings
        self.architecture = evolve(self.architecture, tied_embeddings=False)
        weight = self.embed_tokens.weight
        self.lm_head = Linear(weight.shape[1], weight.shape[0], device="meta")
        self.lm_head.weight = nn.Parameter(weight.clone(), requires_grad=weight.requires_grad)

    @property
    def head_adapter(self) -> Adapter | None:
        """The enabled adapter of the output head, if any."""
        adapter = self._head_layer.adapter
        return adapter if adapter is not None and adapter.is_enabled else None

    @property
    def _head_layer(self) -> Embedding | Linear:
        return self.embed_tokens if self.architecture.tied_embeddings else self.lm_head

    def head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs x `[..., d']` and a weight W `[v, d']` such that `x W^T` are the logits before the soft cap.

        Without an adapter, x and W are the hidden states and the output head. With an adapter, the factors of its
        update are appended to both, so that the small update is not rounded to the precision of the head. Appending
        copies the head, and the copy has a gradient of the same size.

        Args:
            hidden: Hidden states `[..., d]` after the final norm.
        """
        adapter = self.head_adapter
        if adapter is None:
            return hidden, self.head_weight
        inputs, rows = adapter.head_factors(hidden)  # [..., r], [v, r]
        weight = self.head_weight
        return torch.cat([hidden, inputs.to(hidden.dtype)], -1), torch.cat([weight, rows.to(weight.dtype)], 1)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """Compute the logits `[b, s, v]` of each next token; the arguments are as for `hidden`."""
        return self.logits(self.hidden(tokens, positions, cache, documents))

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits `[..., v]` of hidden states `[..., d]` after the final norm."""
        logits = F.linear(hidden, self.head_weight)
        adapter = self.head_adapter
        if adapter is not None:
            logits = logits + F.linear(*adapter.head_factors(hidden)).to(logits.dtype)
        cap = self.architecture.final_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        documents: Documents | None = None,
        aggregates: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Compute the hidden states after the final norm, from which `logits` computes the logits.

        Args:
            tokens: Token ids `[b, s]`, padded on the right; padding does not affect other tokens.
            positions: `[b or 1, s]`, the position of each token in its sequence. None: 0, 1, 2, ... or, with a cache,
                counted from the cache's length. Without a cache, positions only affect the position encoding: a token
                attends to all tokens to its left, regardless of their positions.
            cache: Keys and values of earlier tokens; the keys and values of the new tokens are added to it.
            documents: The document of each token, if rows contain multiple documents; a token attends only within its
                document, and its position is counted from the document's first token.
            aggregates: Receives the sums that parts of the layers declare (`HasAggregates`), by name and summed over
                all layers; gradients flow through them. None: sums are discarded.

        Returns:
            `[b, s, d]`.

        Raises:
            ValueError: The sequence or the longest document exceeds the `max_seq_len` of the model or the cache, or
                both a cache and documents are passed.
        """
        if documents is not None:
            if cache is not None:
                raise ValueError("a cache supports one document per row; pass either cache or documents")
            positions = documents.positions if positions is None else positions
        start = 0 if cache is None else cache.length
        self._check_length(start + tokens.shape[1] if documents is None else documents.longest, cache)
        shape = PassShape(tokens, hardware_of(tokens.device), positions, start, cache is not None, documents)
        if positions is None:
            positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)[None]  # [1, s]
        x = self.embed_tokens(tokens)  # [b, s, d]
        if self.architecture.embed_scale != 1.0:
            scale = x.new_full((), self.architecture.embed_scale)  # rounded to x's dtype
            x = x * scale
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions)
        rotation = self.rotary(positions, x.dtype)
        local = rotation if self.local_rotary is self.rotary else self.local_rotary(positions, x.dtype)
        spec = self.architecture.attention
        windows = [spec.window_of(i) for i in range(len(self.layers))]
        masks = {window: shape.mask(spec, window, x.dtype) for window in dict.fromkeys(windows)}
        for i, (layer, window) in enumerate(zip(self.layers, windows, strict=True)):
            layer_cache = None if cache is None else cache.layers[i]
            layer_rotation = rotation if window is None else local
            x = layer(x, PassContext(layer_rotation, masks[window], layer_cache))
            if isinstance(x, tuple):  # a layer whose parts have aggregates
                x, sums = x
                if aggregates is not None:
                    add_up(aggregates, sums)
        normed: Tensor = self.norm(x)
        return normed

    def _check_length(self, length: int, cache: KVCache | None) -> None:
        limit, owner = self.architecture.max_seq_len, "the model"
        if cache is not None and cache.max_seq_len < limit:
            limit, owner = cache.max_seq_len, "the cache"
        if length > limit:
            raise ValueError(f"a sequence of {length} tokens exceeds max_seq_len = {limit} of {owner}")
