"""Compute the logits of a checkpoint layer by layer, and the change caused by rounding its weights."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor, nn

from torchtune.formats._checkpoint import Checkpoint
from torchtune.formats._tensor_files import TensorSource
from torchtune.formats.hf._open import open_hf
from torchtune.formats.hf._weights import iter_weights
from torchtune.modules import Decoder
from torchtune.tokenizers import auto_tokenizer, has_tokenizer

_TEXT = "The quick brown fox jumps over the lazy dog. What is 12 times 12?"
_N_TOKENS = 16
_LARGE_CHANGE = 0.1
"""A change in a logit that changes a token's odds by about a tenth."""


@frozen
class LogitChange:
    """The absolute change in the logits for a few tokens."""

    largest: float
    mean: float
    n_tokens: int
    dtype: torch.dtype
    """The narrowest dtype of the written weights."""

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        text = (
            f"merging changed the logits of {self.n_tokens} tokens by at most {self.largest:.2g} ({self.mean:.2g} on"
            f" average), since weights are rounded to {dtype}"
        )
        if self.largest > _LARGE_CHANGE and self.dtype.itemsize < 4:
            text += "; to avoid this, use --dtype float32, or keep the adapter separate (--keep-adapter)"
        return text


def logit_change(before: Checkpoint, folder: str | os.PathLike[str]) -> LogitChange:
    """Compare the logits of a checkpoint, in float32, with the logits of the Hugging Face folder written from it.

    Only the weights of one layer at a time are in memory.

    Args:
        before: The checkpoint; its weights may be computed when they are read, as merged weights are.
        folder: The Hugging Face folder.
    """
    after = open_hf(Path(folder))
    tokens = _tokens(Path(folder), after.model)
    before_logits, after_logits = (compute_logits(c.model, c.weights, tokens) for c in (before, after))
    change = after_logits - before_logits
    narrowest = min(after.weights.dtypes.values(), key=lambda dtype: dtype.itemsize)
    return LogitChange(change.abs().max().item(), change.abs().mean().item(), len(tokens), narrowest)


def _tokens(folder: Path, model: Decoder) -> list[int]:
    a = model.architecture
    if has_tokenizer(folder):
        tokens = auto_tokenizer(str(folder)).encode(_TEXT, add_eos=False)
    else:
        tokens = [i * a.vocab_size // _N_TOKENS for i in range(_N_TOKENS)]
    return tokens[: min(_N_TOKENS, a.max_seq_len)]


@torch.no_grad()
def compute_logits(model: Decoder, weights: TensorSource, tokens: Sequence[int]) -> Tensor:
    """Compute logits `[s, v]` in float32, with only the weights of one part of the model at a time in memory.

    Args:
        model: A model of this architecture.
        weights: The weights, by Hugging Face name.
        tokens: Token ids.
    """
    with torch.device("meta"):
        model = Decoder(model.architecture)
    parts = [f"layers.{i}" for i in range(len(model.layers))]
    parts += [name for name, _ in model.named_children() if name not in ("layers", "lm_head")]
    for name in parts:
        part = model.get_submodule(name)
        part.register_forward_pre_hook(lambda *_, name=name: _load(model, weights, name))
        part.register_forward_hook(lambda part, *_: _unload(part))
    hidden = model.hidden(torch.tensor([tokens]))  # [1, s, d]
    _load(model, weights, "embed_tokens" if model.architecture.tied_embeddings else "lm_head")
    return model.logits(hidden)[0]


def _load(model: Decoder, weights: TensorSource, part: str) -> None:
    for name, tensor in iter_weights(model, weights, f"{part}."):
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, nn.Parameter(tensor.float(), requires_grad=False))


def _unload(part: nn.Module) -> None:
    part.to("meta")
