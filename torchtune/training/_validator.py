"""Validation during training: the loss of held-out rows, the best model and early stopping."""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from attrs import define, field

from torchtune._pluralize import pluralize
from torchtune.data import Batch, FixedWidths, Item, Tokenizer, total_counts
from torchtune.distributed import World, random_state, set_random_state
from torchtune.generation import eval_mode, generate_batch
from torchtune.modules import Decoder
from torchtune.runs import RunFolder
from torchtune.training._metrics import Metrics, remove_later_lines
from torchtune.training._readback import Readback
from torchtune.training._run import Run
from torchtune.training._score import Scorer, ScoreSums, in_compute_dtype
from torchtune.training._validation import HeldOutSet

_logger = logging.getLogger(__name__)

_STATE_FIELDS = ("best_loss", "best_step", "improved_to", "since_improved", "last_step")
"""Attributes of a validator that are saved in checkpoints."""


@define(eq=False, slots=False)
class Validator:
    """Computes the loss of held-out rows during training, saves the best model, and decides on early stopping.

    The loss is the training loss over all held-out rows. It does not depend on the batch size or the number of ranks:
    terms are summed over all batches and divided once by their counts. Validation does not affect training: it uses no
    dropout, leaves the random state unchanged, and computes no gradients.

    Args:
        held_out: The encoded held-out rows, the same on all ranks; None: no validation.
        model: The model, already placed on its device.
        scorer: The scorer of the training steps; its `prepare` is called with one batch at a time.
        tokenizer: The tokenizer, which pads rows and decodes answers.
        batch_size: Number of examples (or packs) per forward pass on each rank.
        world: The ranks of this run.
        output_dir: The run's folder.
        save: Function that saves the best model; called on all ranks.
        fixed_widths: As in `Batches`.
    """

    _held_out: HeldOutSet | None
    _model: Decoder
    _scorer: Scorer
    _tokenizer: Tokenizer
    _batch_size: int
    _world: World
    _output_dir: str
    _save: Callable[[], None]
    _fixed_widths: bool = field(default=False, kw_only=True)
    best_loss: float | None = field(default=None, init=False)
    """The lowest validation loss so far."""
    best_step: int | None = field(default=None, init=False)
    """The step at which the lowest loss was reached."""
    improved_to: float | None = field(default=None, init=False)
    """The most recent loss that was lower than the previous value of this attribute by more than `min_improvement`."""
    since_improved: int = field(default=0, init=False)
    """Number of validations since `improved_to` changed."""
    last_step: int | None = field(default=None, init=False)
    """The step of the last validation."""

    def __attrs_post_init__(self) -> None:
        held_out = self._held_out
        self._section = None if held_out is None else held_out.section
        items = [] if held_out is None else held_out.items
        # Batch items of similar length, starting with the longest, so that a run that lacks memory fails early.
        self._items = sorted(items, key=lambda item: -item.length)
        self._counts = total_counts(items)
        self._samples = RunFolder(self._output_dir).samples
        self._has_begun = False

    @property
    def should_stop(self) -> bool:
        """Whether to stop early: the loss has not improved for `patience` validations."""
        patience = None if self._section is None else self._section.patience
        return patience is not None and self.since_improved >= patience

    def is_due(self, step: int, *, is_last: bool = False) -> bool:
        """Return whether a validation is due after a step; step 0 is the start of the run."""
        section = self._section
        if section is None or step == self.last_step:
            return False
        if step == 0:
            return section.at_start
        interval = section.every_n_steps
        return is_last or (interval is not None and step % interval == 0)

    def validate_if_due(self, run: Run) -> None:
        """Validate if a validation is due after the current step.

        All ranks must call this before the first step and after every step.
        """
        self._begin(run)
        if not self.is_due(run.step, is_last=run.is_complete):
            return
        run.read_numbers()
        self.validate(run.step, run.metrics)
        if self.should_stop and not run.is_complete:
            run.metrics.note(self._early_stop(run.step))

    def validate(self, step: int, metrics: Metrics) -> float:
        """Compute and report the loss, and save the model if it is the best so far; all ranks must call this.

        Args:
            step: Number of optimizer steps so far.
            metrics: The run's metrics.

        Returns:
            The loss; nats per token for `NextToken`.
        """
        assert self._section is not None
        self._remove_later_answers(step)
        started = time.perf_counter()
        random_numbers = random_state(self._world.device)
        try:
            with eval_mode(self._model):
                loss, reported = self._mean_loss()
            answers = self._answers()
        finally:
            set_random_state(random_numbers, self._world.device)
        finite_loss = loss if math.isfinite(loss) else None
        is_best = self._update_best(finite_loss, step)
        self.last_step = step
        metrics.validated(step, finite_loss, self._counts["targets"], reported, answers, is_best=is_best)
        self._write_answers(step, answers)
        if is_best and self._section.keep_best:
            if step:
                self._save()
            if self._world.is_main:
                best = {"step": step, "validation_loss": loss}
                RunFolder(self._output_dir).update_record({"best": best})
        metrics.exclude_time(time.perf_counter() - started)
        return loss

    def _begin(self, run: Run) -> None:
        """On the first call, print a description of the validation, and remove the later answers of a killed run."""
        if self._section is not None and not self._has_begun:
            interval = self._section.every_n_steps
            schedule = {None: "after the last step", 1: "after every step"}.get(
                interval, f"every {interval} steps"
            )
            run.metrics.note(f"validation: {pluralize(len(self._items), 'held-out row')}, {schedule}")
        self._remove_later_answers(run.step)

    def _remove_later_answers(self, step: int) -> None:
        """On the first call, remove the answers that a killed run wrote after its last checkpoint."""
        if self._world.is_main and self._section is not None and not self._has_begun:
            remove_later_lines(self._samples, step if self.last_step == step else step - 1)
        self._has_begun = True

    def _write_answers(self, step: int, answers: Sequence[tuple[str, str]]) -> None:
        if not self._world.is_main or not answers:
            return
        with self._samples.open("a", encoding="utf-8") as file:
            for prompt, answer in answers:
                line = {"step": step, "prompt": prompt, "answer": answer}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _update_best(self, loss: float | None, step: int) -> bool:
        """Update the lowest loss and the early-stopping count; return whether the loss is the lowest so far.

        A NaN or infinite loss, passed as None, does not count for early stopping.
        """
        assert self._section is not None
        if loss is None:
            return False
        self.since_improved += 1
        if self.improved_to is None or loss < self.improved_to - self._section.min_improvement:
            self.improved_to = loss
            self.since_improved = 0
        if self.best_loss is not None and loss >= self.best_loss:
            return False
        self.best_loss = loss
        self.best_step = step
        return True

    @torch.no_grad()
    def _mean_loss(self) -> tuple[float, dict[str, float]]:
        """Return the loss over all held-out rows, and the reported terms and metrics by name."""
        n_batches = math.ceil(len(self._items) / self._batch_size)
        counts = {**self._counts, "micro_batches": n_batches}
        divisors = self._world.tensor([float(count) for count in counts.values()])
        sums = ScoreSums(dict(zip(counts, divisors, strict=True)), self._world)
        for first_row in range(0, len(self._items), self._batch_size * self._world.data_size):
            first = first_row + self._world.data_rank * self._batch_size
            items = self._items[first : first + self._batch_size]
            batch = self._batch(items).to(self._world.device)
            self._scorer.before_step(self._model, [batch])
            sums.add(self._scorer(self._model, batch), is_counted=not batch.is_filler)
        numbers = Readback(sums.means()).read()
        return numbers["loss"], {name: numbers[name] for name in sums.reported}

    def _batch(self, items: Sequence[Item]) -> Batch:
        """Collate items; without items, build a filler, because all ranks must call the model equally often."""
        kind, pad_id = type(self._items[0]), self._tokenizer.pad_id
        rows = [[item] for item in items or self._items[-1:]]
        batch = kind.collate(rows, pad_id, share_prefixes=False)
        if self._fixed_widths:
            batch = FixedWidths(longest=self._model.architecture.max_seq_len).pad(batch, pad_id)
        return batch if items else batch.as_filler()

    @torch.no_grad()
    def _answers(self) -> list[tuple[str, str]]:
        """Answer the prompts in the compute precision, as in training steps and under FSDP."""
        held_out = self._held_out
        if held_out is None or not held_out.prompts:
            return []
        generate = partial(
            generate_batch,
            self._model,
            held_out.prompts,
            max_new_tokens=held_out.section.max_new_tokens,
            stop_ids=self._tokenizer.stop_ids,
            broadcast=self._world.broadcast,
        )
        generated = in_compute_dtype(self._model, generate)
        answers = [self._tokenizer.decode(ids).strip() for ids in generated]
        return list(zip(held_out.section.prompts, answers, strict=True))

    def _early_stop(self, step: int) -> str:
        assert self._section is not None
        by = f" by more than {self._section.min_improvement:g}" if self._section.min_improvement else ""
        return (
            f"step {step}: early stopping: validation loss has not improved on {self.improved_to:.4f}{by} in"
            f" {pluralize(self.since_improved, 'validation')}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state, for `load_state_dict`."""
        return {"rows": self._rows(), **{name: getattr(self, name) for name in _STATE_FIELDS}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state, unless the saved run had different held-out rows."""
        if state["rows"] in (None, self._rows()):
            for name in _STATE_FIELDS:
                setattr(self, name, state[name])
        elif self._section is not None and self._world.is_main:
            _logger.warning(
                "the held-out rows have changed; the lowest loss and the early-stopping count are reset"
            )

    def _rows(self) -> list[int] | None:
        """Return the numbers of held-out rows and targets, from which changed rows are detected."""
        return None if self._section is None else [len(self._items), self._counts["targets"]]
