"""What of a config's rows a run would reject before its first step."""

from collections.abc import Sequence
from typing import Any

import torch
from attrs import evolve

from torchtune.checks._field_errors import FieldErrors, errors_of
from torchtune.data import (
    Encoded,
    Item,
    LeftOut,
    LengthLimit,
    Rows,
    Tokenizer,
    items_of,
    split_off,
    spread,
    truncate,
)
from torchtune.distributed import World
from torchtune.modules import Decoder
from torchtune.training import FinetuneConfig, held_out_items

_SAMPLED = 64
"""Rows that are encoded first."""


def row_errors(
    cfg: Any, tokenizer: Tokenizer, rows: Rows[Any], sample: Sequence[Encoded[Any]], model: Decoder
) -> FieldErrors:
    """Check that a run finds a target in its rows.

    Args:
        cfg: A config; nothing is checked if it is no `FinetuneConfig`.
        tokenizer: Built from it.
        rows: Built from it.
        sample: Some of them, encoded; only if none has a target, as many are read as by a run.
        model: Limits the length of sequences; it may be on the meta device.
    """
    if not isinstance(cfg, FinetuneConfig) or not sample:
        return
    loading = evolve(cfg.loading, workers=0, token_cache=None)
    alone = World(rank=0, size=1, data_rank=0, data_size=1, device=torch.device("cpu"), seed=0)

    def count_steps(some: Any) -> int:
        batches = loading.batches(some, tokenizer, model, alone, batch_size=cfg.batch_size, logs=False)
        return batches.steps_in(1)

    try:
        count_steps(sample)
    except ValueError:
        yield from errors_of("dataset", count_steps, rows)


def held_out_errors(
    cfg: Any, rows: Rows[Any] | None, held_out: Rows[Any] | None, model: Decoder
) -> FieldErrors:
    """Check that a run finds a target in its held-out rows; all are read only if none of a sample has one.

    Args:
        cfg: A config; nothing is checked if it is no `FinetuneConfig`, or has no validation.
        rows: Those of its dataset, of which a share may be held out; None: they are not here.
        held_out: Those of its `validation.dataset`; None: there is none, or they are not here.
        model: Limits the length of sequences; it may be on the meta device.
    """
    if isinstance(cfg, FinetuneConfig) and cfg.validation is not None:
        field = "validation.dataset" if cfg.validation.share is None else "validation.share"
        yield from errors_of(field, _check_held_out, cfg, rows, held_out, model.architecture.max_seq_len)


def _check_held_out(
    cfg: FinetuneConfig, rows: Rows[Any] | None, held_out: Rows[Any] | None, longest: int
) -> None:
    section = cfg.validation
    assert section is not None
    if section.share is not None and rows is not None:
        _, share = split_off(rows, section.share, cfg.seed or 0)
        held_out = None if cfg.seed is None else share  # the run draws another seed, and so other rows
    if held_out is None or any(_has_target(held_out[i], longest) for i in spread(held_out, _SAMPLED)):
        return
    held_out_items(held_out, section.max_rows, longest)


def _has_target(encoded: Encoded[Any], longest: int) -> bool:
    if isinstance(encoded, LeftOut):
        return False
    fitted = (truncate(item, LengthLimit(sequence=longest)) for item in items_of(encoded))
    return any(isinstance(item, Item) and item.counts["targets"] > 0 for item in fitted)
