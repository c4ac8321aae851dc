"""The JSON format is detected from the content; values that would be lost or misread raise errors."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.reading import error_of, rows_of, usable_rows
from torchtune.datasets import RowError, open_data_source

ROWS: list[dict[str, Any]] = [
    {"a": "x", "b": [1, 2.5, None, True]},
    {"a": "Größe 🎉\u2028", "b": {"c": {}}},
    {"a": "", "b": []},
]
NAMES = ["a.json", "a.jsonl", "a.ndjson", "a.JSON"]


@pytest.fixture(params=NAMES)
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / str(request.param)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_is_read_with_any_json_suffix(path: Path, indent: int | None, ascii_only: bool) -> None:
    path.write_text(json.dumps(ROWS, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("line_ending", ["\n", "\r\n", "\r", "\n\n", " \n\t\n", "\n" + 20 * " " + "\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("has_final_line_ending", [True, False])
def test_lines_are_read_with_any_json_suffix(
    path: Path, line_ending: str, bom: bytes, has_final_line_ending: bool
) -> None:
    text = line_ending.join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    text += line_ending * has_final_line_ending
    path.write_bytes(bom + text.encode())
    assert rows_of(path) == ROWS


def test_strings_are_read_as_rows_with_a_text_column(path: Path) -> None:
    path.write_text('["a", "b\\n"]')
    assert rows_of(path) == [{"text": "a"}, {"text": "b\n"}]
    path.write_text('"a"\n"b\\n"\n')
    assert rows_of(path) == [{"text": "a"}, {"text": "b\n"}]
    assert rows_of(["a", {"a": 1}]) == [{"text": "a"}, {"a": 1}]


def test_the_location_of_a_row_in_a_list_contains_its_index_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, indent=1))
    table = open_data_source(str(path))
    begin = [i for i, line in enumerate(path.read_text().split("\n"), 1) if line == " {"]
    assert [table.location(i) for i in range(3)] == [
        f"{path}: row {i + 1} (line {begin[i]})" for i in range(3)
    ]
    path.write_text(json.dumps(ROWS))
    assert open_data_source(str(path)).location(1) == f"{path}: row 2"


def test_locations_can_be_requested_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"a": {i}}}\n\n' for i in range(50)))
    table = open_data_source(str(path))
    for i in (3, 40, 2, 49, 0, 0, 12):
        assert table.location(i) == f"{path}: line {2 * i + 1}"


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_list_longer_than_a_chunk_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("torchtune.datasets._records._CHUNK", size)
    rows = [
        {"a": "é" * (i % 7), "b": [i, -1.5e3, True, None] * (i % 3), "c": '"\\ud83d\\ude00\\'}
        for i in range(60)
    ]
    path = tmp_path / "a.json"
    for indent in (None, 1):
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert rows_of(path) == rows
    path.write_text(json.dumps(rows)[:-30])
    assert "not valid JSON at column" in error_of(path)
    path.write_text(json.dumps(rows, indent=0).replace("true", "tru", 1))
    line = path.read_text().splitlines().index("tru,") + 1
    assert error_of(path) == f"a.json: not valid JSON at line {line}, column 1: Expecting value"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{\n "data": [{"a": 1}, {"a": 2}], "version": 1\n}',
            "its key 'data' contains a list of 2 objects: if those",
        ),
        (
            '{"data": [{"a": 1}, {"a": 2}]}\n',
            "its key 'data' contains a list of 2 objects: if those are the rows",
        ),
        (
            '{"test": [{}], "train": [{}, {}]}',
            "its key 'train' contains a list of 2 objects, 'test' a list of 1: if",
        ),
        ('{"messages": [{"role": "user"}]}', "it seems to be one row: put it in a list, [{...}]"),
        ('{"a": "x"}', "its keys are 'a'; if the object itself is a row, put it in a list: [{...}]"),
        ('{"a": ["x", "y"],\n "b": ["z", "w"]}', "its keys 'a', 'b' seem to be columns: save a list of rows"),
        ('{"a": {"0": "x", "1": "y"}}', "its keys 'a' seem to be columns"),
        ('{"id1": {"a": 1}, "id2": {"a": 2}}', "its keys 'id1', 'id2' seem to be row names"),
        ("{}", "its keys are none"),
    ],
)
def test_an_object_in_place_of_a_list_raises_an_error_with_advice(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    error = error_of(path)
    assert error.startswith("a.json: expected a list of rows or one row per line, got one object; ")
    assert message in error


def test_a_single_object_in_a_jsonl_file_is_read_as_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"data": [{"a": 1}, {"a": 2}]}')
    assert rows_of(path) == [{"data": [{"a": 1}, {"a": 2}]}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{\n "a": 1\n}\n{\n "a": 2\n}\n',
            "line 1: the object that begins here ends on line 3; write each row on one",
        ),
        (
            '\n{"a":\n 1}\n\n{"a": 2}\n',
            "line 2: the object that begins here ends on line 3; write each row on one",
        ),
        ('{"a": 1}\n{\n"a": 2\n}\n', "line 2: not valid JSON at column 2: Expecting property name"),
        (
            '{"a": 1},\n{"a": 2}\n',
            "line 1: not valid JSON at column 9: Extra data; remove the comma at the end",
        ),
        (
            '{"a": 1} {"a": 2}\n',
            "line 1: not valid JSON at column 10: Extra data; write one row per line and nothing",
        ),
        ("{'a': 1}\n{'a': 2}\n", "JSON uses double quotes: write rows with json.dumps, not str"),
        (
            '{"a": 1}\n{"a": "x\n',
            "line 2: not valid JSON at column 7: Unterminated string starting at; the line ends",
        ),
        ('[{"a": 1},]', "not valid JSON at column 11: trailing comma after the last row; remove the comma"),
        ('[{"a": 1}\n {"a": 2}]', "not valid JSON at line 2, column 2: Expecting ',' delimiter"),
        ('[\n{"a": 1}\n', "not valid JSON at line 3, column 1: the list is not closed; expected ']'"),
        (
            '[\n{"a": 1}]\n[{"a": 2}]',
            "line 3: the list of rows ends before this line; remove the text after it",
        ),
        ("[1]\n[2]\n", "line 1: expected an object with named columns, or a string, got list"),
        ('[{"a": 1}, 2]', "row 2: expected an object with named columns, or a string, got int"),
        ("null\n", "line 1: expected an object with named columns, or a string, got NoneType"),
        ('["\\ud83d"]', "row 1: column 'text' contains '\\ud83d'"),
        (" \n\n", "the file has no rows"),
        ("[ ]", "the file has no rows"),
        ("[" * 100_000, "not valid JSON at column 2: the value is nested too deeply to be read"),
    ],
)
def test_invalid_json_raises_an_error_with_the_line(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    error = error_of(path)
    assert error.startswith(f"{path.name}: ")
    assert message in error


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"a": NaN}', "NaN is not a JSON value; use null or a number"),
        ('{"a": [{"b": -Infinity}]}', "-Infinity is not a JSON value; use null or a number"),
        ('{"a": 1e999}', "the number 1e999 is too large for a float"),
        ('{"a": 1, "b": 2, "a": 3}', "an object has the key 'a' twice; remove one of them"),
        ('{"m": [{"role": "user", "role": "user"}]}', "an object has the key 'role' twice"),
        ('{"a": ' + "9" * 5000 + "}", "a number cannot be read: Exceeds the limit (4300 digits)"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "the value is nested too deeply to be read"),
        ('{"a": "\\ud83d", "b": 1}', "column 'a' contains '\\ud83d', an unpaired surrogate"),
        ('{"b": 1, "a": [{"c": "x\\uDE00"}]}', "column 'a' contains '\\ude00', an unpaired surrogate"),
        ('{"b": 1, "a": {"c\\ud83d": 1}}', "column 'a' contains '\\ud83d', an unpaired surrogate"),
        ('{"\\ud83d": 1}', "column '\\ud83d' contains '\\ud83d', an unpaired surrogate"),
        ('{"a": "\ud83d"}', "expected UTF-8 text; byte 7 (0xed) is invalid; save the file as UTF-8"),
        ('{"a": "\udcff"}', "expected UTF-8 text; byte 7 (0xff) is invalid; save the file as UTF-8"),
    ],
)
def test_a_row_that_would_be_misread_raises_or_is_skipped(tmp_path: Path, value: str, message: str) -> None:
    raw = value.encode("utf-8", "surrogateescape" if "\udcff" in value else "surrogatepass")
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + raw + b'\n{"a": 2}\n')
    assert error_of(path).startswith(f"a.jsonl: line 2: {message}")
    assert usable_rows(path) == [{"a": 1}, {"a": 2}]
    if "nested" not in message:  # a list with an overly nested row cannot be read at all
        path.write_bytes(b'[{"a": 1},\n' + raw + b'\n,{"a": 2}]\n')
        assert error_of(path).startswith(f"a.jsonl: row 2 (line 2): {message}")
        assert usable_rows(path) == [{"a": 1}, {"a": 2}]


def test_complete_surrogate_pairs_are_read_as_characters(path: Path) -> None:
    rows = [{"a": "🎉\u2028", "b": {"c": ["𝄞"]}}]
    path.write_text("[" + json.dumps(rows[0]) + "]")
    assert "\\ud83c" in path.read_text()
    assert rows_of(path) == rows


def test_an_unpaired_surrogate_in_a_list_of_rows_raises_an_error_with_the_row() -> None:
    rows = [{"a": "fine"}, {"a": 1, "b": [{"c": ("x\udc00",)}]}]
    with pytest.raises(
        RowError, match=r"source: row 2: column 'b' contains '\\udc00', an unpaired surrogate"
    ):
        rows_of(rows)
    assert usable_rows(rows) == rows[:1]


def test_byte_order_marks_of_appended_files_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\xef\xbb\xbf{"a": 2}\n')
    assert rows_of(path) == [{"a": 1}, {"a": 2}]


def test_a_file_that_changes_after_it_was_opened_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    state = pickle.dumps(open_data_source(str(path)))
    path.write_text('{"long": "row"}\n{"a": 2}\n')
    with pytest.raises(OSError, match=r"a.jsonl: the file has changed since it was opened; restart the run"):
        pickle.loads(state)[0]
