"""The section of a config that says which rows are held out, and what follows from their loss."""

import logging
from collections.abc import Sequence
from typing import Annotated, Any

from attrs import Attribute, define, field, frozen
from torch.utils.data import Dataset

from torchtune.config import Component, FieldError, Passed, above, at_least
from torchtune.data import (
    Encoded,
    Item,
    ItemT,
    LeftOut,
    LengthLimit,
    Rows,
    Tally,
    Tokenizer,
    Unlearnable,
    items_of,
    place_of,
    spread,
    truncate,
)
from torchtune.generation import Prompt, Template, check_prompt, encode_prompt
from torchtune.modules import Decoder

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

    dataset: Annotated[Component[Dataset[Encoded[Item]]] | None, Passed(1)] = None
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

    def hold_out(self, rows: Rows[Item], tokenizer: Tokenizer, model: Decoder) -> "HeldOut":
        """Encode the held-out rows and the prompts.

        Args:
            rows: `dataset`, or its share of the training dataset.
            tokenizer: Encodes prompts, through its chat template, or Alpaca's where it has none.
            model: Gives the longest sequence; a longer one is cut at its end. It may be on the meta device.

        Raises:
            ValueError: No row has a target, or a prompt is too long.
        """
        items = held_out_items(rows, self.max_rows, model.architecture.max_seq_len)
        template: Template = "alpaca" if tokenizer.chat_template is None else "chat"
        encoded = [encode_prompt(tokenizer, Prompt.of_text(prompt), template) for prompt in self.prompts]
        for prompt, ids in zip(self.prompts, encoded, strict=True):
            check_prompt(model, ids, self.max_new_tokens, f"validation.prompts: {prompt[:40]!r}")
        return HeldOut(self, items, encoded)


@frozen
class HeldOut:
    """What a validation looks at, encoded."""

    section: Validation
    items: Sequence[Item]
    """Those of the rows that have a target."""
    prompts: list[list[int]]
    """The ids of each of the section's prompts."""


def held_out_items(rows: Rows[ItemT], max_rows: int | None, longest: int) -> list[ItemT]:
    """Encode the rows that a validation looks at.

    Args:
        rows: The dataset.
        max_rows: How many at most, spread over it; None: all.
        longest: Positions that the model has; a longer sequence is cut at its end.

    Raises:
        ValueError: None of them has a target.
    """
    n = len(rows)
    chosen = spread(rows, n if max_rows is None else max_rows)
    items: list[ItemT] = []
    tally = Tally()
    for i in chosen:
        encoded = rows[i]
        if isinstance(encoded, LeftOut):
            tally.add([encoded.note], encoded.place)
            continue
        for item in items_of(encoded):
            fitted = truncate(item, LengthLimit(sequence=longest))
            if isinstance(fitted, Item) and not fitted.counts["targets"]:
                fitted = Unlearnable(f"have no target within {longest} tokens")
            if isinstance(fitted, Unlearnable):
                tally.add([*item.notes, fitted.note], place_of(rows, i))
                continue
            items.append(fitted)
            if fitted.notes:
                tally.add(fitted.notes, place_of(rows, i))
    lines = tally.lines(len(chosen))
    if not items:
        raise ValueError(f"validation: none of {len(chosen)} held-out rows has a target; {'; '.join(lines)}")
    for line in lines:
        _logger.warning("validation: %s", line)
    return items
