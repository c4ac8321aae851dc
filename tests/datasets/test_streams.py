"""Streams of Parquet files are compared with the rows that were written to the files."""

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
from torchtune.datasets import (
    ConcatDataset,
    InstructDataset,
    TextCompletionDataset,
    _stream,
    open_data_source,
)

TOKENIZER = ByteTokenizer()
N, BLOCK = 100, 8
SIZES = [37, 1, 0, 40, 22]
STREAMED: dict[str, str | int | bool] = {"streaming": True}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write 100 rows to five files, including an empty file, and set the block size to 8 rows."""
    monkeypatch.setattr(_stream, "BLOCK", BLOCK)
    ends = list(itertools.accumulate(SIZES))
    for i, (end, size) in enumerate(zip(ends, SIZES, strict=True)):
        texts = [text(row) for row in range(end - size, end)]
        table = pa.table({"text": pa.array(texts, pa.string())})
        pq.write_table(table, tmp_path / f"part-{i}.parquet", row_group_size=5)
    return str(tmp_path)


def text(row: int) -> str:
    """Return the text of a row; its length depends on the row."""
    return f"{row:03d}" + "x" * (row * 7 % 23)


def streamed(source: str, **options: Any) -> TextCompletionDataset:
    return TextCompletionDataset(TOKENIZER, source, load_options={**STREAMED, **options})


def batches(source: str, batch_size: int = 4, **settings: Any) -> Batches[Example]:
    return Batches(
        streamed(source), batch_size, **{"shuffle": True, "seed": 3, "pad_id": 0, "window": 16, **settings}
    )


def read(packs: list[list[Example]]) -> list[list[str]]:
    """Return the row numbers in each pack: the first three characters of each text."""
    return [[TOKENIZER.decode(example.tokens[1:4]) for example in pack] for pack in packs]


def test_rows_can_be_read_in_any_order(source: str) -> None:
    table = open_data_source(source, load_options=STREAMED)
    assert len(table) == N
    for row in [0, 1, 99, 7, 8, 50, 49, 98, 0]:
        assert table[row] == {"text": text(row)}
    assert table.location(7) == f"{source}: row 8"


@pytest.mark.parametrize("packed_length", [None, 64])
def test_every_epoch_has_every_row_once(source: str, packed_length: int | None) -> None:
    actual = batches(source, packed_length=packed_length)
    epochs = 3
    n_rows = actual.steps_in(epochs) * 4
    counts = Counter(name for row in read(actual.take(n_rows)) for name in row)
    assert set(counts) == {f"{row:03d}" for row in range(N)}
    assert min(counts.values()) == epochs
    assert sum(counts.values()) < epochs * N + 4 * 22  # the last batch includes rows of the next epoch


def test_every_epoch_shuffles_the_rows_within_blocks_differently(source: str) -> None:
    actual = batches(source)
    first, second = ([int(row[0]) for row in read(actual.take(N))] for _ in range(2))
    assert first != second
    for order in (first, second):
        assert order != sorted(order)
        assert [row // BLOCK for row in order] == sorted(row // BLOCK for row in range(N))
    unshuffled = batches(source, shuffle=False)
    assert [int(row[0]) for row in read(unshuffled.take(N))] == list(range(N))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("packed_length", [None, 64])
def test_the_order_is_the_same_for_any_number_of_ranks(source: str, packed_length: int | None) -> None:
    single_rank = read(batches(source, packed_length=packed_length).take(96))
    for size in (2, 4):
        ranks = [
            batches(source, 3, packed_length=packed_length, rank=rank, size=size) for rank in range(size)
        ]
        for call in range(96 // (3 * size)):
            for rank, actual in enumerate(ranks):
                first = 3 * (call * size + rank)
                names = [TOKENIZER.decode(tokens) for tokens in next(actual).tokens[:, 1:4].tolist()]
                assert names == [row[0] for row in single_rank[first : first + 3]]


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("packed_length", [None, 64])
@pytest.mark.parametrize("stop", [0, 1, 9, 30, 60, 140])
def test_a_stream_resumes_where_it_stopped(source: str, packed_length: int | None, stop: int) -> None:
    uninterrupted = batches(source, packed_length=packed_length)
    uninterrupted.take(stop)
    state = pickle.loads(pickle.dumps(uninterrupted.state_dict()))
    resumed = batches(source, packed_length=packed_length)
    resumed.load_state_dict(state)
    assert read(resumed.take(150)) == read(uninterrupted.take(150))


def test_resuming_reads_only_a_few_earlier_blocks(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    actual = batches(source, packed_length=64)
    actual.take(20)
    while actual.state_dict()["window"] % 7 != 5:  # stop within an epoch, which has seven windows
        actual.take(1)
    resumed = batches(source, packed_length=64)
    read_rows = 0
    original_read = _stream.StreamTable._read

    def counted(self: _stream.StreamTable, n: int, rows: Any) -> Any:
        nonlocal read_rows
        read_rows += n
        return original_read(self, n, rows)

    monkeypatch.setattr(_stream.StreamTable, "_read", counted)
    resumed.load_state_dict(actual.state_dict())
    assert read(resumed.take(1)) == read(actual.take(1))
    assert read_rows <= 6 * BLOCK


def test_only_bookmarks_of_the_latest_blocks_are_kept(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "_MAX_BOOKMARKS", 3)
    actual = batches(source)
    for _ in range(5):  # two epochs or more
        actual.take(50)
        table = actual._windows.dataset._table  # type: ignore[attr-defined]  # `_table` is an attribute of RowDataset
        assert len(table._bookmarks) <= 4
        assert actual.state_dict()["bookmarks"]
    resumed = batches(source)
    resumed.load_state_dict(actual.state_dict())
    assert read(resumed.take(30)) == read(actual.take(30))


@pytest.mark.parametrize("workers", [1, 2])
def test_prefetching_workers_do_not_change_the_batches(source: str, workers: int) -> None:
    with batches(source, workers=workers) as prefetched, batches(source) as actual:
        assert read(prefetched.take(250)) == read(actual.take(250))
        state = prefetched.state_dict()
    assert state["bookmarks"]
    resumed = batches(source)
    resumed.load_state_dict(state)
    assert read(resumed.take(60)) == read(actual.take(60))


def test_the_rows_option_limits_the_number_of_rows(source: str) -> None:
    for rows in (10, "10"):
        dataset = streamed(source, rows=rows)
        assert len(dataset) == 10
    assert [dataset[i] for i in range(10)] == [streamed(source)[i] for i in range(10)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streaming": "perhaps"}, "load_options.streaming: expected true or false, got 'perhaps'"),
        ({"streaming": True, "rows": 0}, "load_options.rows: expected a number above 0, got 0"),
        ({"streaming": True, "rows": "few"}, "load_options.rows: expected a number above 0, got 'few'"),
        ({"streaming": True, "rows": 101}, r"load_options.rows: .* has only 100 rows, got 101"),
        ({"rows": 10}, "load_options.rows has an effect only with streaming"),
        ({"name": "en"}, "name would have no effect"),
    ],
)
def test_invalid_options_raise(source: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextCompletionDataset(TOKENIZER, source, load_options=options)


def test_a_source_that_cannot_be_streamed_raises(source: str, tmp_path: Path) -> None:
    lines = tmp_path / "lines" / "rows.jsonl"
    lines.parent.mkdir()
    lines.write_text('{"text": "a"}\n')
    with pytest.raises(
        ValueError, match=r"only Parquet files can be streamed; remove this option, since .*rows.jsonl is"
    ):
        streamed(str(lines))
    lines.unlink()
    with pytest.raises(ValueError, match="has no effect on a list of rows, which is already in memory"):
        TextCompletionDataset(TOKENIZER, [{"text": "a"}], load_options=STREAMED)
    with pytest.raises(ValueError, match="a streamed dataset cannot be concatenated"):
        ConcatDataset(TOKENIZER, [lazy(TextCompletionDataset, source=source, load_options=STREAMED)])
    (tmp_path / "part-1.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(
        ValueError, match=r"part-1.parquet cannot be read: it is damaged or not a Parquet file"
    ):
        streamed(source)


class FakeHub:
    """A replacement for `datasets.load_dataset` that streams local files under a hub dataset's name."""

    def __init__(self, source: str, n_declared: int | None) -> None:
        self.source, self.n_declared = source, n_declared
        self.load = datasets.load_dataset

    def __call__(self, path: str, split: str, streaming: bool = False) -> Any:
        files = [str(Path(self.source, f"part-{i}.parquet")) for i, size in enumerate(SIZES) if size]
        stream = self.load("parquet", data_files=files, split=split, streaming=streaming)
        if self.n_declared is not None:
            stream.info.splits = {split: datasets.SplitInfo(split, num_examples=self.n_declared)}
        return stream


