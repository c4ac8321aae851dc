"""The language model: tokens in, logits out."""

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn

from torchtune.modules._adapter import Adapter
from torchtune.modules._architecture import Architecture
from torchtune.modules._context import PassContext, add_up
from torchtune.modules._decoder_layer import DecoderLayer
from torchtune.modules._documents import Documents
from torchtune.modules._kv_cache import KVCache
from torchtune.modules._linear import Embedding, Linear
from torchtune.modules._parts import HasReset


class Decoder(nn.Module):
    """A decoder-only transformer: as a rule with RMS norms, rotary positions and gated feed-forwards.

    It holds parameters only, no buffers: one built on the meta device is complete once its parameters
    are loaded, or once `to_empty` and `init_weights` have been called.

    Args:
        architecture: Its sizes and constants; kept as `architecture`.
    """

    compute_dtype: torch.dtype | None = None
    """What trained parameters are cast to for a forward pass of training; None: they are used as they are."""

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
        """Draw all weights anew, adapters among them, as they are drawn when a model is built."""
        for module in self.modules():
            if isinstance(module, HasReset):
                module.reset_parameters()

    @property
    def head_weight(self) -> Tensor:
        """The output head `[v, d]`, without an adapter; `head` has it."""
        return self._head_layer.weight

    @torch.no_grad()
    def untie(self) -> None:
        """Give a model whose output head is its embedding table a head of its own, a copy of the table, in place."""
        assert self.architecture.tied_embeddings
        self.architecture = evolve(self.architecture, tied_embeddings=False)
        weight = self.embed_tokens.weight
        self.lm_head = Linear(weight.shape[1], weight.shape[0], device="meta")
        self.lm_head.weight = nn.Parameter(weight.clone(), requires_grad=weight.requires_grad)

    @property
    def head_adapter(self) -> Adapter | None:
        """The adapter that the output head has now; None: it has none, or it is disabled."""
        adapter = self._head_layer.adapter
        return adapter if adapter is not None and adapter.is_enabled else None

    @property
    def _head_layer(self) -> Embedding | Linear:
        return self.embed_tokens if self.architecture.tied_embeddings else self.lm_head

    def head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs x `[..., d']` and a weight W `[v, d']` of which `x W^T` are the logits, before a softcap.

        They are the hidden states and the output head. If the head has an adapter, the inputs and the rows of its
        change are appended to them, so that the small change is not rounded to the precision of the head: a copy of the
        head is made, which has a gradient of the same size.

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
        """Compute the logits `[b, s, v]` of each next token; the arguments are those of `hidden`."""
        return self.logits(self.hidden(tokens, positions, cache, documents))

    def logits(self, hidden: Tensor) -> Tensor:
        """Turn hidden states `[..., d]` behind the final norm into logits `[..., v]`."""
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
        """Compute the hidden states after the final norm, which `head` turns into logits.

        Args:
            tokens: Ids `[b, s]`. Padding goes on the right; what stands there reaches no other token.
            positions: `[b or 1, s]`, each token's place in its sequence. None: 0, 1, 2, ... or, with a
                cache, on from its length. Without a cache they only turn queries and keys: a token sees
                all tokens to its left, wherever they say they are.
            cache: What the model has seen before, to which these tokens are added.
            documents: Which document each token belongs to, where rows hold several; a token sees its own
                document alone, and its position is counted from that document's first token.
            aggregates: Where sums that parts of the layers want to have in the loss are added, by name, over all layers
                (`HasAggregates`); gradients flow from them. None: they are not needed.

        Returns:
            `[b, s, d]`.

        Raises:
            ValueError: the sequence, or the longest of the documents, is longer than the model's or the cache's
                `max_seq_len`, or there are both a cache and documents.
        """
        if documents is not None:
            if cache is not None:
                raise ValueError("a cache holds one document a row; leave documents out")
            positions = documents.positions if positions is None else positions
        start = 0 if cache is None else cache.length
        self._check_length(start + tokens.shape[1] if documents is None else documents.longest, cache)
        windows = [self.architecture.attention.window_of(i) for i in range(len(self.layers))]
        masks: dict[int | None, Tensor | None] = dict.fromkeys(windows)
        if documents is None:
            masks = self._masks({*windows}, tokens, positions, start, has_cache=cache is not None)
        if positions is None:
            positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)[None]  # [1, s]
        x = self.embed_tokens(tokens)  # [b, s, d]
        if self.architecture.embed_scale != 1.0:
            x = x * torch.tensor(self.architecture.embed_scale, dtype=x.dtype, device=x.device)
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions)
        rotation = self.rotary(positions, x.dtype)
        local = rotation if self.local_rotary is self.rotary else self.local_rotary(positions, x.dtype)
        for i, (layer, window) in enumerate(zip(self.layers, windows, strict=True)):
            layer_cache = None if cache is None else cache.layers[i]
            turns = rotation if window is None else local
            x = layer(x, PassContext(turns, masks[window], layer_cache, documents))
            if isinstance(x, tuple):  # a layer whose parts have aggregates
                x, sums = x
                if aggregates is not None:
                    add_up(aggregates, sums)
        normed: Tensor = self.norm(x)
        return normed

    def _masks(
        self,
        windows: set[int | None],
        tokens: Tensor,
        positions: Tensor | None,
        start: int,
        *,
        has_cache: bool,
    ) -> dict[int | None, Tensor | None]:
        """Return what queries see, `[b or 1, 1, s, keys]`, by the sliding window of a layer.

        None is the plain causal mask, or a single token that sees every key.
        """
        length = tokens.shape[1]
        keys = start + length
        slots = torch.arange(keys, device=tokens.device)
        # With a cache, a row's own positions say where its tokens stand; without, their place in the row does.
        at = slots[None, start:] if positions is None or not has_cache else positions  # [b or 1, s]
        at = at[:, None, :, None]  # [b or 1, 1, s, 1]
        is_plain = (positions is None and (start == 0 or length == 1)) or not has_cache
        full = None if is_plain else slots <= at
        return {
            window: full if window is None or keys <= window else (slots <= at) & (slots > at - window)
            for window in windows
        }

    def _check_length(self, length: int, cache: KVCache | None) -> None:
        limit, owner = self.architecture.max_seq_len, "the model"
        if cache is not None and cache.max_seq_len < limit:
            limit, owner = cache.max_seq_len, "the cache"
        if length > limit:
            raise ValueError(f"a sequence of {length} tokens is longer than max_seq_len = {limit} of {owner}")
