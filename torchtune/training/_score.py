"""Scores: the loss terms of a micro-batch, each of which is a sum and the name of the count that divides it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Self, TypeVar

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from torchtune.data import Batch
from torchtune.distributed import World
from torchtune.modules import Decoder, Documents, LinearCrossEntropy, is_sharded, token_log_probs
from torchtune.placement import reduce_gradients

T = TypeVar("T")


@frozen(eq=False)
class Term:
    """A sum over a micro-batch that is either part of the loss or only reported."""

    total: Tensor
    """The sum, a scalar; gradients flow from it if it is part of the loss."""
    count: str = "targets"
    """The count that divides the sum: a name in `Batch.counts`, summed over the micro-batches of all ranks, or
    "micro_batches", their number."""
    coefficient: float = 1.0
    """Coefficient of the term in the loss."""


@frozen(eq=False)
class Score:
    """The result of a scorer for a micro-batch; the names are the same in every micro-batch of a run."""

    terms: Mapping[str, Term]
    """The terms of the loss by name; if there are several, each is also reported separately."""
    metrics: Mapping[str, Term] = field(factory=dict)
    """Sums that are reported in addition to the loss, each divided by its count; no gradients flow from them."""

    @property
    def sums(self) -> dict[str, Term]:
        """Terms and metrics by name."""
        return {**self.terms, **self.metrics}

    def without_graphs(self) -> Self:
        """Return a copy detached from the autograd graph, which would otherwise stay in memory."""
        terms, metrics = (
            {name: evolve(term, total=term.total.detach()) for name, term in sums.items()}
            for sums in (self.terms, self.metrics)
        )
        return evolve(self, terms=terms, metrics=metrics)


_METRIC_NAMES = {
    "step",
    "loss",
    "lr",
    "grad_norm",
    "tokens_per_second",
    "padding_fraction",
    "peak_memory_bytes",
    "mfu",
}
_INTERNAL_NAMES = {"n_tokens", "n_positions", "n_padding", "total_count", "flops", "loss_scale"}
RESERVED = frozenset(_METRIC_NAMES | _INTERNAL_NAMES)
"""Names of values that every run reports or reads from the device; terms and metrics must not use them."""


def raise_for_name_conflicts(conflicts: Collection[str]) -> None:
    """Raise ValueError if any names of terms, metrics or reported values are already in use.

    Args:
        conflicts: The names that are already in use.

    Raises:
        ValueError: `conflicts` is not empty.
    """
    if conflicts:
        name = min(conflicts)
        reason = (
            "reserved for a built-in metric" if name in RESERVED else "used by another term, metric or value"
        )
        raise ValueError(f"the name {name!r} is {reason}; rename the term or metric")


def check_score(score: Score, counts: Collection[str]) -> None:
    """Check the names in a score, and that a count exists for each term and metric.

    Args:
        score: The score of a micro-batch.
        counts: The names of the available counts.

    Raises:
        ValueError: There is no term, a name is already in use, or a count does not exist.
    """
    if not score.terms:
        raise ValueError("a score needs at least one term")
    duplicates = score.terms.keys() & score.metrics.keys()
    raise_for_name_conflicts(duplicates or RESERVED & score.sums.keys())
    for name, term in score.sums.items():
        if term.count not in counts:
            raise ValueError(f"{name}: batches have no count {term.count!r}; expected {', '.join(counts)}")


class ScoreSums:
    """Sums scores on their device, and divides every term and metric once by its count.

    Args:
        counts: The divisors by name: scalars, summed over all ranks.
        world: The ranks of this run.
    """

    def __init__(self, counts: Mapping[str, Tensor], world: World) -> None:
        self._counts, self._world = counts, world
        self._totals: dict[str, Tensor] = {}
        self._last = Score({})

    def add(self, score: Score, *, is_counted: bool = True) -> None:
        """Add a score.

        Args:
            score: The score, with the same names as earlier scores.
            is_counted: Whether to add the values; False for a filler, which contributes only its names.

        Raises:
            ValueError: As for `check_score`, or the names differ from the names in earlier scores.
        """
        check_score(score, self._counts)
        if self._totals and self._totals.keys() != score.sums.keys():
            raise ValueError(
                f"the scores of the micro-batches have different terms: {sorted(self._totals)} and {sorted(score.sums)}"
            )
        self._last = score.without_graphs()
        for name, term in self._last.sums.items():
            total = term.total.to(self._world.sum_dtype)
            total = total if is_counted else torch.zeros_like(total)  # not `* 0`: the total may be NaN
            self._totals[name] = self._totals[name] + total if name in self._totals else total

    def means(self, extra_sums: Mapping[str, float] = MappingProxyType({})) -> dict[str, Tensor]:
        """Sum the totals over the ranks and divide them by the counts; all ranks must call this exactly once.

        Args:
            extra_sums: Additional values of this rank to sum over the ranks.

        Returns:
            Scalars on the device by name: the mean of every term and metric, the mean `loss`, and the extra sums.
        """
        names = sorted(self._totals)  # in the same order on all ranks
        totals = torch.stack([self._totals[name] for name in names])
        summed = self._world.sum(torch.cat([totals, self._world.tensor(list(extra_sums.values()))]))
        numbers = dict(zip([*names, *extra_sums], summed, strict=True))
        for name, term in self._last.sums.items():
            numbers[name] = numbers[name] / self._counts[term.count].clamp(min=1)
        loss = sum(numbers[name] * term.coefficient for name, term in self._last.terms.items())
        return {**numbers, "loss": torch.as_tensor(loss)}

    @property
    def reported(self) -> list[str]:
        """The names reported in addition to the loss: metrics, and the terms if there are several."""
        return [*(self._last.terms if len(self._last.terms) > 1 else ()), *self._last.metrics]


class Scorer(ABC):
    """Computes a recipe's loss.

    A subclass defines `score`, and `prepare` if the loss depends on quantities of a whole optimizer step. A scorer
    with state to checkpoint defines `state_dict` and `load_state_dict`, and is passed to `Run` in `parts`.
    """

    _last_batch: Batch | None = None
    """The last micro-batch of the current step."""

    @abstractmethod
    def score(self, model: Decoder, batch: Batch) -> Score:
        """Compute the sums of a micro-batch.

        Args:
            model: The model in training mode; its trained parameters are in the compute precision.
            batch: The micro-batch, on the model's device.
        """

    def prepare(self, model: Decoder, micro_batches: Sequence[Batch]) -> None:  # noqa: B027 - optional.
        """Compute quantities of a whole optimizer step, such as KTO's KL divergence, before the step's first score.

        No gradients are recorded. To sum over all ranks, use `World.sum`, which all ranks must call in the same order.
        All ranks must call the model the same number of times, so fillers (`Batch.is_filler`) are computed like any
        other batch but excluded from sums.

        Args:
            model: As for `score`.
            micro_batches: This rank's micro-batches of the step, on the model's device.
        """

    def __call__(self, model: Decoder, batch: Batch) -> Score:
        """Score a micro-batch, with the trained parameters cast to the compute precision."""
        if torch.is_grad_enabled():
            reduce_gradients(model, is_last=self._last_batch is None or batch is self._last_batch)
        return in_compute_dtype(model, lambda: self.score(model, batch))

    @torch.no_grad()
    def before_step(self, model: Decoder, micro_batches: Sequence[Batch]) -> None:
        """Call `prepare` if the scorer defines it; recipes call this once per step, before the first score."""
        self._last_batch = micro_batches[-1]
        if type(self).prepare is not Scorer.prepare:
            in_compute_dtype(model, lambda: self.prepare(model, micro_batches))


class NextToken(Scorer):
    """The next-token loss, summed over targets.

    The output head is applied only at positions with a target. A `LinearCrossEntropy` is called with the hidden states
    and the head's weight, and never stores all logits. Any other loss, such as `torch.nn.CrossEntropyLoss`, is called
    with the logits and labels. A batch without a target has a loss of 0 and zero gradients.

    Args:
        loss: The loss, built with `reduction="sum"`.
    """

    def __init__(self, loss: nn.Module) -> None:
        self._loss = loss

    def score(self, model: Decoder, batch: Batch) -> Score:
        """Sum the loss over the targets of a micro-batch."""
        aggregates: dict[str, Tensor] = {}
        hidden, labels = target_states(model, batch, aggregates)
        return Score({"next_token": Term(self._total(model, hidden, labels)), **aggregate_terms(aggregates)})

    def _total(self, model: Decoder, hidden: Tensor, labels: Tensor) -> Tensor:
        if isinstance(self._loss, LinearCrossEntropy):
            total: Tensor = self._loss(*model.head(hidden), labels, model.architecture.final_softcap)
            return total
        logits = model.logits(hidden)  # [n, v]
        return _call_loss(self._loss, _at_least_float32(logits), labels)


def target_states(
    model: Decoder, batch: Batch, aggregates: dict[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the hidden states at positions with a target.

    Args:
        model: The model.
        batch: The micro-batch, on the model's device.
        aggregates: Receives the sums that layers add to the loss, for `aggregate_terms`.

    Returns:
        The hidden states `[n, d]` and the target ids `[n]`, in the order of `batch.target_positions`.
    """
    documents = Documents(batch.spans, batch.span_table) if batch.spans else None
    hidden = model.hidden(batch.tokens, documents=documents, aggregates=aggregates)  # [b, s, d]
    labels = batch.labels.flatten().index_select(0, batch.target_positions)  # [n]
    return hidden.flatten(0, 1).index_select(0, batch.target_positions), labels  # [n, d], [n]


