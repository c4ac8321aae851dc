"""The loss of rows that are not trained on, and what a run does with it."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import torch
from attrs import Attribute, define, field, frozen
from torch.utils.data import Dataset

from torchtune.config import Component, FieldError, Passed, above, at_least
from torchtune.data import (
    Batch,
    Encoded,
    Example,
    Examples,
    LeftOut,
    LengthLimit,
    Tally,
    Tokenizer,
    Unlearnable,
    collate,
    items_of,
    place_of,
    spread,
    truncate,
)
from torchtune.generation import Prompt, Template, check_prompt, encode_prompt, evaluating, generate_batch
from torchtune.modules import Decoder
from torchtune.runs import RunFolder
from torchtune.training._metrics import Metrics, cut_back
from torchtune.training._random import random_state, set_random_state
from torchtune.training._state import State
from torchtune.training._step import StepLoss
from torchtune.training._world import World

_logger = logging.getLogger(__name__)


def _one_source(section: "Validation", _: "Attribute[Any]", value: float | None) -> None:
    if value is not None and not 0 < value < 1:
        raise FieldError(f"expected a number above 0 and below 1, got {value}", "share")
    if (value is None) == (section.dataset is None):
        both = "both are given" if value is not None else "neither is"
        message = f"rows are held out of the training dataset, or read from `dataset`; {both}"
        raise FieldError(message, "share", "dataset")


@define(kw_only=True)
class Validation:
    """How often rows that are not trained on are looked at, and what follows from their loss."""

    dataset: Annotated[Component[Dataset[Encoded[Example]]] | None, Passed(1)] = None
    """Those rows; the recipe passes the tokenizer. Null: some of the training dataset's."""
    share: float | None = field(default=None, validator=_one_source)
    """Share of the training dataset's rows that are held out, drawn from the seed, and not trained on."""
    max_rows: int | None = field(default=None, validator=above(0))
    """Rows that are looked at, spread over the dataset; null: all."""
    batch_size: int | None = field(default=None, validator=above(0))
    """Rows of one forward pass on each rank; null: as in training. The loss does not depend on it."""
    every_n_steps: int | None = field(default=100, validator=above(0))
    """Optimizer steps between two validations; there is one after the last step in any case. Null: only there."""
    at_start: bool = True
    """Begin with one before the first step."""
    keep_best: bool = True
    """Keep the model with the lowest loss in `best/`, as `final/` keeps the last."""
    patience: int | None = field(default=None, validator=above(0))
    """Validations in a row without a lower loss that end the run, which is finished then; null: none do."""
    min_improvement: float = field(default=0.0, validator=at_least(0))
    """How much lower a loss must be to count for `patience` (nats a token)."""
    prompts: list[str] = field(factory=list)
    """What the model is asked at every validation, in its chat template or Alpaca's; `samples.jsonl` has answers."""
    max_new_tokens: int = field(default=64, validator=above(0))
    """Tokens after which such an answer is cut off."""


@frozen
class HeldOut:
    """What a validation looks at, encoded."""

    section: Validation
    examples: list[Example]
    """Those of the rows that have a target."""
    prompts: list[list[int]]
    """The ids of each of the section's prompts."""


