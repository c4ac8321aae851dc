"""How a token is chosen by its logits."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
from attrs import Attribute, field, frozen
from torch import Tensor

_FILTERS = ("top_k", "top_p", "min_p")


def _rule(expected: str, holds: Callable[[Any], bool]) -> Callable[[Any, "Attribute[Any]", Any], None]:
    """Make a validator of a rule, and of the words that a message has for it."""

    def check(_: Any, attribute: "Attribute[Any]", value: Any) -> None:  # attrs passes the instance.
        if not holds(value):
            raise ValueError(f"{attribute.name}: expected {expected}, got {value}")

    return check


_is_temperature = _rule("a number of at least 0", lambda value: 0 <= value < math.inf)
_is_penalty = _rule("a number above 0", lambda value: 0 < value < math.inf)
_is_count = _rule("a whole number above 0, or None", lambda value: value is None or value >= 1)
_is_share = _rule("a number above 0, up to 1, or None", lambda value: value is None or 0 < value <= 1)


class SamplingOptions(TypedDict, total=False):
    """Fields of `Sampling` as arguments; what is left out has its default."""

    temperature: float
    """What logits are divided by before drawing; 0, the default, takes the likeliest token."""
    top_k: int | None
    """Draw among this many of the likeliest tokens; None is all."""
    top_p: float | None
    """Draw among the fewest that have this share together; None is all."""
    min_p: float | None
    """Draw among those that have this share of the likeliest one's probability; None is all."""
    repetition_penalty: float
    """What makes tokens less likely that are there already; 1 is none."""


@frozen(kw_only=True)
class Sampling:
    """How tokens are chosen: each field in turn changes the logits, in the order and with the numbers of transformers.

    The order is penalty, temperature, top-k, top-p, min-p.

    Raises:
        ValueError: a number is out of its range, or has no effect.
    """

    repetition_penalty: float = field(default=1.0, validator=_is_penalty)
    """What positive logits of tokens in the prompt or the answer are divided by, and negative ones multiplied by (CTRL,
    arXiv 1909.05858, section 4.1); 1 is none."""
    temperature: float = field(default=0.0, validator=_is_temperature)
    """What logits are divided by before drawing; 0 always takes the likeliest token."""
    top_k: int | None = field(default=None, validator=_is_count)
    """Draw among this many of the likeliest tokens, and those as likely as the last of them; None: among all."""
    top_p: float | None = field(default=None, validator=_is_share)
    """Draw among the fewest of the likeliest tokens that have this share together (arXiv 1904.09751); None: all."""
    min_p: float | None = field(default=None, validator=_is_share)
    """Draw among tokens that have this share of the likeliest one's probability (arXiv 2407.01082); None: all."""

    def __attrs_post_init__(self) -> None:
        given = [name for name in _FILTERS if getattr(self, name) is not None]
        if self.temperature == 0 and given:
            raise ValueError(
                f"{given[0]}: has no effect at temperature 0, which takes the likeliest token; raise the temperature,"
                f" or leave {' and '.join(given)} out"
            )

    def choose(self, logits: Tensor, seen: Tensor | None, generators: Sequence[torch.Generator]) -> Tensor:
        """Choose a token for each row of a batch.

        Args:
            logits: `[b, v]`.
            seen: `[b, v]`, True for the tokens of prompt and answer; needed for a repetition penalty alone.
            generators: One a row, each of which gives one number, unless the temperature is 0. The numbers are drawn
                on the generator's own device, so that one on the CPU gives the same answers everywhere.

        Returns:
            Ids `[b]`.
        """
        scores = self.scores(logits, seen)
        if self.temperature == 0:
            return scores.argmax(dim=-1)
        # Sums over a large vocabulary need more than float32, which is all that Apple's GPUs have.
        dtype = torch.float32 if scores.device.type == "mps" else torch.float64
        heaps = torch.softmax(scores.to(dtype), dim=-1).cumsum(dim=-1)  # [b, v]
        heaps = heaps / heaps[:, -1:]  # the last is 1, and every number drawn is below it
        drawn = [torch.rand((), generator=g, dtype=dtype, device=g.device) for g in generators]
        points = torch.stack(drawn).to(heaps.device)[:, None]  # [b, 1]
        return torch.searchsorted(heaps, points, right=True)[:, 0]

    def scores(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """Change logits `[b, v]` as the fields say; what is not to be drawn gets minus infinity.

        Args:
            logits: `[b, v]`.
            seen: As in `choose`.

        Returns:
            `[b, v]`, in float32 at least. At temperature 0 they are penalised only.
        """
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.repetition_penalty != 1:
            assert seen is not None, "a repetition penalty needs to know the tokens so far"
            factor = self.repetition_penalty
            scores = torch.where(seen, torch.where(scores < 0, scores * factor, scores / factor), scores)
        if self.temperature == 0:
            return scores
        scores = scores / self.temperature
        for filtered in (self._top_k, self._top_p, self._min_p):
            scores = filtered(scores)
        return scores

    def _top_k(self, scores: Tensor) -> Tensor:
        if self.top_k is None or self.top_k >= scores.shape[-1]:
            return scores
        least = scores.topk(self.top_k, dim=-1).values[:, -1:]
        return scores.masked_fill(scores < least, -math.inf)

    def _top_p(self, scores: Tensor) -> Tensor:
        if self.top_p is None or self.top_p == 1:
            return scores
        rising, order = scores.sort(dim=-1)
        is_rest = torch.softmax(rising, dim=-1).cumsum(dim=-1) <= 1 - self.top_p
        is_rest[:, -1] = False  # The likeliest stays, whatever it is.
        return scores.masked_fill(is_rest.scatter(-1, order, is_rest), -math.inf)

    def _min_p(self, scores: Tensor) -> Tensor:
        if self.min_p is None:
            return scores
        shares = torch.softmax(scores, dim=-1)
        return scores.masked_fill(shares < self.min_p * shares.amax(dim=-1, keepdim=True), -math.inf)


GREEDY = Sampling()
"""The likeliest token, always."""


def row_generator(seed: int, row: int) -> torch.Generator:
    """Return the source of a row's random numbers, on the CPU.

    It depends on the seed and the row's number alone, so that an answer does not depend on those beside it; a digest
    keeps row 1 of seed 0 apart from row 0 of seed 1.

    Args:
        seed: Of all rows.
        row: The row's number, from 0.
    """
    digest = hashlib.blake2b(f"{seed} {row}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
