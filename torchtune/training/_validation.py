"""The config section for validation, and the encoded held-out rows."""

import logging
from collections.abc import Sequence
from typing import Annotated, Any

from attrs import Attribute, define, field, frozen
from torch.utils.data import Dataset

from torchtune._pluralize import pluralize
from torchtune.config import Component, FieldError, Passed, above, at_least
from torchtune.data import (
    Encoded,
    Item,
    ItemT,
    LengthLimit,
    NoteCounts,
    Rows,
    SkippedRow,
    SkipReason,
    Tokenizer,
    as_items,
    location_of,
    sample_indices,
    truncate,
)
from torchtune.generation import Prompt, Template, check_prompt, encode_prompt
from torchtune.modules import Decoder

_logger = logging.getLogger(__name__)


def _one_source(section: "Validation", _: "Attribute[Any]", value: float | None) -> None:
    if value is not None and not 0 < value < 1:
        raise FieldError(f"expected a number above 0 and below 1, got {value}", "fraction")
    if (value is None) == (section.dataset is None):
        problem = "both are set" if value is not None else "neither is set"
        message = f"set either `dataset`, or `fraction` to hold out rows of the training dataset; {problem}"
        raise FieldError(message, "fraction", "dataset")


@define(kw_only=True)
class Validation:
    """Selection of held-out rows, frequency of validation, and use of the results."""

    dataset: Annotated[Component[Dataset[Encoded[Item]]] | None, Passed(1)] = None
    """The validation dataset; the recipe passes the tokenizer. Null: rows of the training dataset (`fraction`)."""
    fraction: float | None = field(default=None, validator=_one_source)
    """Fraction of the training rows to hold out, chosen at random using `seed`."""
    max_rows: int | None = field(default=None, validator=above(0))
    """Maximum number of held-out rows to use, evenly spaced over the dataset; null: all."""
    batch_size: int | None = field(default=None, validator=above(0))
    """Number of examples (or packs) per forward pass on each rank; null: as in training. The validation loss does not
    depend on it."""
    every_n_steps: int | None = field(default=100, validator=above(0))
    """Optimizer steps between validations; null: validate only at the end. Every run ends with a validation."""
    at_start: bool = True
    """Also validate before the first step."""
    keep_best: bool = True
    """Save the model with the lowest validation loss in `best/`; the last model is in `final/`."""
    patience: int | None = field(default=None, validator=above(0))
    """Stop early after this many consecutive validations without a lower loss; null: no early stopping."""
    min_improvement: float = field(default=0.0, validator=at_least(0))
    """Minimum decrease of the loss that counts as an improvement for `patience` (nats per token)."""
    prompts: list[str] = field(factory=list)
    """Prompts to answer at every validation, formatted with the tokenizer's chat template if it has one, otherwise with
    the Alpaca prompt template. Answers are written to `samples.jsonl`."""
    max_new_tokens: int = field(default=64, validator=above(0))
    """Maximum length of an answer (tokens)."""

    def encode_held_out(self, rows: Rows[Item], tokenizer: Tokenizer, model: Decoder) -> "HeldOutSet":
        """Encode the held-out rows and the prompts.

        Args:
            rows: The rows of `dataset`, or the held-out fraction of the training dataset.
            tokenizer: The tokenizer; prompts use its chat template, or the Alpaca prompt template if it has none.
            model: The model, which may be on the meta device; sequences that are too long for it are truncated.

        Raises:
            ValueError: No row has a target, or a prompt is too long.
        """
        items = held_out_items(rows, self.max_rows, model.architecture.max_seq_len)
        return HeldOutSet(self, items, self.encode_prompts(tokenizer, model))

    def encode_prompts(self, tokenizer: Tokenizer, model: Decoder) -> list[list[int]]:
        """Encode the prompts; the arguments are as for `encode_held_out`.

        Raises:
            ValueError: A prompt is too long.
        """
        template: Template = "alpaca" if tokenizer.chat_template is None else "chat"
        encoded = [encode_prompt(tokenizer, Prompt.from_text(prompt), template) for prompt in self.prompts]
        for prompt, ids in zip(self.prompts, encoded, strict=True):
            check_prompt(model, ids, self.max_new_tokens, f"validation.prompts: {prompt[:40]!r}")
        return encoded


@frozen
class HeldOutSet:
    """Encoded held-out rows and prompts."""

    section: Validation
    items: Sequence[Item]
    """The rows that have a target."""
    prompts: list[list[int]]
    """Token ids of each prompt in the section."""


def held_out_items(rows: Rows[ItemT], max_rows: int | None, longest: int) -> list[ItemT]:
    """Encode held-out rows for validation.

    Args:
        rows: The dataset.
        max_rows: Maximum number of rows to use, evenly spaced; None: all.
        longest: Maximum length of a sequence (tokens); longer sequences are truncated on the right.

    Raises:
        ValueError: No row has a target.
    """
    n = len(rows)
    chosen = sample_indices(rows, n if max_rows is None else max_rows)
    items: list[ItemT] = []
    tally = NoteCounts()
    for i in chosen:
        encoded = rows[i]
        if isinstance(encoded, SkippedRow):
            tally.add([encoded.note], encoded.location)
            continue
        for item in as_items(encoded):
            truncated = truncate(item, LengthLimit(sequence=longest))
            if isinstance(truncated, Item) and not truncated.counts["targets"]:
                truncated = SkipReason(f"have no target within {longest} tokens")
            if isinstance(truncated, SkipReason):
                tally.add([*item.notes, truncated.note], location_of(rows, i))
                continue
            items.append(truncated)
            if truncated.notes:
                tally.add(truncated.notes, location_of(rows, i))
    lines = tally.lines(len(chosen))
    if not items:
        raise ValueError(
            f"validation: no held-out row has a target ({pluralize(len(chosen), 'row')}); {'; '.join(lines)}"
        )
    for line in lines:
        _logger.warning("validation: %s", line)
    return items
