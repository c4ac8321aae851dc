"""Sources in every format produce the same rows, and errors name the file and the line."""

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import pytest

from torchtune.datasets import RowError, open_data_source

ROWS = [
    {"instruction": "Add.", "input": "2, 3", "output": "5"},
    {"instruction": "Quote\nme.", "input": "", "output": 'a "b", c'},
    {"instruction": "Größe 🎉\u2028?", "input": "", "output": "So."},
]


def write(path: Path, rows: list[dict[str, str]] = ROWS) -> Path:
    """Write rows to a file, in the format given by its suffix."""
    table = datasets.Dataset.from_list(rows)
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            path.write_text(
                "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
            )
        case ".csv" | ".tsv":
            with path.open("w", newline="", encoding="utf-8-sig") as file:
                writer = csv.DictWriter(
                    file, rows[0].keys(), delimiter="\t" if path.suffix == ".tsv" else ","
                )
                writer.writeheader()
                writer.writerows(rows)
        case ".parquet":
            table.to_parquet(path)
        case "":
            table.save_to_disk(path)
    return path


def rows_of(source: Any) -> list[dict[str, Any]]:
    table = open_data_source(source)
    return [table[i] for i in range(len(table))]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "saved"])
def test_every_file_format_produces_the_same_rows(name: str, tmp_path: Path) -> None:
    table = open_data_source(str(write(tmp_path / name)))
    assert rows_of(str(tmp_path / name)) == ROWS
    copy = pickle.loads(pickle.dumps(table))
    assert (len(copy), copy[2]) == (3, ROWS[2])
    locations = {"a.jsonl": "line 3", "a.csv": "line 3", "a.tsv": "line 3"}
    assert table.location(1) == f"{tmp_path / name}: {locations.get(name, 'row 2')}"


def test_arrow_files_lists_and_text_lines_are_sources(tmp_path: Path) -> None:
    saved = write(tmp_path / "saved")
    (file,) = saved.glob("*.arrow")
    assert rows_of(str(file)) == ROWS
    assert rows_of(ROWS) == ROWS
    (tmp_path / "a.txt").write_bytes(b"one\r\n\n  \ntwo \nthree")
    assert rows_of(str(tmp_path / "a.txt")) == [{"text": "one"}, {"text": "two "}, {"text": "three"}]
    assert open_data_source(str(tmp_path / "a.txt")).location(1) == f"{tmp_path / 'a.txt'}: line 4"


def test_folders_and_patterns_are_read_in_file_name_order(tmp_path: Path) -> None:
    for i, name in enumerate(["b.jsonl", "a.jsonl", "sub/c.jsonl"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, [ROWS[i]])
    assert rows_of(str(tmp_path)) == [ROWS[1], ROWS[0], ROWS[2]]
    assert rows_of(str(tmp_path / "*.jsonl")) == [ROWS[1], ROWS[0]]
    assert rows_of(str(tmp_path / "**/*.jsonl")) == [ROWS[1], ROWS[0], ROWS[2]]
    table = open_data_source(str(tmp_path))
    assert table.location(2) == f"{tmp_path / 'sub/c.jsonl'}: line 1"
    write(tmp_path / "d.csv")
    with pytest.raises(
        ValueError, match=r"has files of several formats \(.csv, .jsonl\); select one with a file pattern"
    ):
        open_data_source(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"\*.parquet: the pattern matches no data files"):
        open_data_source(str(tmp_path / "*.parquet"))
    (tmp_path / "e.doc").touch()
    with pytest.raises(ValueError, match=r"e\.doc: expected a data file ending in"):
        open_data_source(str(tmp_path / "*.doc"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "a.csv: the file is empty; its first line must name the columns"),
        ("a.csv", b"a,b\n", "a.csv: the file has no rows"),
        ("a.csv", b"a,a\n1,2\n", "a.csv: the first line names the column 'a' twice"),
        (
            "a.csv",
            b'a,b\n"x\ny",2\n1,2,3\n',
            "a.csv: line 4: expected 2 fields ('a', 'b'), got 3; put a field",
        ),
        ("a.csv", b"a,b\n1,2\n\xff,2\n", "a.csv: line 3: expected UTF-8 text; byte 0 (0xff) is invalid"),
        ("a.txt", b" \n\n", "a.txt: the file has no rows"),
        ("a.jsonl", b"[1]\n", "a.jsonl: row 1: expected an object with named columns, or a string, got int"),
        ("a.jsonl", b'{"a": 1}\n{"a":\n', "a.jsonl: line 2: not valid JSON at column 6: Expecting value"),
        ("a.parquet", b"PAR1", "a.parquet cannot be read: it is damaged or not in"),
        ("a.arrow", b"ARROW1", "a.arrow cannot be read: it is damaged or not in"),
    ],
)
def test_errors_contain_the_file_and_the_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.") as raised:
        rows_of(str(tmp_path / name))
    assert message in str(raised.value)


def test_an_empty_list_raises() -> None:
    with pytest.raises(ValueError, match="source: the list has no rows"):
        open_data_source([])
    with pytest.raises(RowError, match="source: row 1: expected an object with named columns, or a string"):
        rows_of([["a"]])


def test_a_file_larger_than_a_chunk_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchtune.datasets._records._CHUNK", 7)
    rows = [{"a": "x" * (i % 11)} for i in range(200)]
    path = write(tmp_path / "a.jsonl", rows)
    assert rows_of(str(path)) == rows
    assert open_data_source(str(path)).location(150) == f"{path}: line 301"
