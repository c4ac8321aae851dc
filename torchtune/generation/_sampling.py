"""Choose tokens from logits by greedy decoding or sampling."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
from attrs import Attribute, field, frozen
from torch import Tensor

from torchtune.modules import hardware_of

_FILTERS = ("top_k", "top_p", "min_p")


def _rule(expected: str, holds: Callable[[Any], bool]) -> Callable[[Any, "Attribute[Any]", Any], None]:
    """Build an attrs validator from a rule and its description for error messages."""

    def check(_: Any, attribute: "Attribute[Any]", value: Any) -> None:  # attrs passes the instance first
        if not holds(value):
            raise ValueError(f"{attribute.name}: expected {expected}, got {value}")

    return check


_is_temperature = _rule("a number of at least 0", lambda value: 0 <= value < math.inf)
_is_penalty = _rule("a number above 0", lambda value: 0 < value < math.inf)
_is_count = _rule("a whole number above 0, or None", lambda value: value is None or value >= 1)
_is_fraction = _rule("a number above 0 and at most 1, or None", lambda value: value is None or 0 < value <= 1)


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keyword arguments; each is optional."""

    temperature: float
    """Divisor of the logits; 0, the default, is greedy decoding."""
    top_k: int | None
    """Sample from the k most likely tokens; None: from all tokens."""
    top_p: float | None
    """Sample from the smallest set of tokens with this total probability; None: from all tokens."""
    min_p: float | None
    """Sample from tokens with at least this fraction of the highest probability; None: from all tokens."""
    repetition_penalty: float
    """Penalty for tokens that already occur; 1 disables it."""


@frozen(kw_only=True)
class Sampling:
    """Options for choosing tokens.

    The options are applied to the logits in the same order as in transformers, with the same results: repetition
    penalty, temperature, top-k, top-p, min-p.

    Raises:
        ValueError: An option is out of range or has no effect.
    """

    repetition_penalty: float = field(default=1.0, validator=_is_penalty)
    """Divisor of the positive and factor of the negative logits of tokens that occur in the prompt or the answer (CTRL,
    arXiv 1909.05858, section 4.1); 1 disables the penalty."""
    temperature: float = field(default=0.0, validator=_is_temperature)
    """Divisor of the logits; 0 is greedy decoding."""
    top_k: int | None = field(default=None, validator=_is_count)
    """Sample from this number of the most likely tokens, and from ties with the last of them; None: from all."""
    top_p: float | None = field(default=None, validator=_is_fraction)
    """Sample from the smallest set of most likely tokens with this total probability (arXiv 1904.09751); None: all."""
    min_p: float | None = field(default=None, validator=_is_fraction)
    """Sample from tokens with at least this fraction of the highest probability (arXiv 2407.01082); None: all."""

    def __attrs_post_init__(self) -> None:
        active_filters = [name for name in _FILTERS if getattr(self, name) is not None]
        if self.temperature == 0 and active_filters:
            raise ValueError(
                f"{active_filters[0]} has no effect at temperature 0 (greedy decoding); raise the temperature, or omit"
                f" {' and '.join(active_filters)}"
            )

    def choose(
        self, logits: Tensor, seen_tokens: Tensor | None, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Choose a token for each row of a batch.

        Args:
            logits: `[b, v]`.
            seen_tokens: `[b, v]`, True for tokens of the prompt and the answer; only a repetition penalty requires it.
            generators: One per batch row; each draws one number unless the temperature is 0. Numbers are drawn on the
                generator's device, so CPU generators give the same answers on every device.

        Returns:
            Token ids `[b]`.
        """
        scores = self.scores(logits, seen_tokens)
        if self.temperature == 0:
            return scores.argmax(dim=-1)
        # Sums over a large vocabulary need float64; Apple's GPUs support float32 at most.
        dtype = torch.float32 if scores.device.type == "mps" else torch.float64
        cumulative = _cumulative_sum(torch.softmax(scores.to(dtype), dim=-1))  # [b, v]
        cumulative = cumulative / cumulative[:, -1:]  # ends in 1, above every drawn number
        draws = [torch.rand((), generator=g, dtype=dtype, device=g.device) for g in generators]
        points = torch.stack(draws).to(cumulative.device)[:, None]  # [b, 1]
        return torch.searchsorted(cumulative, points, right=True)[:, 0]

    def scores(self, logits: Tensor, seen_tokens: Tensor | None = None) -> Tensor:
        """Apply the penalty, temperature and filters to logits `[b, v]`; excluded tokens get minus infinity.

        Args:
            logits: `[b, v]`.
            seen_tokens: As in `choose`.

        Returns:
            `[b, v]`, in float32 or wider. At temperature 0, only the penalty is applied.
        """
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.repetition_penalty != 1:
            assert seen_tokens is not None, "a repetition penalty needs seen_tokens"
            factor = self.repetition_penalty
            scores = torch.where(
                seen_tokens, torch.where(scores < 0, scores * factor, scores / factor), scores
            )
        if self.temperature == 0:
            return scores
        scores = scores / self.temperature
        for apply_filter in (self._top_k, self._top_p, self._min_p):
            scores = apply_filter(scores)
        return scores

    def _top_k(self, scores: Tensor) -> Tensor:
        if self.top_k is None or self.top_k >= scores.shape[-1]:
            return scores
        lowest = scores.topk(self.top_k, dim=-1).values[:, -1:]
        return scores.masked_fill(scores < lowest, -math.inf)

    def _top_p(self, scores: Tensor) -> Tensor:
        if self.top_p is None or self.top_p == 1:
            return scores
        ascending, order = scores.sort(dim=-1)
        is_excluded = _cumulative_sum(torch.softmax(ascending, dim=-1)) <= 1 - self.top_p
        is_excluded[:, -1] = False  # The most likely token is never excluded.
        return scores.masked_fill(is_excluded.scatter(-1, order, is_excluded), -math.inf)

    def _min_p(self, scores: Tensor) -> Tensor:
        if self.min_p is None:
            return scores
        probs = torch.softmax(scores, dim=-1)
        return scores.masked_fill(probs < self.min_p * probs.amax(dim=-1, keepdim=True), -math.inf)


def _cumulative_sum(probs: Tensor) -> Tensor:
    """Sum probabilities `[b, v]` over preceding tokens; in deterministic mode, the host sums those of a GPU.

    `Tensor.cumsum` on CUDA is not deterministic, and raises an error in that mode (`use_deterministic_algorithms`).
    """
    if hardware_of(probs.device).is_cuda and torch.are_deterministic_algorithms_enabled():
        return probs.cpu().cumsum(dim=-1).to(probs.device)
    return probs.cumsum(dim=-1)


GREEDY = Sampling()
"""Greedy decoding, which always chooses the most likely token."""


def row_generator(seed: int, row: int) -> torch.Generator:
    """Return a CPU generator for one batch row.

    The generator depends only on the seed and the row's index, so an answer does not depend on other rows of the batch.
    The seed and the index are hashed together, so that row 1 of seed 0 differs from row 0 of seed 1.

    Args:
        seed: Seed of the batch.
        row: Index of the row, from 0.
    """
    digest = hashlib.blake2b(f"{seed} {row}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
