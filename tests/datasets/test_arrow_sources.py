"""Nested nulls that Arrow added are removed, so that Parquet and Arrow rows match JSON Lines rows."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.datasets.reading import error_of, rows_of
from torchtune.datasets import open_data_source


def tool(name: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{"id": "1", "function": {"name": name, "arguments": arguments}}],
    }


WEATHER = tool(
    "weather", {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}}, ["city"]
)
SEARCH = tool(
    "search", {"query": {"type": "string", "description": "Words"}, "limit": {"type": "integer"}}, []
)
TOOL_ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "Weather?"},
            call("weather", {"city": "Paris"}),
            {"role": "tool", "content": "Rain", "tool_call_id": "1"},
            {"role": "assistant", "content": "It rains."},
        ],
        "tools": [WEATHER],
        "source": "a",
    },
    {
        "messages": [{"role": "user", "content": "Find it."}, call("search", {"query": "it", "limit": 3})],
        "tools": [SEARCH, WEATHER],
        "source": None,
    },
    {"messages": [{"role": "user", "content": "Hello"}, call("search", {})], "tools": [], "source": "b"},
]


def from_datasets(rows: list[dict[str, Any]], folder: Path) -> Path:
    datasets.Dataset.from_list(rows).to_parquet(folder / "a.parquet")
    return folder / "a.parquet"


def from_pyarrow(rows: list[dict[str, Any]], folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "b.parquet")
    return folder / "b.parquet"


def saved(rows: list[dict[str, Any]], folder: Path) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder / "saved"


def arrow_stream(rows: list[dict[str, Any]], folder: Path) -> Path:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(folder / "c.arrow"), table.schema) as writer:
        writer.write_table(table)
    return folder / "c.arrow"


def arrow_file(rows: list[dict[str, Any]], folder: Path) -> Path:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(str(folder / "d.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return folder / "d.arrow"


WRITERS: list[Callable[[list[dict[str, Any]], Path], Path]] = [
    from_datasets, from_pyarrow, saved, arrow_stream, arrow_file,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
def test_tool_calls_match_the_same_json_lines(tmp_path: Path, write: Any) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, TOOL_ROWS)))
    path = write(TOOL_ROWS, tmp_path)
    assert rows_of(path) == rows_of(lines) == TOOL_ROWS
    table = pickle.loads(pickle.dumps(open_data_source(str(path))))
    assert table[1] == TOOL_ROWS[1]
    assert table.location(1) == f"{path}: row 2"


def test_streamed_rows_match_the_same_json_lines(tmp_path: Path) -> None:
    path = from_pyarrow(TOOL_ROWS, tmp_path)
    assert rows_of(path, load_options={"streaming": True}) == TOOL_ROWS


def test_hub_rows_match_the_same_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, split: str, streaming: bool = False) -> Any:
        table = datasets.Dataset.from_list(TOOL_ROWS)
        return table.to_iterable_dataset() if streaming else table

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert rows_of("who/what") == TOOL_ROWS
    assert rows_of("who/what", load_options={"streaming": True, "rows": 3}) == TOOL_ROWS


def test_null_columns_null_items_and_empty_objects_are_preserved(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "a": None,
            "b": [None, {"c": None, "d": [{"e": 1}, None]}],
            "f": {"g": {"h": None}, "i": None},
            "j": None,
        },
        {"a": 1, "b": [{"c": "x", "d": None}], "f": {"g": {"h": 1}, "i": 2}, "j": {"k": [1, None]}},
        {"a": 2, "b": [], "f": None, "j": {"k": []}},
    ]
    expected = [
        {"a": None, "b": [None, {"d": [{"e": 1}, None]}], "f": {"g": {}}, "j": None},
        {"a": 1, "b": [{"c": "x"}], "f": {"g": {"h": 1}, "i": 2}, "j": {"k": [1, None]}},
        {"a": 2, "b": [], "f": None, "j": {"k": []}},
    ]
    for write in WRITERS:
        folder = tmp_path / write.__name__
        folder.mkdir()
        assert rows_of(write(rows, folder)) == expected


def test_values_stored_as_json_keep_their_nulls(tmp_path: Path) -> None:
    rows = [{"a": [{"b": None, "c": {"d": None}}]}, {"a": [{"b": [1, "x"]}]}]
    features = datasets.Features({"a": datasets.List(datasets.Json())})
    table = datasets.Dataset.from_list(rows, features=features)
    table.save_to_disk(tmp_path / "saved")
    assert rows_of(tmp_path / "saved") == rows


@pytest.mark.parametrize(
    ("name", "content", "beginning"),
    [
        (
            "a.parquet",
            b"PAR1",
            "a.parquet cannot be read: it is damaged or not in the format that its name indicates (",
        ),
        (
            "a.arrow",
            b"ARROW1",
            "a.arrow cannot be read: it is damaged or not in the format that its name indicates (",
        ),
        (
            "a.arrow",
            b'{"a": 1}\n',
            "a.arrow cannot be read: it is damaged or not in the format that its name indicates (",
        ),
        (
            "a.parquet",
            b"",
            "a.parquet cannot be read: it is damaged or not in the format that its name indicates (",
        ),
    ],
)
def test_a_damaged_file_raises_a_one_line_error(
    tmp_path: Path, name: str, content: bytes, beginning: str
) -> None:
    (tmp_path / name).write_bytes(content)
    message = error_of(tmp_path / name)
    assert message.startswith(beginning)
    assert message.endswith("; copy or download it again")
    assert "\n" not in message


def test_a_table_without_rows_raises(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert error_of(tmp_path / "a.parquet") == "a.parquet: the file has no rows"
