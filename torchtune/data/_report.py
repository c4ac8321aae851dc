"""Statistics and warnings on a dataset, computed without a model."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

from attrs import define, field, frozen

from torchtune._pluralize import pluralize
from torchtune.data._batch import IGNORE_INDEX
from torchtune.data._example import Example
from torchtune.data._item import Item, SkippedRow, as_items
from torchtune.data._notes import NoteCounts, conjugate
from torchtune.data._rows import Rows, is_plain_text, location_of
from torchtune.data._tokenizer import Tokenizer

MAX_UNKNOWN_FRACTION = 0.01
"""Maximum fraction of unknown tokens that is not reported."""


@frozen
class DecodedToken:
    """A token with its decoded text."""

    id: int
    text: str
    is_target: bool
    """Whether the model is trained to predict it."""
    is_special: bool


def decode_tokens(tokenizer: Tokenizer, example: Example) -> list[DecodedToken]:
    """Decode an example token by token.

    If a character spans several tokens, the text of each of these tokens contains the replacement character.
    """
    names = {i: text for text, i in tokenizer.special_tokens.items()}
    return [
        DecodedToken(
            token, names.get(token) or tokenizer.decode([token]), label != IGNORE_INDEX, token in names
        )
        for token, label in zip(example.tokens, example.labels, strict=True)
    ]


@define
class Report:
    """Statistics of the rows that were read."""

    n_rows: int = 0
    """Number of rows in the dataset."""
    n_read: int = 0
    """Number of rows that were read."""
    n_tokens: int = 0
    n_targets: int = 0
    lengths: list[int] = field(factory=list)
    """Number of tokens in each example."""
    skipped: dict[str, list[str]] = field(factory=lambda: defaultdict(list))
    """Locations of skipped rows, by reason."""
    notes: NoteCounts = field(factory=NoteCounts)
    """Other notes on rows, such as unread columns."""
    n_truncated: int = 0
    """Number of examples longer than the model's maximum or than a pack, which are truncated."""
    n_duplicates: int = 0
    """Number of examples that repeat an earlier example."""
    n_held_out: int = 0
    """Number of held-out rows that were compared."""
    leaked_rows: list[str] = field(factory=list)
    """Locations of held-out rows with an example that is also in the dataset, token for token."""
    leaked_prompts: list[str] = field(factory=list)
    """Locations of held-out rows whose prompt is in the dataset, but with a different answer."""
    warnings: list[str] = field(factory=list)
    """Likely problems in the data."""


def report(
    dataset: Rows[Item],
    tokenizer: Tokenizer,
    rows: Sequence[int],
    longest: int | None = None,
    held_out: Rows[Item] | None = None,
) -> Report:
    """Read some rows of a dataset, and report statistics and likely problems.

    Args:
        dataset: The dataset.
        tokenizer: The tokenizer that encoded the rows.
        rows: Indices of the rows to read.
        longest: Maximum length of an example (positions), as in `Batches`.
        held_out: Validation rows, which should not occur in the dataset.

    Raises:
        ValueError: a row cannot be used.
    """
    counts = Report(n_rows=len(dataset), n_read=len(rows))
    digests: set[int] = set()
    texts, prompts = set[int](), set[int]()
    suspect_counts = Counter[str]()
    bos_id, unknown = tokenizer.bos_id, getattr(tokenizer, "unknown_id", None)
    for row in rows:
        encoded = dataset[row]
        if isinstance(encoded, SkippedRow):
            counts.skipped[encoded.reason].append(encoded.location)
            continue
        notes = [note for item in as_items(encoded) for note in item.notes]
        counts.notes.add(notes, partial(location_of, dataset, row))
        for example in _examples(encoded):
            tokens = example.tokens
            texts.add(hash(tuple(tokens)))
            prompts.add(hash(_prompt(example)))
            counts.lengths.append(len(tokens))
            counts.n_tokens += len(tokens)
            counts.n_targets += example.n_targets
            counts.n_truncated += longest is not None and len(tokens) > longest + 1
            digest = hash((tuple(tokens), tuple(example.labels)))
            counts.n_duplicates += digest in digests
            digests.add(digest)
            suspect_counts["bos"] += bos_id is not None and tokens[:2] == [bos_id, bos_id]
            suspect_counts["end"] += example.labels[-1] not in tokenizer.stop_ids
            suspect_counts["unknown"] += tokens.count(unknown) if unknown is not None else 0
            suspect_counts["all"] += example.n_targets == len(tokens) - 1
    if held_out is not None:
        _compare(counts, held_out, texts, prompts)
    if is_plain_text(dataset):
        suspect_counts["end"] = suspect_counts["all"] = 0
    counts.warnings = _warnings(counts, suspect_counts)
    return counts


def _examples(encoded: Item | Sequence[Item]) -> list[Example]:
    """Return the sequences of a row's items."""
    return [sequence for item in as_items(encoded) for sequence in item.sequences]


def _prompt(example: Example) -> tuple[int, ...]:
    """Return the tokens before the first target."""
    first = next((i for i, label in enumerate(example.labels) if label != IGNORE_INDEX), 0)
    return tuple(example.tokens[:first])


def _compare(counts: Report, held_out: Rows[Item], texts: set[int], prompts: set[int]) -> None:
    """Find held-out rows that are also among the rows read."""
    for row in range(len(held_out)):
        encoded = held_out[row]
        if isinstance(encoded, SkippedRow):
            continue
        counts.n_held_out += 1
        if any(hash(tuple(example.tokens)) in texts for example in _examples(encoded)):
            counts.leaked_rows.append(location_of(held_out, row))
        elif any(len(_prompt(e)) > 1 and hash(_prompt(e)) in prompts for e in _examples(encoded)):
            counts.leaked_prompts.append(location_of(held_out, row))


def _warnings(counts: Report, suspect_counts: Counter[str]) -> list[str]:
    n = len(counts.lengths)
    if not n:
        return ["no row has a target"]
    examples = pluralize(n, "example")
    warnings = [
        *NoteCounts.from_skipped(counts.skipped).lines(counts.n_read),
        *counts.notes.lines(counts.n_read),
    ]
    if suspect_counts["bos"]:
        predicate = conjugate("begin with BOS twice, which the model has never seen", suspect_counts["bos"])
        warnings.append(f"{suspect_counts['bos']} of {examples} {predicate}")
    if suspect_counts["end"]:
        predicate = conjugate("do not end with a stop token", suspect_counts["end"])
        warnings.append(
            f"{suspect_counts['end']} of {examples} {predicate}, so the model does not learn to stop there (they are"
            " probably truncated answers or plain text)"
        )
    if suspect_counts["unknown"] > MAX_UNKNOWN_FRACTION * counts.n_tokens:
        fraction = suspect_counts["unknown"] / counts.n_tokens
        warnings.append(
            f"{fraction:.1%} of all tokens are unknown to the tokenizer, which was probably built for another language"
        )
    if suspect_counts["all"] == n:
        warnings.append("every token is a target: the model is trained on the prompts too")
    for locations, predicate in (
        (counts.leaked_rows, "are also in the training data"),
        (counts.leaked_prompts, "have the prompt of a training example, but a different answer"),
    ):
        if locations:
            rows = pluralize(counts.n_held_out, "held-out row")
            n_leaked = len(locations)
            warnings.append(
                f"{n_leaked} of {rows} {conjugate(predicate, n_leaked)}; first occurrence: {locations[0]}"
            )
    if counts.n_duplicates > n // 100:
        predicate = conjugate("repeat an earlier example", counts.n_duplicates)
        warnings.append(f"{counts.n_duplicates} of {examples} {predicate}")
    return warnings
