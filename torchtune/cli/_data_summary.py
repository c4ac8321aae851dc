"""Collect the example rows and statistics of a run's data for `tune data`."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from attrs import evolve, frozen

from torchtune._pluralize import pluralize
from torchtune.config import ConfigError, Mistake, instantiate, lazy
from torchtune.config.model import parameters_of
from torchtune.runs import checked_layers
from torchtune.runs.command_line import Call

_BINS = 24
_STREAM_LIMIT = 10_000
"""The number of rows to read from a stream if no limit is given."""


@frozen
class Summary:
    """The rows and statistics of a run's data that `tune data` shows."""

    title: str
    rows: list[Any]
    """Rows of the first batches. A row is a list of documents; a document is a list of `DecodedToken`s."""
    report: Any
    """A `torchtune.data.Report`."""
    facts: list[tuple[str, str]]
    """Statistics: pairs of a name and a formatted value."""
    histogram: list[tuple[int, int]]
    """Pairs of a bin's shortest length (tokens) and the number of examples in the bin."""


def summarize(call: Call, ranks: int, *, rows: int, limit: int | None, held_out: str | None) -> Summary:
    """Read a config's data and summarize it.

    Args:
        call: The command line, with the recipe and the config.
        ranks: The number of ranks that would share the data.
        rows: The number of rows to show.
        limit: The number of rows to read for the statistics. None: all; for a stream, the first 10,000.
        held_out: The source of held-out rows to look for in the training data. None: the config's validation rows.

    Raises:
        ConfigError: The config has mistakes, or the recipe does not read a dataset.
        InstantiationError: The dataset or the tokenizer cannot be built.
    """
    recipe, _, cfg = checked_layers(call)
    if "torch" not in sys.modules or not _is_finetuning(cfg):
        raise ConfigError([Mistake("argument", f"{recipe.name} does not read a dataset")], "the command line")
    import torch

    from torchtune.data import as_stream, decode_tokens, report, sample_indices
    from torchtune.distributed import World
    from torchtune.training import build_model

    tokenizer, model = build_model(cfg)
    dataset, held_out_rows = _training_and_validation_rows(
        cfg, instantiate(cfg.dataset, tokenizer), tokenizer
    )
    if held_out is not None:
        held_out_rows = _held_out(held_out, cfg.dataset, tokenizer)
    world = World(rank=0, size=1, data_rank=0, data_size=1, device=torch.device("cpu"), seed=cfg.seed or 0)
    packing = cfg.loading.packing
    longest = min(model.architecture.max_seq_len, *([packing.length] if packing else []), 2**62)
    if limit is None:
        limit = len(dataset) if as_stream(dataset) is None else _STREAM_LIMIT
    counts = report(dataset, tokenizer, sample_indices(dataset, limit), longest, held_out_rows)
    facts, first = [], []
    if counts.lengths:
        loading = evolve(cfg.loading, workers=0)
        settings = {"batch_size": cfg.batch_size, "shuffle": cfg.shuffle, "logs": False}
        batches = loading.batches(dataset, tokenizer, model, world, **settings)
        first = [
            [decode_tokens(tokenizer, sequence) for item in row for sequence in item.sequences]
            for row in batches.take(rows)
        ]
        facts = list(_facts(cfg, counts, batches, ranks))
    title = f"{recipe.name} --config {call.config}"
    return Summary(title, first, counts, facts, _histogram(counts.lengths))


def _is_finetuning(cfg: object) -> bool:
    """Return whether a config is for fine-tuning, and therefore has a dataset."""
    from torchtune.training import FinetuneConfig

    return isinstance(cfg, FinetuneConfig)


def _training_and_validation_rows(cfg: Any, dataset: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Return a run's training rows and validation rows, or None for the latter if there is no validation."""
    from torchtune.data import split_off

    section = cfg.validation
    if section is None:
        return dataset, None
    if section.fraction is not None:
        return split_off(dataset, section.fraction, cfg.seed or 0)
    return dataset, instantiate(section.dataset, tokenizer)


def _held_out(source: str, dataset: Any, tokenizer: Any) -> Any:
    """Open the rows of `--held-out`."""
    if "source" not in parameters_of(dataset.func):
        name = getattr(dataset.func, "__name__", dataset.func)
        raise ConfigError.of_argument("--held-out", f"{name} has no argument `source`")
    settings = {key: value for key, value in dataset.keywords.items() if key not in ("split", "load_options")}
    return instantiate(lazy(dataset.func, **{**settings, "source": source}), tokenizer)


def _facts(cfg: Any, counts: Any, batches: Any, ranks: int) -> Iterator[tuple[str, str]]:
    """Yield the statistics: pairs of a name and a formatted value."""
    from torchtune.data import collate

    n, lengths = len(counts.lengths), sorted(counts.lengths)
    n_read = "" if counts.n_read == counts.n_rows else f" ({counts.n_read:,} read)"
    yield "rows", f"{counts.n_rows:,}{n_read}"
    duplicates = f" ({pluralize(counts.n_duplicates, 'duplicate')})" if counts.n_duplicates else ""
    yield "examples", f"{n:,}{duplicates}"
    yield "tokens", f"{counts.n_tokens:,}"
    yield "targets", f"{counts.n_targets:,} ({counts.n_targets / counts.n_tokens:.1%})"
    yield "length", f"{lengths[0]:,} to {lengths[-1]:,}, median {lengths[n // 2]:,}"
    if counts.n_held_out:
        n_rows, n_prompts = len(counts.leaked_rows), len(counts.leaked_prompts)
        overlap = (
            f"{n_rows:,} also in the training data, {n_prompts:,} with the prompt of a training example but a"
            " different answer"
        )
        yield "held out", f"{pluralize(counts.n_held_out, 'row')}; {overlap}"
    if counts.n_truncated:
        yield "truncated", f"{pluralize(counts.n_truncated, 'example')} longer than the maximum length"
    n_batches = batches.steps_in(1)
    steps = batches.steps_in(1, cfg.gradient_accumulation_steps * ranks)
    packing = cfg.loading.packing
    shares = packing is not None and packing.share_prefixes
    rows = (batches.take(cfg.batch_size) for _ in range(min(100, n_batches)))
    sample = [collate(batch_rows, 0, share_prefixes=shares) for batch_rows in rows]
    n_tokens, n_positions = sum(b.n_tokens for b in sample), sum(b.tokens.numel() for b in sample)
    yield "padding", f"{sum(b.n_padding for b in sample) / n_positions:.1%} of all positions"
    n_shared = sum(b.n_shared for b in sample)
    if n_shared:
        yield (
            "shared",
            f"{n_shared / n_tokens:.1%} of all tokens are in shared prefixes, which are computed once",
        )
    if cfg.max_steps_per_epoch is not None:
        steps = min(steps, cfg.max_steps_per_epoch)
    step_tokens = n_tokens / len(sample) * cfg.gradient_accumulation_steps * ranks
    yield "per step", f"about {pluralize(round(step_tokens), 'token')}"
    yield "per epoch", pluralize(steps, "step")


def _histogram(lengths: list[int]) -> list[tuple[int, int]]:
    """Count lengths in bins of equal width."""
    if not lengths:
        return []
    shortest, longest = min(lengths), max(lengths)
    width = -(-(longest - shortest + 1) // _BINS)
    counts = Counter((length - shortest) // width for length in lengths)
    return [(shortest + i * width, counts[i]) for i in range(max(counts) + 1)]
