"""One optimizer step: the sums over its micro-batches, the counts that divide these sums, and gradient clipping."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from torchtune.data import Batch
from torchtune.distributed import World
from torchtune.modules import is_sharded
from torchtune.training._score import Score, ScoreSums, Term


class StepSums:
    """Sums the scores of an optimizer step's micro-batches.

    All values stay on the device; `Run.update` copies them to the host once per step.

    Args:
        micro_batches: The micro-batches of this rank, on its device.
        world: The ranks of this run, each of which must create a `StepSums` for every step.

    Raises:
        ValueError: The names of the counts differ between micro-batches.
    """

    def __init__(self, micro_batches: Sequence[Batch], world: World) -> None:
        self.micro_batches = micro_batches
        self.losses: list[Tensor] = []
        """The contribution of each micro-batch of this rank to the mean loss, without gradients."""
        self._world = world
        names = sorted(micro_batches[0].counts)  # in the same order on all ranks
        for batch in micro_batches:
            if batch.counts.keys() != micro_batches[0].counts.keys():
                raise ValueError(f"micro-batches have different counts: {names} and {sorted(batch.counts)}")
        counts = [float(sum(batch.counts[name] for batch in micro_batches)) for name in names]
        n_batches = sum(not batch.is_filler for batch in micro_batches)
        summed = world.sum(world.tensor([*counts, float(n_batches)]))
        self.counts: dict[str, Tensor] = dict(zip([*names, "micro_batches"], summed, strict=True))
        """The divisors of terms by name: scalars, summed over the micro-batches of all ranks except fillers."""
        self.total_count = summed[:-1].sum()
        """Sum of all counts in the batches; 0 if the step has no targets."""
        self._sums = ScoreSums(self.counts, world)

    def add(self, score: Score) -> Tensor:
        """Add the score of the next micro-batch.

        Args:
            score: The score.

        Returns:
            The contribution to the loss, a scalar from which gradients flow: the sum of the terms, each divided by its
            count, times the number of ranks, because gradients are averaged over ranks. It is 0 for a filler.

        Raises:
            ValueError: The micro-batches lack the count of a term, or the names differ from earlier scores.
        """
        is_filler = self.micro_batches[len(self.losses)].is_filler
        self._sums.add(score, is_counted=not is_filler)
        parts = [self._divided(term.total, term) for term in score.terms.values()]
        loss = sum(parts[1:], parts[0])
        if is_filler:
            loss = loss * 0.0
        self.losses.append(loss.detach())
        return loss * self._world.data_size

    def _divided(self, total: Tensor, term: Term) -> Tensor:
        # bf16 and fp16 cannot represent every count exactly.
        dtype = torch.promote_types(total.dtype, torch.float32)
        mean = total.to(dtype) / self.counts[term.count].clamp(min=1).to(dtype)
        return mean if term.coefficient == 1.0 else mean * term.coefficient

    def means(self, extra_sums: Mapping[str, float]) -> dict[str, Tensor]:
        """Sum over the ranks and divide by the counts (`ScoreSums.means`); all ranks must call this exactly once."""
        return self._sums.means(extra_sums)

    @property
    def reported(self) -> list[str]:
        """The names reported in addition to the loss: metrics, and the terms if there are several."""
        return self._sums.reported


def clip_gradients(model: nn.Module, max_norm: float | None, factor: Tensor | float = 1.0) -> Tensor:
    """Clip the gradients of a model to a maximum norm, in place.

    Args:
        model: The model. If its gradients are sharded, all ranks must call this.
        max_norm: The maximum norm; None: no clipping.
        factor: The factor of the losses (`LossScale.factor`); gradients are divided by it before clipping.

    Returns:
        The L2 norm of the full gradient before clipping, a scalar on the gradient's device. If it is not finite, the
        clipped gradient is undefined and must not be used for an update.
    """
    trained = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in trained if p.grad is not None]
    if isinstance(factor, Tensor) or factor != 1.0:
        for gradient in gradients:
            divisor = factor.to(gradient.device) if isinstance(factor, Tensor) else factor
            gradient.div_(divisor)  # on the CPU if gradients are offloaded
    norm = nn.utils.get_total_norm(gradients)
    if is_sharded(norm):
        norm = norm.full_tensor()
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
    return norm
