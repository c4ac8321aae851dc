"""The loss of held-out rows between a run's steps."""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from torchtune.data import Batch, Item, Tokenizer, total_counts
from torchtune.generation import evaluating, generate_batch
from torchtune.modules import Decoder
from torchtune.runs import RunFolder
from torchtune.training._metrics import Metrics, cut_back
from torchtune.training._random import random_state, set_random_state
from torchtune.training._run import Run
from torchtune.training._score import Score, Scorer, check_counts
from torchtune.training._validation import HeldOut
from torchtune.training._world import World

_logger = logging.getLogger(__name__)


@define(eq=False, slots=False)
class Validator:
    """Computes the loss of held-out rows between a run's steps, keeps the best model, and tells when to stop early.

    The loss is that of training over all held-out rows, whatever the batches and the ranks are: sums of the batches'
    terms, each divided once by its count. Nothing of it changes what is trained: no dropout, no random number, no
    gradient.

    Args:
        held_out: The rows, the same on all ranks; None: there is no validation.
        model: Placed.
        scorer: The training step's. It prepares each batch by itself.
        tokenizer: Pads rows, and decodes answers.
        batch_size: Rows of a forward pass.
        world: The ranks of this run.
        output_dir: The run's folder.
        save: Writes the best model; all ranks call it.
    """

    _held_out: HeldOut | None
    _model: Decoder
    _scorer: Scorer
    _tokenizer: Tokenizer
    _batch_size: int
    _world: World
    _output_dir: str
    _save: Callable[[], None]
    best_loss: float | None = field(default=None, init=False)
    """The lowest loss so far."""
    best_step: int | None = field(default=None, init=False)
    """The step of the validation that had it."""
    improved_to: float | None = field(default=None, init=False)
    """The last loss that was lower by more than `min_improvement`."""
    since_improved: int = field(default=0, init=False)
    """Validations after it."""
    last_step: int | None = field(default=None, init=False)
    """The step after which the last validation was."""

    def __attrs_post_init__(self) -> None:
        held_out = self._held_out
        self._section = None if held_out is None else held_out.section
        items = [] if held_out is None else held_out.items
        # Items of similar length are next to each other, and the longest come first: what does not fit fails at once.
        self._items = sorted(items, key=lambda item: -item.length)
        self._counts = total_counts(items)
        self._samples = RunFolder(self._output_dir).samples

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the loss has not fallen for as many validations as are allowed."""
        patience = None if self._section is None else self._section.patience
        return patience is not None and self.since_improved >= patience

    def is_due(self, step: int, total_steps: int) -> bool:
        """Tell whether a validation is due after a step, 0 being the start of the run."""
        section = self._section
        if section is None or step == self.last_step:
            return False
        if step == 0:
            return section.at_start
        every = section.every_n_steps
        return step == total_steps or (every is not None and step % every == 0)

    def validate_if_due(self, run: Run) -> None:
        """Compute the loss if it is due after the run's step, and keep the model if it is the best so far.

        All ranks must call it, before the first step and after every step.
        """
        if not self.is_due(run.step, run.total_steps):
            return
        run.read_numbers()
        self.validate(run.step, run.metrics)
        if self.is_out_of_patience and run.step < run.total_steps:
            run.metrics.note(self._early_stop(run.step))

    def validate(self, step: int, metrics: Metrics) -> float:
        """Compute the loss now, report it, and keep the model if it is the best so far; all ranks must call it.

        Args:
            step: Optimizer steps so far.
            metrics: Report it.

        Returns:
            The loss: nats a token, with the loss of the next token.
        """
        assert self._section is not None
        started = time.perf_counter()
        random_numbers = random_state(self._world.device)
        try:
            with evaluating(self._model):
                loss, reported = self._mean_loss()
            answers = self._answers()
        finally:
            set_random_state(random_numbers, self._world.device)
        finite_loss = loss if math.isfinite(loss) else None
        is_best = self._judge(finite_loss, step)
        self.last_step = step
        metrics.validated(step, finite_loss, self._counts["targets"], reported, answers, is_best=is_best)
        self._write_answers(step, answers)
        if is_best and self._section.keep_best and step:
            self._save()
        metrics.exclude_time(time.perf_counter() - started)
        return loss

    def _write_answers(self, step: int, answers: Sequence[tuple[str, str]]) -> None:
        if not self._world.is_main or not answers:
            return
        cut_back(self._samples, step - 1)  # what a killed run wrote after its last checkpoint
        with self._samples.open("a", encoding="utf-8") as file:
            for prompt, answer in answers:
                line = {"step": step, "prompt": prompt, "answer": answer}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _judge(self, loss: float | None, step: int) -> bool:
        """Remember a loss if it is the lowest, and whether it is lower by as much as is asked for.

        One that is not finite tells nothing about how well the rows are learnt, so that it costs no patience.
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
        """Return the loss over all held-out rows, and terms and metrics by name."""
        totals: dict[str, Tensor] = {}
        score = Score({})
        for first_of_all in range(0, len(self._items), self._batch_size * self._world.data_size):
            first = first_of_all + self._world.data_rank * self._batch_size
            items = self._items[first : first + self._batch_size]
            batch = self._batch(items).to(self._world.device)
            self._scorer.before_step(self._model, [batch])
            score = self._scorer(self._model, batch)
            for name, term in {**score.terms, **score.metrics}.items():
                total = term.total.to(self._world.sum_dtype)
                # A rank without an item takes part in the forward pass only: its batch repeats one of another rank's.
                total = total if items else torch.zeros_like(total)
                totals[name] = totals[name] + total if name in totals else total
        summed = self._world.sum(torch.stack(list(totals.values())))
        sums = dict(zip(totals, summed.tolist(), strict=True))
        terms = {**score.terms, **score.metrics}
        n_batches = math.ceil(len(self._items) / self._batch_size)
        counts = {**self._counts, "micro_batches": n_batches}
        check_counts(score, counts)
        means = {name: value / max(counts[terms[name].count], 1) for name, value in sums.items()}
        loss = sum(means[name] * term.coefficient for name, term in score.terms.items())
        shown = [*(score.terms if len(score.terms) > 1 else ()), *score.metrics]
        return loss, {name: means[name] for name in shown}

    def _batch(self, items: Sequence[Item]) -> Batch:
        """Collate; a rank without a row joins in with one that has no target, as all must go through the model."""
        kind, pad_id = type(self._items[0]), self._tokenizer.pad_id
        if items:
            return kind.collate([[item] for item in items], pad_id, share_prefixes=False)
        return kind.collate([self._items[-1:]], pad_id, share_prefixes=False).without_targets()

    def _answers(self) -> list[tuple[str, str]]:
        held_out = self._held_out
        if held_out is None or not held_out.prompts:
            return []
        generated = generate_batch(
            self._model,
            held_out.prompts,
            max_new_tokens=held_out.section.max_new_tokens,
            stop_ids=self._tokenizer.stop_ids,
        )
        answers = [self._tokenizer.decode(ids).strip() for ids in generated]
        return list(zip(held_out.section.prompts, answers, strict=True))

    def _early_stop(self, step: int) -> str:
        assert self._section is not None
        by = f" by more than {self._section.min_improvement:g}" if self._section.min_improvement else ""
        return (
            f"step {step}: the run ends early: at {self.since_improved} validations in a row the loss was not"
            f" below {self.improved_to:.4f}{by}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        names = ("best_loss", "best_step", "improved_to", "since_improved", "last_step")
        return {"rows": self._rows(), **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue; if the saved run had other held-out rows, with no lowest loss yet."""
        rows = state.pop("rows")
        if rows is None or rows == self._rows():
            for name, value in state.items():
                setattr(self, name, value)
        elif self._world.is_main:
            _logger.warning(
                "the validation's rows are not those of before; its lowest loss is looked for anew"
            )

    def _rows(self) -> list[int] | None:
        """Return what tells held-out rows from others."""
        return None if self._section is None else [len(self._items), self._counts["targets"]]