def target_log_probs(model: Decoder, batch: Batch, aggregates: dict[str, Tensor] | None = None) -> Tensor:
    """Compute the log-probability of each target, without storing all logits.

    Args:
        model: The model.
        batch: The micro-batch, on the model's device.
        aggregates: As for `target_states`.

    Returns:
        Log-probabilities `[n]` (nats, float32 or wider), in the order of `batch.target_positions`; sum them per
        sequence with `Batch.sum_by_sequence`.
    """
    hidden, labels = target_states(model, batch, aggregates)
    return token_log_probs(*model.head(hidden), labels, softcap=model.architecture.final_softcap)


def aggregate_terms(aggregates: Mapping[str, Tensor]) -> dict[str, Term]:
    """Convert sums that layers add to the loss, such as a router's load balance, into terms of a score.

    Each sum is averaged over the micro-batches of a step; the layer that adds it sets its scale (`PassContext.add`).
    """
    return {name: Term(total, "micro_batches") for name, total in aggregates.items()}


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _call_loss(loss: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
    """Call a loss; an error of a torch.nn loss is raised as a ValueError about the config's `loss`."""
    try:
        total: Tensor = loss(logits, labels)
    except (RuntimeError, ValueError, TypeError) as error:
        if not type(loss).__module__.startswith("torch.nn") or "allocat" in str(error):
            raise
        shapes = f"logits {list(logits.shape)} with labels {list(labels.shape)}"
        reason = str(error).partition("\n")[0]
        raise ValueError(f"loss: {type(loss).__name__} does not accept {shapes}: {reason}") from error
    return total


class _Call(nn.Module):
    """A module that contains a model and calls a function, so that `functional_call` can replace the parameters."""

    def __init__(self, model: Decoder, function: Callable[[], T]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self) -> T:  # type: ignore[type-var]  # the type of the function's result
        """Call the function."""
        return self.function()  # type: ignore[return-value]  # as above


def in_compute_dtype(model: Decoder, function: Callable[[], T]) -> T:
    """Call a function with the trained parameters of a model cast to the compute precision.

    Gradients flow back to the original parameters. Sharded parameters are cast by FSDP instead.

    Args:
        model: The model, already placed on its device (`Placement.place`).
        function: The function, which calls the model.
    """
    dtype = model.compute_dtype
    casts = {
        f"model.{name}": p.to(dtype)
        for name, p in model.named_parameters()
        if dtype is not None and p.requires_grad and p.dtype != dtype and not is_sharded(p)
    }
    result: T = torch.func.functional_call(_Call(model, function), casts, ())
    return result
