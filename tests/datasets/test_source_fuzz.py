"""Random rows written by other libraries are read back unchanged in every format."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.reading import error_of, rows_of
from torchtune.datasets import open_data_source

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text(
    "\"',;\t\r\n\\[]{}: a1\0\ufeff", max_size=8
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), min_size=1, max_size=5)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pa.Codec("zstd").compress(content, asbytes=True)),
}
COMPRESSIONS = st.sampled_from(sorted(COMPRESS))


def read_back(name: str, content: bytes, compression: str = "") -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name + compression)
        path.write_bytes(COMPRESS[compression](content))
        return rows_of(path)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    rows=ROWS,
    compression=COMPRESSIONS,
    name=st.sampled_from(["a.json", "a.jsonl", "a.ndjson"]),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_json_lists_are_read_back(
    rows: Any, compression: str, name: str, indent: int | None, ascii_only: bool, bom: bytes
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    assert read_back(name, bom + text.encode(), compression) == rows


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    rows=ROWS.filter(lambda rows: len(rows) > 1),
    compression=COMPRESSIONS,
    name=st.sampled_from(["a.json", "a.jsonl", "a.ndjson"]),
    line_ending=st.sampled_from(["\n", "\r\n", "\r", "\n \n"]),
    ascii_only=st.booleans(),
    has_final_line_ending=st.booleans(),
)
def test_json_lines_are_read_back(
    rows: Any, compression: str, name: str, line_ending: str, ascii_only: bool, has_final_line_ending: bool
) -> None:
    text = line_ending.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    text += line_ending * has_final_line_ending
    assert read_back(name, text.encode(), compression) == rows


@settings(max_examples=300, deadline=None)
@given(
    fields=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6),
    compression=COMPRESSIONS,
    line_ending=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    name=st.sampled_from(["a.csv", "a.tsv"]),
)
def test_csv_is_read_back(fields: Any, compression: str, line_ending: str, quoting: Any, name: str) -> None:
    # With these settings, the writer does not quote carriage returns.
    if quoting == csv.QUOTE_MINIMAL and line_ending == "\n":
        fields = [tuple(text.replace("\r", "") for text in pair) for pair in fields]
    file = io.StringIO(newline="")
    writer = csv.writer(
        file, lineterminator=line_ending, quoting=quoting, delimiter="," if name == "a.csv" else "\t"
    )
    writer.writerows([("first", "second"), *fields])
    assert read_back(name, file.getvalue().encode(), compression) == [
        {"first": first, "second": second} for first, second in fields
    ]


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(TEXTS, max_size=6), compression=COMPRESSIONS)
def test_text_is_read_back(lines: list[str], compression: str) -> None:
    texts = [line.replace("\r", "").replace("\n", "") for line in lines] + ["last"]
    texts = [text for text in texts if text.encode().strip()]
    content = "\n".join(texts).encode()
    first, *others = texts
    texts = [first.removeprefix("\ufeff"), *others]  # read as the file's byte order mark
    if content.count(0) > len(content) // 4 or not texts[0].encode().strip():
        return  # detected as a binary file
    assert [row["text"] for row in read_back("a.txt", content, compression)] == texts


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


STRUCTS = st.fixed_dictionaries(
    {},
    optional={
        "x": st.integers(0, 9),
        "y": TEXTS,
        "z": st.lists(st.fixed_dictionaries({}, optional={"w": TEXTS})),
    },
)
ARROW_ROWS = st.lists(
    st.fixed_dictionaries(
        {"a": TEXTS, "b": st.none() | STRUCTS, "c": st.lists(st.none() | STRUCTS, max_size=3)}
    ),
    min_size=1,
    max_size=4,
)
STRUCT = pa.struct({"x": pa.int64(), "y": pa.string(), "z": pa.list_(pa.struct({"w": pa.string()}))})
SCHEMA = pa.schema({"a": pa.string(), "b": STRUCT, "c": pa.list_(STRUCT)})


@settings(max_examples=25, deadline=None)
@given(rows=ARROW_ROWS)
def test_parquet_and_json_lines_agree(rows: Any) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink)
    lines = "\n".join(map(json.dumps, rows)).encode()
    assert read_back("a.parquet", sink.getvalue()) == rows == read_back("a.jsonl", lines)


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(max_size=60) | st.text('{}[]",:a1 \n\r\\ud8', max_size=40).map(str.encode),
    name=st.sampled_from(
        ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz", "a.csv.zst", "a.txt.xz"]
    ),
)
def test_any_bytes_produce_rows_or_a_one_line_error_with_the_file_name(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        try:
            table = open_data_source(str(path))
            rows = [table[i] for i in range(len(table))]
        except ValueError:
            message = error_of(path)
            assert message.startswith((f"{name}: ", f"{name} "))
            assert "\n" not in message
        else:
            assert rows
            assert all(isinstance(row, dict) for row in rows)
