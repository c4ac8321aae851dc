"""Streams: Parquet files read by `datasets` itself, compared with the rows that were written into them."""

import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.config import lazy
from torchtune.data import Batches, Example
from torchtune.datasets import ConcatDataset, InstructDataset, TextCompletionDataset, _stream, open_source

TOKENIZER = ByteTokenizer()
N, BLOCK = 100, 8
SIZES = [37, 1, 0, 40, 22]
STREAMED: dict[str, str | int | bool] = {"streaming": True}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write 100 rows into five files, one of them empty; a block is of 8 rows."""
    monkeypatch.setattr(_stream, "BLOCK", BLOCK)
    ends = list(itertools.accumulate(SIZES))
    for i, (end, size) in enumerate(zip(ends, SIZES, strict=True)):
        texts = [text(row) for row in range(end - size, end)]
        table = pa.table({"text": pa.array(texts, pa.string())})
        pq.write_table(table, tmp_path / f"part-{i}.parquet", row_group_size=5)
    return str(tmp_path)


def text(row: int) -> str:
    """Return what stands in a row; lengths differ."""
    return f"{row:03d}" + "x" * (row * 7 % 23)


def streamed(source: str, **options: Any) -> TextCompletionDataset:
    return TextCompletionDataset(TOKENIZER, source, load_options={**STREAMED, **options})


def batches(source: str, batch_size: int = 4, **settings: Any) -> Batches[Example]:
    return Batches(
        streamed(source), batch_size, **{"shuffle": True, "seed": 3, "pad_id": 0, "window": 16, **settings}
    )


def read(drawn: list[list[Example]]) -> list[list[str]]:
    """Name the rows that were drawn by their first three characters."""
    return [[TOKENIZER.decode(example.tokens[1:4]) for example in row] for row in drawn]


def test_any_row_can_be_asked_for_in_any_order(source: str) -> None:
    table = open_source(source, load_options=STREAMED)
    assert len(table) == N
    for row in [0, 1, 99, 7, 8, 50, 49, 98, 0]:
        assert table[row] == {"text": text(row)}
    assert table.place(7) == f"{source}: row 8"


@pytest.mark.parametrize("packed_length", [None, 64])
def test_every_epoch_holds_every_row_once(source: str, packed_length: int | None) -> None:
    found = batches(source, packed_length=packed_length)
    epochs = 3
    n_rows = found.steps_in(epochs) * 4
    drawn = Counter(name for row in read(found.take(n_rows)) for name in row)
    assert set(drawn) == {f"{row:03d}" for row in range(N)}
    assert min(drawn.values()) == epochs
    assert sum(drawn.values()) < epochs * N + 4 * 22  # the last batch reaches into the next epoch


def test_rows_are_shuffled_within_blocks_and_anew_in_every_epoch(source: str) -> None:
    found = batches(source)
    first, second = ([int(row[0]) for row in read(found.take(N))] for _ in range(2))
    assert first != second
    for order in (first, second):
        assert order != sorted(order)
        assert [row // BLOCK for row in order] == sorted(row // BLOCK for row in range(N))
    unshuffled = batches(source, shuffle=False)
    assert [int(row[0]) for row in read(unshuffled.take(N))] == list(range(N))


@pytest.mark.parametrize("packed_length", [None, 64])
def test_the_order_is_the_same_for_any_number_of_ranks(source: str, packed_length: int | None) -> None:
    alone = read(batches(source, packed_length=packed_length).take(96))
    for size in (2, 4):
        ranks = [
            batches(source, 3, packed_length=packed_length, rank=rank, size=size) for rank in range(size)
        ]
        for call in range(96 // (3 * size)):
            for rank, found in enumerate(ranks):
                first = 3 * (call * size + rank)
                names = [TOKENIZER.decode(tokens) for tokens in next(found).tokens[:, 1:4].tolist()]
                assert names == [row[0] for row in alone[first : first + 3]]


@pytest.mark.parametrize("packed_length", [None, 64])
@pytest.mark.parametrize("stop", [0, 1, 9, 30, 60, 140])
def test_a_stream_is_taken_up_where_it_was_left(source: str, packed_length: int | None, stop: int) -> None:
    unbroken = batches(source, packed_length=packed_length)
    unbroken.take(stop)
    state = pickle.loads(pickle.dumps(unbroken.state_dict()))
    resumed = batches(source, packed_length=packed_length)
    resumed.load_state_dict(state)
    assert read(resumed.take(150)) == read(unbroken.take(150))


def test_taking_up_reads_a_few_blocks_and_not_what_stands_before(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = batches(source, packed_length=64)
    found.take(20)
    while found.state_dict()["window"] % 7 != 5:  # some way into an epoch of seven windows
        found.take(1)
    resumed = batches(source, packed_length=64)
    read_rows = 0
    taken = _stream.StreamTable._read

    def counted(self: _stream.StreamTable, n: int, rows: Any) -> Any:
        nonlocal read_rows
        read_rows += n
        return taken(self, n, rows)

    monkeypatch.setattr(_stream.StreamTable, "_read", counted)
    resumed.load_state_dict(found.state_dict())
    assert read(resumed.take(1)) == read(found.take(1))
    assert read_rows <= 6 * BLOCK


def test_bookmarks_are_few_and_those_of_the_latest_blocks_in_every_epoch(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream, "_MAX_BOOKMARKS", 3)
    found = batches(source)
    for _ in range(5):  # through two epochs
        found.take(50)
        table = found._windows.dataset._table  # type: ignore[attr-defined]  # a RowDataset's
        assert len(table._bookmarks) <= 4
        assert found.state_dict()["bookmarks"]
    resumed = batches(source)
    resumed.load_state_dict(found.state_dict())
    assert read(resumed.take(30)) == read(found.take(30))


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_that_read_ahead_change_nothing(source: str, workers: int) -> None:
    with batches(source, workers=workers) as ahead, batches(source) as found:
        assert read(ahead.take(250)) == read(found.take(250))
        state = ahead.state_dict()
    assert state["bookmarks"]
    resumed = batches(source)
    resumed.load_state_dict(state)
    assert read(resumed.take(60)) == read(found.take(60))


def test_some_of_the_rows_are_used_where_rows_says_so(source: str) -> None:
    for rows in (10, "10"):
        found = streamed(source, rows=rows)
        assert len(found) == 10
    assert [found[i] for i in range(10)] == [streamed(source)[i] for i in range(10)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"streaming": "perhaps"}, "load_options.streaming: expected true or false, got 'perhaps'"),
        ({"streaming": True, "rows": 0}, "load_options.rows: expected a number above 0, got 0"),
        ({"streaming": True, "rows": "few"}, "load_options.rows: expected a number above 0, got 'few'"),
        ({"streaming": True, "rows": 101}, r"load_options.rows: .* has 100 rows, not 101"),
        ({"rows": 10}, "load_options.rows: is for streams"),
        ({"name": "en"}, "name would have no effect"),
    ],
)
def test_options_that_mean_nothing_are_refused(source: str, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TextCompletionDataset(TOKENIZER, source, load_options=options)


def test_what_cannot_be_streamed_is_refused(source: str, tmp_path: Path) -> None:
    lines = tmp_path / "lines" / "rows.jsonl"
    lines.parent.mkdir()
    lines.write_text('{"text": "a"}\n')
    with pytest.raises(
        ValueError, match=r"of local files, only Parquet is streamed; .*rows.jsonl is read row"
    ):
        streamed(str(lines))
    lines.unlink()
    with pytest.raises(ValueError, match="a list of rows is in memory already"):
        TextCompletionDataset(TOKENIZER, [{"text": "a"}], load_options=STREAMED)
    with pytest.raises(ValueError, match="rows that are streamed cannot be mixed with others"):
        ConcatDataset(TOKENIZER, [lazy(TextCompletionDataset, source=source, load_options=STREAMED)])
    (tmp_path / "part-1.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"part-1.parquet is damaged, or no Parquet file"):
        streamed(source)


class Hub:
    """Stands in for `datasets.load_dataset`: streams local files under the name of a data set on the hub."""

    def __init__(self, source: str, told: int | None) -> None:
        self.source, self.told = source, told
        self.load = datasets.load_dataset

    def __call__(self, path: str, split: str, streaming: bool = False) -> Any:
        files = [str(Path(self.source, f"part-{i}.parquet")) for i, size in enumerate(SIZES) if size]
        stream = self.load("parquet", data_files=files, split=split, streaming=streaming)
        if self.told is not None:
            stream.info.splits = {split: datasets.SplitInfo(split, num_examples=self.told)}
        return stream


def test_a_data_set_of_the_hub_is_streamed(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", Hub(source, N))
    found = TextCompletionDataset(TOKENIZER, "who/what", load_options=STREAMED)
    drawn = [found[i] for i in range(N)]
    assert found.place(3) == "who/what: row 4"
    monkeypatch.undo()
    assert drawn == [streamed(source)[i] for i in range(N)]


def test_a_data_set_that_does_not_say_how_long_it_is_needs_a_number(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", Hub(source, None))
    with pytest.raises(
        ValueError, match=r"who/what: does not say how many rows it has; load_options.rows is to"
    ):
        streamed("who/what")
    found = streamed("who/what", rows=150)
    assert len(found) == 150
    with pytest.raises(
        ValueError, match=r"who/what: row 101: the stream has 100 rows, not 150; load_options.rows"
    ):
        found[100]
    with pytest.raises(ValueError, match="who/what: row 121: the stream has fewer rows, not 150"):
        found[120]


def test_a_stream_that_breaks_off_is_named_and_can_go_on(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = streamed(source)
    last = Path(source, "part-3.parquet")
    kept = last.read_bytes()
    last.write_bytes(kept[:50])
    with pytest.raises(OSError, match=r"row \d+: the stream broke off: ArrowInvalid"):
        list(map(found.__getitem__, range(N)))
    last.write_bytes(kept)
    assert [found[i] for i in range(N)] == [streamed(source)[i] for i in range(N)]


def test_a_stream_of_instructions_names_a_missing_column(source: str) -> None:
    with pytest.raises(ValueError, match=r"row 1: no column 'instruction'; the columns found are 'text'"):
        InstructDataset(TOKENIZER, source, template="alpaca", load_options=STREAMED)
