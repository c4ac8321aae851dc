"""A training run, called by the recipe's loop: resuming, optimizer steps, metrics, checkpoints and stopping."""

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Self

from attrs import frozen
from torch import Tensor
from torch.optim import Optimizer

from torchtune._pluralize import pluralize
from torchtune.config import instantiate
from torchtune.config.model import fixed_tree
from torchtune.data import Batch, Batches
from torchtune.distributed import GarbageCollection, Stopped, StopRequests, World
from torchtune.modules import Decoder, hardware_of
from torchtune.placement import resolve_dtype
from torchtune.runs import RunFolder
from torchtune.training._checkpoint_saver import CheckpointSaver
from torchtune.training._finetune_config import FinetuneConfig
from torchtune.training._flops import peak_flops, step_flops, tf32_peak_flops
from torchtune.training._global_batch import GlobalBatch
from torchtune.training._metrics import Metrics
from torchtune.training._non_finite import NonFiniteGuard
from torchtune.training._readback import Readback
from torchtune.training._resolved import record_resolved
from torchtune.training._scaling import LossScale
from torchtune.training._schedules import Schedule
from torchtune.training._score import RESERVED, raise_for_name_conflicts
from torchtune.training._state import State, Stateful
from torchtune.training._step import StepSums
from torchtune.training._step_values import StepValues
from torchtune.training._summary import start_summary
from torchtune.training._tokenizer_files import check_tokenizer_files


@frozen
class _Pending:
    """A step whose values have not been read on the host yet."""

    step: int
    lr: float
    launched_at: float
    """Time at which the host had launched all work of the step (s, `time.perf_counter`)."""
    micro_batches: Sequence[Batch]
    reported: Mapping[str, float]
    readback: Readback
    is_last: bool


