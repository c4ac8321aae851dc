"""Check a config's training and validation rows."""

from collections.abc import Sequence
from typing import Any

import torch
from attrs import evolve

from torchtune.checks._field_errors import FieldErrors, errors_of
from torchtune.data import (
    Encoded,
    Item,
    LengthLimit,
    Rows,
    SkippedRow,
    Tokenizer,
    as_items,
    sample_indices,
    split_off,
    truncate,
)
from torchtune.distributed import World
from torchtune.modules import Decoder
from torchtune.training import FinetuneConfig, held_out_items

_SAMPLE_SIZE = 64
"""Number of held-out rows in the sample."""


def row_errors(
    cfg: Any, tokenizer: Tokenizer, rows: Rows[Any], sample: Sequence[Encoded[Any]], model: Decoder
) -> FieldErrors:
    """Check that at least one training row has a target.

    Args:
        cfg: A config; only a `FinetuneConfig` is checked.
        tokenizer: The config's tokenizer.
        rows: The config's dataset.
        sample: Some encoded rows; if none of them has a target, the dataset is read as in a run.
        model: The model, which limits the length of sequences; it may be on the meta device.
    """
    if not isinstance(cfg, FinetuneConfig) or not sample:
        return
    loading = evolve(cfg.loading, workers=0, token_cache=None)
    world = World(rank=0, size=1, data_rank=0, data_size=1, device=torch.device("cpu"), seed=0)

    def count_steps(dataset: Any) -> int:
        batches = loading.batches(dataset, tokenizer, model, world, batch_size=cfg.batch_size, logs=False)
        return batches.steps_in(1)

    try:
        count_steps(sample)
    except ValueError:
        yield from errors_of("dataset", count_steps, rows)


def held_out_errors(
    cfg: Any, rows: Rows[Any] | None, held_out: Rows[Any] | None, model: Decoder
) -> FieldErrors:
    """Check that at least one held-out row has a target; all rows are read only if no row of a sample has a target.

    Args:
        cfg: A config; only a `FinetuneConfig` with validation is checked.
        rows: The config's dataset, part of which may be held out; None if it is not available.
        held_out: The config's `validation.dataset`; None if it is not set or not available.
        model: The model, which limits the length of sequences; it may be on the meta device.
    """
    if isinstance(cfg, FinetuneConfig) and cfg.validation is not None:
        field = "validation.dataset" if cfg.validation.fraction is None else "validation.fraction"
        yield from errors_of(field, _check_held_out, cfg, rows, held_out, model.architecture.max_seq_len)


def _check_held_out(
    cfg: FinetuneConfig, rows: Rows[Any] | None, held_out: Rows[Any] | None, longest: int
) -> None:
    section = cfg.validation
    assert section is not None
    if section.fraction is not None and rows is not None:
        _, held_out_rows = split_off(rows, section.fraction, cfg.seed or 0)
        held_out = None if cfg.seed is None else held_out_rows  # without a seed, a run holds out other rows
    if held_out is None or any(
        _has_target(held_out[i], longest) for i in sample_indices(held_out, _SAMPLE_SIZE)
    ):
        return
    held_out_items(held_out, section.max_rows, longest)


def _has_target(encoded: Encoded[Any], longest: int) -> bool:
    if isinstance(encoded, SkippedRow):
        return False
    items = (truncate(item, LengthLimit(sequence=longest)) for item in as_items(encoded))
    return any(isinstance(item, Item) and item.counts["targets"] > 0 for item in items)
