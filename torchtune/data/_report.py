"""What a run would read, looked at without a model."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

from attrs import define, field, frozen

from torchtune._counted import counted
from torchtune.data._batch import IGNORE_INDEX
from torchtune.data._example import Example
from torchtune.data._item import Item, LeftOut, items_of
from torchtune.data._notes import Tally, agreeing
from torchtune.data._rows import Rows, is_plain_text, place_of
from torchtune.data._tokenizer import Tokenizer

UNKNOWN_SHARE = 0.01
"""Share of unknown tokens from which something is likely to be wrong."""


@frozen
class Piece:
    """One token as a reader sees it."""

    id: int
    text: str
    is_target: bool
    """Whether the model is trained to predict it."""
    is_special: bool


def pieces(tokenizer: Tokenizer, example: Example) -> list[Piece]:
    """Return an example token by token.

    A character that several tokens share stands with the last of them; the others show what is not text yet.
    """
    names = {i: text for text, i in tokenizer.special_tokens.items()}
    return [
        Piece(token, names.get(token) or tokenizer.decode([token]), label != IGNORE_INDEX, token in names)
        for token, label in zip(example.tokens, example.labels, strict=True)
    ]


@define
class Report:
    """Numbers of the rows that were looked at."""

    n_rows: int = 0
    """Rows of the dataset."""
    n_read: int = 0
    """Rows that were looked at."""
    n_tokens: int = 0
    n_targets: int = 0
    lengths: list[int] = field(factory=list)
    """Tokens of each example."""
    left_out: dict[str, list[str]] = field(factory=lambda: defaultdict(list))
    """Places of rows that give nothing, by the reason."""
    notes: Tally = field(factory=Tally)
    """What else happened to rows, such as columns that are not read."""
    n_cut: int = 0
    """Examples longer than the model, or than a row of several, which are cut."""
    n_doubled: int = 0
    """Examples of which the very same stood before."""
    n_held_out: int = 0
    """Held-out rows that were compared."""
    held_out_seen: list[str] = field(factory=list)
    """Places of held-out rows of which an example stands in the dataset, token for token."""
    held_out_asked: list[str] = field(factory=list)
    """Places of those of which the prompt alone does, with another answer."""
    warnings: list[str] = field(factory=list)
    """What is likely to be a mistake."""


def report(
    dataset: Rows[Item],
    tokenizer: Tokenizer,
    rows: Sequence[int],
    longest: int | None = None,
    held_out: Rows[Item] | None = None,
) -> Report:
    """Look at some rows of a dataset.

    Args:
        dataset: The rows.
        tokenizer: Encoded them.
        rows: Which of them.
        longest: Positions of an example, at most (`Batches`).
        held_out: Rows that the model is to be judged by, and that should not stand among these.

    Raises:
        ValueError: a row cannot be used.
    """
    counts = Report(n_rows=len(dataset), n_read=len(rows))
    seen: set[int] = set()
    texts, prompts = set[int](), set[int]()
    suspect = Counter[str]()
    bos_id, unknown = tokenizer.bos_id, getattr(tokenizer, "unknown_id", None)
    for row in rows:
        read = dataset[row]
        if isinstance(read, LeftOut):
            counts.left_out[read.reason].append(read.place)
            continue
        notes = [note for item in items_of(read) for note in item.notes]
        counts.notes.add(notes, partial(place_of, dataset, row))
        for example in _examples(read):
            tokens = example.tokens
            texts.add(hash(tuple(tokens)))
            prompts.add(hash(_prompt(example)))
            counts.lengths.append(len(tokens))
            counts.n_tokens += len(tokens)
            counts.n_targets += example.n_targets
            is_cut = longest is not None and len(tokens) > longest + 1
            counts.n_cut += is_cut
            digest = hash((tuple(tokens), tuple(example.labels)))
            counts.n_doubled += digest in seen
            seen.add(digest)
            suspect["bos"] += bos_id is not None and tokens[:2] == [bos_id, bos_id]
            suspect["end"] += example.labels[-1] not in tokenizer.stop_ids
            suspect["unknown"] += tokens.count(unknown) if unknown is not None else 0
            suspect["all"] += example.n_targets == len(tokens) - 1
    if held_out is not None:
        _compare(counts, held_out, texts, prompts)
    if is_plain_text(dataset):
        suspect["end"] = suspect["all"] = 0
    counts.warnings = _warnings(counts, suspect)
    return counts


def _examples(read: Item | Sequence[Item]) -> list[Example]:
    """Return the sequences of a row's items."""
    return [sequence for item in items_of(read) for sequence in item.sequences]


def _prompt(example: Example) -> tuple[int, ...]:
    """Return what stands before the first target."""
    first = next((i for i, label in enumerate(example.labels) if label != IGNORE_INDEX), 0)
    return tuple(example.tokens[:first])


def _compare(counts: Report, held_out: Rows[Item], texts: set[int], prompts: set[int]) -> None:
    """Find the held-out rows that stand among those looked at."""
    for row in range(len(held_out)):
        read = held_out[row]
        if isinstance(read, LeftOut):
            continue
        counts.n_held_out += 1
        if any(hash(tuple(example.tokens)) in texts for example in _examples(read)):
            counts.held_out_seen.append(place_of(held_out, row))
        elif any(len(_prompt(e)) > 1 and hash(_prompt(e)) in prompts for e in _examples(read)):
            counts.held_out_asked.append(place_of(held_out, row))


def _warnings(counts: Report, suspect: Counter[str]) -> list[str]:
    n = len(counts.lengths)
    if not n:
        return ["no row gives anything to learn"]
    examples = counted(n, "example")
    said = [
        *Tally.of_left_out(counts.left_out).lines(counts.n_read),
        *counts.notes.lines(counts.n_read),
    ]
    if suspect["bos"]:
        what = agreeing("begin with BOS twice, which the model never saw", suspect["bos"])
        said.append(f"{suspect['bos']} of {examples} {what}")
    if suspect["end"]:
        what = agreeing("do not end with a token that ends an answer", suspect["end"])
        said.append(
            f"{suspect['end']} of {examples} {what}, so that the model does not learn to stop there (they are cut, or"
            " the text is plain)"
        )
    if suspect["unknown"] > UNKNOWN_SHARE * counts.n_tokens:
        share = suspect["unknown"] / counts.n_tokens
        said.append(
            f"{share:.1%} of all tokens are unknown to the tokenizer; it is made for another language"
        )
    if suspect["all"] == n:
        said.append("every token is a target: what is given, the prompts, is learnt too")
    for places, what in (
        (counts.held_out_seen, "stand among the rows that are trained on"),
        (counts.held_out_asked, "have a prompt that is trained on, with another answer"),
    ):
        if places:
            rows = counted(counts.n_held_out, "held-out row")
            said.append(f"{len(places)} of {rows} {agreeing(what, len(places))}; the first: {places[0]}")
    if counts.n_doubled > n // 100:
        said.append(
            f"{counts.n_doubled} of {examples} {agreeing('stand there twice or more', counts.n_doubled)}"
        )
    return said