class Run:
    """A run of optimizer steps, which resumes from the newest checkpoint in its folder.

    Use it as a context manager around the loop.

    Args:
        cfg: The run's config.
        model: The model, already placed on its device; its trained parameters are those with `requires_grad`.
        optimizer: The optimizer of the trained parameters.
        schedule: The learning rate schedule of the optimizer.
        batches: The batches of this rank.
        world: The ranks of this run.
        parts: Additional stateful parts to include in checkpoints, by name, such as the validator.
        synchronous: Whether the host waits for the device after each step to read the step's values. If False, the
            values are read one step later, and the device skips updates if the optimizer's kernels support it. None:
            False on CUDA, else True.

    Raises:
        ConfigError: The tokenizer's folder lacks the tokenizer files that are saved with the weights.
        ValueError: The newest checkpoint is damaged, belongs to a different run, or is past the last step of this run.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - a run consists of all of these.
        self,
        cfg: FinetuneConfig,
        model: Decoder,
        optimizer: Optimizer,
        schedule: Schedule,
        batches: Batches[Any],
        world: World,
        *,
        parts: Mapping[str, Stateful] = MappingProxyType({}),
        synchronous: bool | None = None,
    ) -> None:
        if world.is_main:  # rank 0 saves the model; other ranks may not have the folder
            check_tokenizer_files(cfg, model)
        self._cfg, self._model, self._batches = cfg, model, batches
        self._total_steps = schedule.total_steps
        self._synchronous = not hardware_of(world.device).is_cuda if synchronous is None else synchronous
        dtype = resolve_dtype(cfg.dtype, world.device)
        record_resolved(cfg.output_dir, world, "dtype", cfg.dtype, dtype)
        compiles = cfg.placement.compiles(hardware_of(world.device))
        record_resolved(
            cfg.output_dir, world, "placement.compile", cfg.placement.compile, str(compiles).lower()
        )
        self.loss_scale = LossScale(dtype, world.device)
        self._optimizer, self._schedule, self._world = optimizer, schedule, world
        self._guard = NonFiniteGuard(
            cfg.non_finite,
            self.loss_scale,
            batches.dataset,
            world,
            RunFolder(cfg.output_dir),
            on_device=not self._synchronous,
        )
        is_frozen = any(not p.requires_grad for p in model.parameters())
        self.state = State(
            cfg.output_dir,
            model,
            optimizer,
            {
                "schedule": schedule,
                "batches": batches,
                "global_batch": GlobalBatch(cfg.batch_size, cfg.gradient_accumulation_steps, world),
                "scale": self.loss_scale,
                "guard": self._guard,
                **parts,
            },
            world=world,
            base=cfg.model_directory if is_frozen else None,
            config=fixed_tree(cfg),
        )
        self.state.resume()
        self._check_length()
        self._flops = step_flops(model)
        self.metrics = _build_metrics(cfg, world, self.state.step, schedule.total_steps)
        self._checkpoint_saver = CheckpointSaver(cfg.checkpoints, self.state, batches, world)
        self._stop_requests = StopRequests(
            world, RunFolder(cfg.output_dir).resume_hint(), lambda: self.state.save_seconds
        )
        self._garbage = GarbageCollection(world)
        self._stack = ExitStack()
        self._pending: _Pending | None = None

    @property
    def step(self) -> int:
        """Number of optimizer steps taken so far."""
        return self.state.step

    @property
    def is_complete(self) -> bool:
        """Whether the run is complete: all epochs are read, or the step limit is reached."""
        limit = self._cfg.step_limit
        if limit is not None and self.step >= limit:
            return True
        return self._cfg.max_steps is None and self._batches.epoch >= self._cfg.epochs

    def __enter__(self) -> Self:
        self._stack.enter_context(self.metrics)
        self._stack.enter_context(self._stop_requests)
        self._stack.enter_context(self._garbage)
        for line in self._summary():
            self.metrics.note(line)
        return self

    def _summary(self) -> Iterator[str]:
        """Yield the lines to print before the first step, on rank 0."""
        if not self._world.is_main:
            return
        yield from start_summary(self._cfg, self._model, self._batches, self._world, self._total_steps)
        if self.step:
            yield f"resuming from {self.state.last_checkpoint()}, after step {self.step}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Report the last step and wait for pending checkpoints, unless the run failed on one of multiple ranks."""
        try:
            if error is None:
                self._finish()
            elif self._world.size == 1 and isinstance(error, Exception):
                self._finish_after(error)
        finally:
            self._stack.__exit__(kind, error, trace)

    def _finish(self) -> None:
        try:
            self.read_numbers()
            self._check_extension()
            if not self._guard.n_updates:
                raise ValueError(
                    f"the model was not trained: every step was skipped ({pluralize(self.step, 'step')}); see"
                    " metrics.jsonl"
                )
        finally:
            self.state.wait()

    def _check_extension(self) -> None:
        """Raise ValueError if an extended run took no step, which is known only after its checkpoint is loaded."""
        folder = RunFolder(self._cfg.output_dir)
        (is_unchanged,) = self._world.any(self.step == folder.extended_at)
        if not is_unchanged:
            return
        if self._world.is_main:
            folder.finish()
        advice = "early stopping ended it (validation.patience); choose a different output_dir"
        if self.is_complete:
            advice = "it has already reached the limit set by epochs or the step limits; raise that limit"
        raise ValueError(f"the run was not extended beyond step {self.step}: {advice}")

    def _finish_after(self, error: Exception) -> None:
        """Finish after an error in the loop; add any further errors to that error as notes."""
        for finish in (self.read_numbers, self.state.wait):
            try:
                finish()
            except Exception as other:
                error.add_note(f"a second error followed: {type(other).__name__}: {other}")

    def update(self, sums: StepSums, grad_norm: Tensor, **reported: float) -> None:
        """Update the parameters, the learning rate and the loss scale, and report the step; all ranks must call this.

        The update is skipped if the loss or gradient is not finite (`NonFiniteGuard`). The learning rate depends only
        on the number of steps, including skipped steps.

        Args:
            sums: The scores of the step's micro-batches.
            grad_norm: The result of `clip_gradients`.
            **reported: Additional values for `metrics.jsonl`, the loggers and plots, equal on all ranks.

        Raises:
            ValueError: The name of an additional value is already in use.
            FloatingPointError: The loss or gradient of this or the previous step is not finite, and ends the run.
        """
        raise_for_name_conflicts(reported.keys() & (RESERVED | {*sums.reported}))
        self.read_numbers()  # values of the previous step; if they are not finite, its update was skipped
        self.state.step += 1
        batches = sums.micro_batches
        extra_sums = {
            "n_tokens": float(sum(batch.n_tokens for batch in batches)),
            "n_positions": float(sum(batch.tokens.numel() for batch in batches)),
            "n_padding": float(sum(batch.n_padding for batch in batches)),
            "flops": self._flops(batches),
        }
        numbers = sums.means(extra_sums)
        numbers["total_count"] = sums.total_count
        numbers["loss_scale"] = self.loss_scale.on(sums.total_count.device)
        numbers["grad_norm"] = grad_norm.to(sums.total_count.device)  # on the CPU if gradients are offloaded
        self._guard.update(self._optimizer, numbers["loss"], numbers["grad_norm"], sums.total_count)
        losses = {f"loss of micro-batch {i}": loss for i, loss in enumerate(sums.losses)}
        readback = Readback(
            {**{name: numbers[name] for name in (*_STEP_SCALARS, *extra_sums, *sums.reported)}, **losses}
        )
        self.metrics.end_profiled_step()
        launched_at = time.perf_counter()
        self._pending = _Pending(
            self.step, self._schedule.lr, launched_at, batches, reported, readback, self.is_complete
        )
        self._schedule.step()
        self._garbage.collect_if_due(self.step)
        if self._synchronous:
            self.read_numbers()

    def read_numbers(self) -> None:
        """Read and report the values of the last step if they have not been read yet; all ranks must call this.

        Raises:
            FloatingPointError: The loss or gradient of that step is not finite, and ends the run.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        numbers = pending.readback.read()
        # If the host had to wait, the device has only just finished the step.
        ended_at = time.perf_counter() if pending.readback.has_waited else pending.launched_at
        values = _build_step_values(pending, numbers, self.metrics.step_seconds(ended_at))
        reason = self._guard.skip_reason(values)
        if reason is None:
            self.metrics.log(values)
        else:
            self.metrics.skip(values, reason)

    def save_if_due(self) -> None:
        """Write a checkpoint if one is due or a signal requested a stop; all ranks must call this.

        Raises:
            Stopped: A signal requested a stop; a checkpoint of the last step is written.
            OSError: A checkpoint cannot be written.
            FloatingPointError: As for `read_numbers`; no checkpoint of that step is written.
        """
        self.state.check()
        is_due = self._checkpoint_saver.is_due()
        is_due |= self.is_complete and self._checkpoint_saver.is_enabled
        is_due, stops = self._world.any(is_due, self._stop_requests.received is not None)
        if is_due or stops:
            self.read_numbers()
            self._checkpoint_saver.save()
        if stops and not self.is_complete:
            self._stop()

    def _stop(self) -> None:
        self.state.wait()
        self._world.barrier()
        number = self._stop_requests.received or signal.SIGTERM
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after step {self.step} of {self._total_steps};"
            f" checkpoint written to {self.state.last_checkpoint()}; {RunFolder(self.state.output_dir).resume_hint()}",
            number,
        )

    def _check_length(self) -> None:
        """Raise ValueError if the config ends the run before the step from which it resumes."""
        cfg, batches = self._cfg, self._batches
        epochs = batches.epoch + (not batches.is_between_epochs)  # including the current epoch
        if cfg.step_limit is not None and self.step > cfg.step_limit:
            end = f"the {pluralize(cfg.step_limit, 'step')}"
        elif self.step and cfg.max_steps is None and epochs > cfg.epochs:
            end = f"the {pluralize(cfg.epochs, 'epoch')}"
        else:
            return
        raise ValueError(
            f"the run is already at step {self.step} of epoch {epochs}, past {end} of its config; raise epochs or the"
            " step limits, or choose a different output_dir"
        )


_STEP_SCALARS = ("loss", "grad_norm", "loss_scale", "total_count")


def _build_step_values(pending: _Pending, numbers: dict[str, float], seconds: float) -> StepValues:
    losses = [numbers.pop(f"loss of micro-batch {i}") for i in range(len(pending.micro_batches))]
    scalars = {
        name: numbers.pop(name) for name in (*_STEP_SCALARS, "n_tokens", "n_positions", "n_padding", "flops")
    }
    return StepValues(
        step=pending.step,
        lr=pending.lr,
        seconds=seconds,
        losses=losses,
        micro_batches=pending.micro_batches,
        is_last=pending.is_last,
        reported={**numbers, **pending.reported},
        **scalars,
    )


def _build_metrics(cfg: FinetuneConfig, world: World, step: int, total_steps: int) -> Metrics:
    """Build the metrics of a run, with its loggers on rank 0."""
    dtype = resolve_dtype(cfg.dtype, world.device)
    loggers = cfg.metric_logger if isinstance(cfg.metric_logger, list) else [cfg.metric_logger]
    return Metrics(
        cfg.output_dir,
        [instantiate(logger) for logger in loggers if logger is not None and world.is_main],
        world,
        step,
        total_steps,
        log_every=cfg.log_every_n_steps,
        peak=tf32_peak_flops(world.device) if cfg.placement.tf32 else peak_flops(world.device, dtype),
        profiling=cfg.profiling,
    )
