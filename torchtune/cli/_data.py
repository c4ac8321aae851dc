"""`tune data`: what a run would read, token by token, and the numbers of it; no weights, no GPU."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from torchtune.cli._call import Call, help_or, layers_of, print_notes, read_call
from torchtune.cli._style import is_coloured, paint
from torchtune.config import ConfigError, Mistake, instantiate, lazy
from torchtune.config.model import parameters_of

HELP = """\
usage: tune data [--nproc_per_node N] <recipe> --config <name or path>
                 [--override key=value ...] [--rows N] [--limit N] [--html FILE]
                 [--held-out SOURCE]

Shows the first rows as the model will see them: targets, which it is trained to
predict, stand apart from what it is given, special tokens have their names, and
a bar stands between tokens. Then come the numbers of the dataset, what of its
rows is not in the tokens, and what is likely to be a mistake. No model is loaded.

  --rows N     rows that are shown, 2 if left out
  --limit N    rows that are read for the numbers, spread over the dataset; all
               if left out (of a stream: the first 10000)
  --html FILE  write the same as a page
  --held-out SOURCE
               rows that the model is to be judged by, read as the dataset's
               own are: tell whether they stand among those trained on; the
               rows that the config's validation holds out, if left out

  tune data lora_finetune --config smollm2_135m_lora
  tune data lora_finetune --config smollm2_135m_lora packing.length=1024 --html data.html
"""

_BARS = "▁▂▃▄▅▆▇█"
_BINS = 24
_OF_A_STREAM = 10_000
"""Rows of a stream that are read if no limit is named."""


@frozen
class Shown:
    """All that is shown of a run's data."""

    title: str
    rows: list[Any]
    """Rows of the first batches: lists of documents, each a list of `torchtune.data.Piece`."""
    report: Any
    """`torchtune.data.Report`."""
    facts: list[tuple[str, str]]
    """Numbers, each with its name."""
    histogram: list[tuple[int, int]]
    """Lengths, from each bin's least on, and how many examples are of them."""


def main(argv: Sequence[str]) -> int:
    """Show a run's data."""
    from torchtune.cli._run import ranks_of, split_launch_options

    options, _ = split_launch_options(list(argv))
    call = read_call(argv[len(options) :], valued=("--rows", "--limit", "--html", "--held-out"))
    return help_or(call, HELP, lambda: _show(call, ranks_of(options)))


def _show(call: Call, ranks: int) -> int:
    limit = _count(call, "--limit", 0) if "--limit" in call.flags else None
    shown = look(call, ranks, rows=_count(call, "--rows", 2), limit=limit)
    sys.stdout.write("".join(f"{line}\n" for line in _lines(shown)))
    if page := call.flags.get("--html"):
        from torchtune.cli._data_page import page_of

        Path(page).write_text(page_of(shown), encoding="utf-8")
        sys.stdout.write(f"\nwrote {page}\n")
    return 0


def _count(call: Call, flag: str, otherwise: int) -> int:
    text = call.flags.get(flag)
    if text is None:
        return otherwise
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError.of_word(flag, f"expected a number above 0, got {text!r}")
    return int(text)


def look(call: Call, ranks: int, *, rows: int, limit: int | None) -> Shown:
    """Read a config's data.

    Args:
        call: Names the recipe and the config.
        ranks: How many processes would share the data.
        rows: How many rows are shown.
        limit: How many rows are read for the numbers; None: all, or the first of a stream.

    Raises:
        ConfigError: The config has mistakes, or describes no data.
        InstantiationError: The dataset or the tokenizer cannot be built.
    """
    recipe, layers = layers_of(call)
    print_notes(layers)
    cfg: Any = layers.build(f"the config of {recipe.name}")
    if not all(hasattr(cfg, name) for name in ("dataset", "tokenizer", "model", "packing")):
        raise ConfigError([Mistake("word", f"{recipe.name} reads no dataset")], "the recipe")
    import torch

    from torchtune.data import pieces, report, spread
    from torchtune.training import World, check_vocabulary, open_batches

    tokenizer = instantiate(cfg.tokenizer)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    check_vocabulary(tokenizer, model)
    dataset, held_out = _split(cfg, instantiate(cfg.dataset, tokenizer), tokenizer)
    if "--held-out" in call.flags:
        held_out = _held_out(call, cfg.dataset, tokenizer)
    world = World(rank=0, size=1, data_rank=0, data_size=1, device=torch.device("cpu"), seed=cfg.seed or 0)
    longest = min(model.architecture.max_seq_len, *([cfg.packing.length] if cfg.packing else []), 2**62)
    if limit is None:
        limit = len(dataset) if getattr(dataset, "block", None) is None else _OF_A_STREAM
    found = report(dataset, tokenizer, spread(dataset, limit), longest, held_out)
    facts, first = [], []
    if found.lengths:
        batches = open_batches(evolve(cfg, data_workers=0), dataset, tokenizer, model, world, logs=False)
        first = [[pieces(tokenizer, e) for e in row] for row in batches.take(rows)]
        facts = list(_facts(cfg, found, batches, ranks))
    return Shown(
        title=f"{recipe.name} --config {call.config}",
        rows=first,
        report=found,
        facts=facts,
        histogram=_histogram(found.lengths),
    )


