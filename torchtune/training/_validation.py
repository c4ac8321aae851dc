"""The section of a config for validation, and the encoded held-out rows."""

import logging
from collections.abc import Sequence
from typing import Annotated, Any

from attrs import Attribute, define, field, frozen
from torch.utils.data import Dataset

from torchtune._counted import counted
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
        both = "both are set" if value is not None else "neither is set"
        message = f"set `share`, to hold rows out of the training dataset, or `dataset`; {both}"
        raise FieldError(message, "share", "dataset")


@define(kw_only=True)
class Validation:
    """Which rows are held out of training, how often their loss is computed, and what it decides."""

    dataset: Annotated[Component[Dataset[Encoded[Item]]] | None, Passed(1)] = None
    """The held-out rows; the recipe passes the tokenizer. Null: a share of the training dataset."""
    share: float | None = field(default=None, validator=_one_source)
    """Share of the training dataset's rows that are held out, drawn by the seed."""
    max_rows: int | None = field(default=None, validator=above(0))
    """Rows of a validation, evenly spaced over the dataset; null: all."""
    batch_size: int | None = field(default=None, validator=above(0))
    """Rows of one forward pass on each rank; null: as in training. The loss does not depend on it."""
    every_n_steps: int | None = field(default=100, validator=above(0))
    """Optimizer steps between two validations; there is always one after the last step. Null: only that one."""
    at_start: bool = True
    """Validate before the first step as well."""
    keep_best: bool = True
    """Keep the model with the lowest loss in `best/`, as `final/` keeps the last."""
    patience: int | None = field(default=None, validator=above(0))
    """Validations in a row without a lower loss that end the run (early stopping); null: never."""
    min_improvement: float = field(default=0.0, validator=at_least(0))
    """How much lower a loss must be to count for `patience` (nats a token)."""
    prompts: list[str] = field(factory=list)
    """Prompts for every validation, in the chat template or Alpaca's; `samples.jsonl` gets the answers."""
    max_new_tokens: int = field(default=64, validator=above(0))
    """Longest answer (tokens)."""

    def hold_out(self, rows: Rows[Item], tokenizer: Tokenizer, model: Decoder) -> "HeldOut":
        """Encode the held-out rows and the prompts.

        Args:
            rows: `dataset`, or its share of the training dataset.
            tokenizer: Encodes prompts, with its chat template, or Alpaca's if it has none.
            model: Limits the length of sequences, which are cut at their end. It may be on the meta device.

        Raises:
            ValueError: No row has a target, or a prompt is too long.
        """
        items = held_out_items(rows, self.max_rows, model.architecture.max_seq_len)
        return HeldOut(self, items, self.encode_prompts(tokenizer, model))

    def encode_prompts(self, tokenizer: Tokenizer, model: Decoder) -> list[list[int]]:
        """Encode the prompts; the arguments are those of `hold_out`.

        Raises:
            ValueError: A prompt is too long.
        """
        template: Template = "alpaca" if tokenizer.chat_template is None else "chat"
        encoded = [encode_prompt(tokenizer, Prompt.of_text(prompt), template) for prompt in self.prompts]
        for prompt, ids in zip(self.prompts, encoded, strict=True):
            check_prompt(model, ids, self.max_new_tokens, f"validation.prompts: {prompt[:40]!r}")
        return encoded


@frozen
class HeldOut:
    """Encoded held-out rows and prompts."""

    section: Validation
    items: Sequence[Item]
    """The rows that have a target."""
    prompts: list[list[int]]
    """Token ids of each of the section's prompts."""


def held_out_items(rows: Rows[ItemT], max_rows: int | None, longest: int) -> list[ItemT]:
    """Encode the rows of a validation.

    Args:
        rows: The dataset.
        max_rows: How many at most, evenly spaced; None: all.
        longest: Positions of the model; longer sequences are cut at their end.

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
        raise ValueError(
            f"validation: none of {counted(len(chosen), 'held-out row')} has a target; {'; '.join(lines)}"
        )
    for line in lines:
        _logger.warning("validation: %s", line)
    return items