@pytest.mark.slow
def test_a_dataset_on_the_hub_is_streamed(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", FakeHub(source, N))
    dataset = TextCompletionDataset(TOKENIZER, "who/what", load_options=STREAMED)
    rows = [dataset[i] for i in range(N)]
    assert dataset.location(3) == "who/what: row 4"
    monkeypatch.undo()
    assert rows == [streamed(source)[i] for i in range(N)]


def test_a_stream_of_unknown_length_requires_the_rows_option(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", FakeHub(source, None))
    with pytest.raises(
        ValueError, match=r"who/what: the number of rows is unknown; set load_options.rows to"
    ):
        streamed("who/what")
    dataset = streamed("who/what", rows=150)
    assert len(dataset) == 150
    with pytest.raises(
        ValueError, match=r"who/what: row 101: the stream has only 100 of 150 rows; correct load_options.rows"
    ):
        dataset[100]
    with pytest.raises(ValueError, match="who/what: row 121: the stream has fewer than 150 rows"):
        dataset[120]


@pytest.mark.slow
def test_an_interrupted_stream_raises_and_can_be_read_again(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = streamed(source)
    last = Path(source, "part-3.parquet")
    content = last.read_bytes()
    last.write_bytes(content[:50])
    with pytest.raises(OSError, match=r"row \d+: the stream was interrupted: ArrowInvalid"):
        list(map(dataset.__getitem__, range(N)))
    last.write_bytes(content)
    assert [dataset[i] for i in range(N)] == [streamed(source)[i] for i in range(N)]


def test_a_missing_column_in_a_stream_raises_an_error_with_its_name(source: str) -> None:
    with pytest.raises(ValueError, match=r"row 1: no column 'instruction'; the row's columns are 'text'"):
        InstructDataset(TOKENIZER, source, template="alpaca", load_options=STREAMED)