def _split(cfg: Any, dataset: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Return the rows that a run trains on and those that its config holds out; None where it holds none out."""
    from torchtune.data import split_off

    section = getattr(cfg, "validation", None)
    if section is None:
        return dataset, None
    if section.share is not None:
        return split_off(dataset, section.share, cfg.seed or 0)
    return dataset, instantiate(section.dataset, tokenizer)


def _held_out(call: Call, dataset: Any, tokenizer: Any) -> Any:
    """Open the rows that `--held-out` names."""
    source = call.flags["--held-out"]
    if "source" not in parameters_of(dataset.func):
        name = getattr(dataset.func, "__name__", dataset.func)
        raise ConfigError.of_word("--held-out", f"{name} reads no source")
    settings = {key: value for key, value in dataset.keywords.items() if key not in ("split", "load_options")}
    return instantiate(lazy(dataset.func, **{**settings, "source": source}), tokenizer)


def _facts(cfg: Any, found: Any, batches: Any, ranks: int) -> Iterator[tuple[str, str]]:
    """Yield the numbers, each with its name."""
    from torchtune.data import collate
    from torchtune.training import steps_in

    n, lengths = len(found.lengths), sorted(found.lengths)
    looked = "" if found.n_read == found.n_rows else f", of which {found.n_read:,} were looked at"
    yield "rows", f"{found.n_rows:,}{looked}"
    yield "examples", f"{n:,}" + (f", {found.n_doubled:,} of them twice" if found.n_doubled else "")
    yield "tokens", f"{found.n_tokens:,}"
    yield "targets", f"{found.n_targets:,} ({found.n_targets / found.n_tokens:.1%})"
    yield "length", f"{lengths[0]:,} to {lengths[-1]:,}, half of them up to {lengths[n // 2]:,}"
    if found.n_held_out:
        seen, asked = len(found.held_out_seen), len(found.held_out_asked)
        yield (
            "held out",
            f"{found.n_held_out:,} rows; {seen:,} are trained on, {asked:,} by their prompt alone",
        )
    if found.n_cut:
        yield "cut", f"{found.n_cut:,} are longer than fits, and lose their end"
    n_batches = batches.batches_in(1)
    shares = cfg.packing is not None and cfg.packing.share_prefixes
    rows = (batches.take(cfg.batch_size) for _ in range(min(100, n_batches)))
    drawn = [collate(taken, 0, share_prefixes=shares) for taken in rows]
    useful, slots = sum(b.n_tokens for b in drawn), sum(b.tokens.numel() for b in drawn)
    yield "padding", f"{sum(b.n_padding for b in drawn) / slots:.1%} of all positions"
    if n_shared := sum(b.n_shared for b in drawn):
        yield (
            "shared",
            f"{n_shared / useful:.1%} of all tokens, which rows begin with alike, are computed once",
        )
    each = -(-n_batches // ranks)
    steps = steps_in(each, 1, cfg.gradient_accumulation_steps, cfg.max_steps_per_epoch)
    a_step = useful / len(drawn) * cfg.gradient_accumulation_steps * ranks
    yield "a step", f"about {a_step:,.0f} tokens"
    yield "an epoch", f"{steps:,} step{'s' * (steps != 1)}"


def _histogram(lengths: list[int]) -> list[tuple[int, int]]:
    """Count lengths in bins of one width."""
    if not lengths:
        return []
    least, most = min(lengths), max(lengths)
    width = -(-(most - least + 1) // _BINS)
    counts = [0] * (-(-(most - least + 1) // width))
    for length in lengths:
        counts[(length - least) // width] += 1
    return [(least + i * width, count) for i, count in enumerate(counts)]


def _lines(shown: Shown) -> Iterator[str]:
    """Yield what is printed on a terminal."""
    legend = [paint("trained to predict", "bold", "green"), paint("given", "dim"), paint("<special>", "cyan")]
    if not is_coloured(sys.stdout):
        legend = ["«trained to predict»", "given"]
    for number, row in enumerate(shown.rows, start=1):
        for at, document in enumerate(row, start=1):
            of = f", example {at} of {len(row)}" if len(row) > 1 else ""
            yield paint(f"row {number}{of}: {len(document)} tokens", "bold")
            yield _document(document)
            yield ""
    yield " · ".join(legend)
    yield ""
    width = max((len(name) for name, _ in shown.facts), default=0)
    for name, value in shown.facts:
        yield f"{name:{width}}  {value}"
    if shown.histogram:
        most = max(count for _, count in shown.histogram)
        bars = "".join(" " if not c else _BARS[(c * len(_BARS) - 1) // most] for _, c in shown.histogram)
        yield f"{'lengths':{width}}  {shown.histogram[0][0]} {bars} {max(shown.report.lengths)}"
    for warning in shown.report.warnings:
        yield f"{paint('warning:', 'yellow')} {warning}"


def _document(document: list[Any]) -> str:
    """Return an example's tokens with a bar between each two; a line break is shown, and made."""
    bar = paint("|", "dim")
    words = []
    for i, piece in enumerate(document):
        text = piece.text.replace("\r", "␍").replace("\t", "→")
        styles = ["bold", "green"] if piece.is_target else ["dim"]
        if piece.is_special:
            styles = ["bold", "cyan"] if piece.is_target else ["cyan"]
        shown = "\n".join(paint(part, *styles) for part in text.replace("\n", "⏎\n").split("\n"))
        begins = piece.is_target and not (i and document[i - 1].is_target)
        ends = piece.is_target and not (i + 1 < len(document) and document[i + 1].is_target)
        marks = ("", "") if is_coloured(sys.stdout) else ("«" if begins else "", "»" if ends else "")
        words.append(f"{marks[0]}{shown}{marks[1]}")
    return bar.join(words)