@define(eq=False, slots=False)
class Validator:
    """Computes the loss of held-out rows between a run's steps, keeps the best model, and ends the run early.

    The loss is the mean over all target tokens of all rows, whatever the batches and the ranks are: a sum in fp64 of
    the batches' sums. Nothing of it changes what is trained: no dropout, no random number, no gradient.

    Args:
        held_out: What is looked at, the same on all ranks; None: there is no validation.
        model: Placed.
        loss_fn: The training step's.
        tokenizer: Fills rows up, and decodes answers.
        batch_size: Rows of a forward pass.
        state: Keeps the lowest loss and when it was.
        metrics: Are told.
        world: This process and its fellows.
        save: Writes the model into a folder beside `final/`; all ranks call it.
    """

    _held_out: HeldOut | None
    _model: Decoder
    _loss_fn: StepLoss
    _tokenizer: Tokenizer
    _batch_size: int
    _state: State
    _metrics: Metrics
    _world: World
    _save: Callable[[str], None]

    def __attrs_post_init__(self) -> None:
        held_out = self._held_out
        self._section = None if held_out is None else held_out.section
        examples = [] if held_out is None else held_out.examples
        self._prompts = [] if held_out is None else held_out.prompts
        # Rows of like length stand together, and the longest come first: what does not fit fails at once.
        self._examples = sorted(examples, key=lambda example: -len(example.tokens))
        self._n_targets = sum(example.n_targets for example in examples)
        self._samples = RunFolder(self._state.output_dir).samples
        if held_out is not None and self._world.is_main:
            cut_back(self._samples, self._state.step)
        self._forget_other_rows()

    def between(self, steps: Iterator[int]) -> Iterator[int]:
        """Pass on the numbers of steps, with validations between them; fewer if the loss falls no more.

        A validation comes before what `steps` does behind its step, such as writing a checkpoint. All ranks must go
        through them.
        """
        if self._section is None:
            yield from steps
            return
        if self._section.at_start and self._state.step == 0:
            self.validate()
        for step in steps:
            yield step
            every = self._section.every_n_steps
            if step == self._state.total_steps or (every is not None and step % every == 0):
                self.validate()
                if self._has_lost_patience():
                    return

    def validate(self) -> float:
        """Compute the loss now, tell it, and keep the model if it is the best so far; all ranks must call it.

        Returns:
            The mean over target tokens, nats.
        """
        assert self._section is not None
        begun = time.perf_counter()
        random_numbers = random_state(self._world.device)
        try:
            with evaluating(self._model):
                loss = self._mean_loss()
            answers = self._answers()
        finally:
            set_random_state(random_numbers, self._world.device)
        step = self._state.step
        finite_loss = loss if math.isfinite(loss) else None
        is_lower = self._judge(finite_loss)
        self._metrics.validated(step, finite_loss, self._n_targets, answers, is_best=is_lower)
        if self._world.is_main and answers:
            with self._samples.open("a", encoding="utf-8") as file:
                for prompt, answer in answers:
                    line = {"step": step, "prompt": prompt, "answer": answer}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if is_lower and self._section.keep_best and step:
            self._save("best")
        self._metrics.pass_over(time.perf_counter() - begun)
        return loss

    def _judge(self, loss: float | None) -> bool:
        """Remember a loss if it is the lowest, and whether it is lower by as much as is asked for.

        One that is no number tells nothing about how well the rows are learnt, so that it costs no patience.
        """
        assert self._section is not None
        state = self._state
        if loss is None:
            return False
        state.since_improved += 1
        if state.improved_to is None or loss < state.improved_to - self._section.min_improvement:
            state.improved_to = loss
            state.since_improved = 0
        if state.best_loss is not None and loss >= state.best_loss:
            return False
        state.best_loss = loss
        state.best_step = state.step
        return True

    @torch.no_grad()
    def _mean_loss(self) -> float:
        total = 0.0
        for first_of_all in range(0, len(self._examples), self._batch_size * self._world.data_size):
            first = first_of_all + self._world.data_rank * self._batch_size
            batch = self._batch(self._examples[first : first + self._batch_size])
            total += self._loss_fn(self._model, batch.to(self._world.device)).item()
        return self._world.data_sum(total) / self._n_targets

    def _batch(self, examples: Sequence[Example]) -> Batch:
        """Collate; a rank without a row goes along with one that has no target, as all must go through the model."""
        if examples:
            return collate(examples, self._tokenizer.pad_id)
        return collate(self._examples[-1:], self._tokenizer.pad_id).without_targets()

    def _answers(self) -> list[tuple[str, str]]:
        if self._section is None or not self._prompts:
            return []
        generated = generate_batch(
            self._model,
            self._prompts,
            max_new_tokens=self._section.max_new_tokens,
            stop_ids=self._tokenizer.stop_ids,
        )
        answers = [self._tokenizer.decode(ids).strip() for ids in generated]
        return list(zip(self._section.prompts, answers, strict=True))

    def _has_lost_patience(self) -> bool:
        assert self._section is not None
        state = self._state
        patience = self._section.patience
        if patience is None or state.since_improved < patience or state.step == state.total_steps:
            return False
        by = f" by more than {self._section.min_improvement:g}" if self._section.min_improvement else ""
        self._metrics.note(
            f"step {state.step}: the run ends early: at {state.since_improved} validations in a row the loss was not"
            f" below {state.improved_to:.4f}{by}"
        )
        return True

    def _forget_other_rows(self) -> None:
        """Begin anew with the lowest loss, if that of the saved run was of other rows."""
        rows = [len(self._examples), self._n_targets] if self._section is not None else None
        if self._state.held_out_rows not in (None, rows):
            if self._world.is_main:
                _logger.warning(
                    "the validation's rows are not those of before; its lowest loss is looked for anew"
                )
            self._state.best_loss = self._state.best_step = self._state.improved_to = None
            self._state.since_improved = 0
        self._state.held_out_rows = rows


def hold_out(section: Validation, rows: Examples, tokenizer: Tokenizer, model: Decoder) -> HeldOut:
    """Encode what a validation looks at.

    Args:
        section: The config's.
        rows: The dataset that it names, or its share of another.
        tokenizer: Encodes prompts, through its chat template, or Alpaca's where it has none.
        model: Tells how many positions there are; a longer example is cut at its end. It may be on the meta device.

    Raises:
        ValueError: No row has a target, or a prompt is too long.
    """
    examples = held_out_examples(rows, section.max_rows, model.architecture.max_seq_len)
    template: Template = "alpaca" if tokenizer.chat_template is None else "chat"
    encoded = [encode_prompt(tokenizer, Prompt.of_text(prompt), template) for prompt in section.prompts]
    for prompt, ids in zip(section.prompts, encoded, strict=True):
        check_prompt(model, ids, section.max_new_tokens, f"validation.prompts: {prompt[:40]!r}")
    return HeldOut(section, examples, encoded)


def held_out_examples(rows: Examples, max_rows: int | None, longest: int) -> list[Example]:
    """Encode the rows that a validation looks at.

    Args:
        rows: The dataset.
        max_rows: How many at most, spread over it; None: all.
        longest: Positions that the model has; a longer example is cut at its end.

    Raises:
        ValueError: None of them has a target.
    """
    n = len(rows)
    chosen = spread(rows, n if max_rows is None else max_rows)
    examples: list[Example] = []
    tally = Tally()
    for i in chosen:
        encoded = rows[i]
        if isinstance(encoded, LeftOut):
            tally.add([encoded.note], encoded.place)
            continue
        for example in items_of(encoded):
            fitted = truncate(example, LengthLimit(sequence=longest))
            if isinstance(fitted, Example) and not fitted.n_targets:
                fitted = Unlearnable(f"have no target within {longest} tokens")
            if isinstance(fitted, Unlearnable):
                tally.add([*example.notes, fitted.note], place_of(rows, i))
                continue
            examples.append(fitted)
            if fitted.notes:
                tally.add(fitted.notes, place_of(rows, i))
    lines = tally.lines(len(chosen))
    if not examples:
        raise ValueError(f"validation: none of {len(chosen)} held-out rows has a target; {'; '.join(lines)}")
    for line in lines:
        _logger.warning("validation: %s", line)
    return examples
