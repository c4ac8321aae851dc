"""What a run reads, in numbers and examples: what `tune data` shows of a dataset."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from attrs import evolve, frozen

from torchtune._counted import counted
from torchtune.config import ConfigError, Mistake, instantiate, lazy
from torchtune.config.model import parameters_of
from torchtune.runs import checked_layers
from torchtune.runs.command_line import Call

_BINS = 24
_OF_A_STREAM = 10_000
"""Rows of a stream that are read if no limit is named."""


@frozen
class Summary:
    """What is shown of a run's data."""

    title: str
    rows: list[Any]
    """Rows of the first batches: lists of documents, each a list of `torchtune.data.Piece`."""
    report: Any
    """`torchtune.data.Report`."""
    facts: list[tuple[str, str]]
    """Numbers, each with its name."""
    histogram: list[tuple[int, int]]
    """Lengths, from each bin's least on, and how many examples are of them."""


def summarise(call: Call, ranks: int, *, rows: int, limit: int | None, held_out: str | None) -> Summary:
    """Read a config's data.

    Args:
        call: Names the recipe and the config.
        ranks: How many processes would share the data.
        rows: How many rows are shown.
        limit: How many rows are read for the numbers; None: all, or the first of a stream.
        held_out: The source of rows that the model is to be judged by; None: those of the config's validation.

    Raises:
        ConfigError: The config has mistakes, or describes no data.
        InstantiationError: The dataset or the tokenizer cannot be built.
    """
    recipe, _, cfg = checked_layers(call)
    if "torch" not in sys.modules or not _is_finetuning(cfg):
        raise ConfigError([Mistake("word", f"{recipe.name} reads no dataset")], "the recipe")
    import torch

    from torchtune.data import pieces, report, spread, stream_of
    from torchtune.distributed import World
    from torchtune.training import build_model

    tokenizer, model = build_model(cfg)
    dataset, held_out_rows = _split(cfg, instantiate(cfg.dataset, tokenizer), tokenizer)
    if held_out is not None:
        held_out_rows = _held_out(held_out, cfg.dataset, tokenizer)
    world = World(rank=0, size=1, data_rank=0, data_size=1, device=torch.device("cpu"), seed=cfg.seed or 0)
    packing = cfg.loading.packing
    longest = min(model.architecture.max_seq_len, *([packing.length] if packing else []), 2**62)
    if limit is None:
        limit = len(dataset) if stream_of(dataset) is None else _OF_A_STREAM
    counts = report(dataset, tokenizer, spread(dataset, limit), longest, held_out_rows)
    facts, first = [], []
    if counts.lengths:
        loading = evolve(cfg.loading, workers=0)
        settings = {"batch_size": cfg.batch_size, "shuffle": cfg.shuffle, "logs": False}
        batches = loading.batches(dataset, tokenizer, model, world, **settings)
        first = [
            [pieces(tokenizer, sequence) for item in row for sequence in item.sequences]
            for row in batches.take(rows)
        ]
        facts = list(_facts(cfg, counts, batches, ranks))
    title = f"{recipe.name} --config {call.config}"
    return Summary(title, first, counts, facts, _histogram(counts.lengths))


def _is_finetuning(cfg: object) -> bool:
    """Tell whether a config is one of those that read a dataset."""
    from torchtune.training import FinetuneConfig

    return isinstance(cfg, FinetuneConfig)


def _split(cfg: Any, dataset: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Return the rows that a run trains on and those that its config holds out; None where it holds none out."""
    from torchtune.data import split_off

    section = cfg.validation
    if section is None:
        return dataset, None
    if section.share is not None:
        return split_off(dataset, section.share, cfg.seed or 0)
    return dataset, instantiate(section.dataset, tokenizer)


def _held_out(source: str, dataset: Any, tokenizer: Any) -> Any:
    """Open the rows that `--held-out` names."""
    if "source" not in parameters_of(dataset.func):
        name = getattr(dataset.func, "__name__", dataset.func)
        raise ConfigError.of_word("--held-out", f"{name} reads no source")
    settings = {key: value for key, value in dataset.keywords.items() if key not in ("split", "load_options")}
    return instantiate(lazy(dataset.func, **{**settings, "source": source}), tokenizer)


def _facts(cfg: Any, counts: Any, batches: Any, ranks: int) -> Iterator[tuple[str, str]]:
    """Yield the numbers, each with its name."""
    from torchtune.data import collate

    n, lengths = len(counts.lengths), sorted(counts.lengths)
    looked = "" if counts.n_read == counts.n_rows else f", of which {counts.n_read:,} were looked at"
    yield "rows", f"{counts.n_rows:,}{looked}"
    yield "examples", f"{n:,}" + (f", {counts.n_doubled:,} of them twice" if counts.n_doubled else "")
    yield "tokens", f"{counts.n_tokens:,}"
    yield "targets", f"{counts.n_targets:,} ({counts.n_targets / counts.n_tokens:.1%})"
    yield "length", f"{lengths[0]:,} to {lengths[-1]:,}, half of them up to {lengths[n // 2]:,}"
    if counts.n_held_out:
        seen, asked = len(counts.held_out_seen), len(counts.held_out_asked)
        overlap = f"{seen:,} {'is' if seen == 1 else 'are'} trained on, {asked:,} by their prompt alone"
        yield "held out", f"{counted(counts.n_held_out, 'row')}; {overlap}"
    if counts.n_cut:
        yield "cut", f"{counts.n_cut:,} are longer than fits, and lose their end"
    n_batches = batches.steps_in(1)
    steps = batches.steps_in(1, cfg.gradient_accumulation_steps * ranks)
    packing = cfg.loading.packing
    shares = packing is not None and packing.share_prefixes
    rows = (batches.take(cfg.batch_size) for _ in range(min(100, n_batches)))
    drawn = [collate(taken, 0, share_prefixes=shares) for taken in rows]
    useful, slots = sum(b.n_tokens for b in drawn), sum(b.tokens.numel() for b in drawn)
    yield "padding", f"{sum(b.n_padding for b in drawn) / slots:.1%} of all positions"
    n_shared = sum(b.n_shared for b in drawn)
    if n_shared:
        what = "of all tokens, which rows begin with alike, are computed once"
        yield "shared", f"{n_shared / useful:.1%} {what}"
    if cfg.max_steps_per_epoch is not None:
        steps = min(steps, cfg.max_steps_per_epoch)
    a_step = useful / len(drawn) * cfg.gradient_accumulation_steps * ranks
    yield "a step", f"about {counted(round(a_step), 'token')}"
    yield "an epoch", counted(steps, "step")


def _histogram(lengths: list[int]) -> list[tuple[int, int]]:
    """Count lengths in bins of one width."""
    if not lengths:
        return []
    least, most = min(lengths), max(lengths)
    width = -(-(most - least + 1) // _BINS)
    counts = Counter((length - least) // width for length in lengths)
    return [(least + i * width, counts[i]) for i in range(max(counts) + 1)]
