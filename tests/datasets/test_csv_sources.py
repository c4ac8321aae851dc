"""CSV files: as Python's csv module reads them, without its limits and without rows that a quote swallows."""

import csv
import gzip
import io
from pathlib import Path

import pytest

from tests.datasets.reading import error_of, rows_of, usable_rows
from torchtune._counted import counted
from torchtune.datasets import open_source


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_rows_are_those_of_the_csv_module(tmp_path: Path, name: str, line_end: str) -> None:
    separator = "\t" if name == "a.tsv" else ","
    rows = [
        {"a": 'say "hi"', "b": f"x{separator}y"},
        {"a": "two\u2028\x85\x0clines", "b": '5" tall' + line_end + "and wide"},
        {"a": "", "b": "nul\0"},
        {"a": "é" * 150_000, "b": " 3"},
    ]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["a", "b"], delimiter=separator, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    path = write(tmp_path / name, "\ufeff" + file.getvalue())
    assert rows_of(path) == rows
    assert open_source(str(path)).place(3) == f"{path}: line 6"


def test_a_quote_within_a_field_that_begins_otherwise_is_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'a,b\n5" nails, "quoted"\nit\'s ""x"",3"\n')
    assert rows_of(path) == [{"a": '5" nails', "b": ' "quoted"'}, {"a": 'it\'s ""x""', "b": '3"'}]


def test_blank_lines_and_a_missing_last_line_end_are_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "\n\na,b\n\n1,2\n\n\n3,4")
    assert rows_of(path) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert open_source(str(path)).place(1) == f"{path}: line 8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'a,b\n1,2\n"x,3\n5,6\n',
            "line 3: the quote that opens at column 1 is never closed; close it, or write",
        ),
        ('a,b\n"x\ny",z\n1,"z\n5,6\n7,8', "line 4: the quote that opens at column 3 is never closed"),
        ('a,b\n1,"\n', "line 2: the quote that opens at column 3 is never closed"),
        (
            'a,b\n1,2\n"x,3\n"5",6\n7,8\n',
            "opens with a quote at column 1 continues after its closing quote on line 4, column 2; write quotes within",
        ),
        (
            'a,b\n"one\ntwo","say \\"hi\\"",3\n',
            "line 3: the field that opens with a quote at column 6 continues after its closing quote on line 3,",
        ),
        (
            'a,b\n"x" ,2\n',
            "line 2: the field that opens with a quote at column 1 continues after its closing quote",
        ),
        ('"a,b\n1,2\n', "line 1: the quote that opens at column 1 is never closed"),
        (
            "a,b\n1,2\n3\r4,5\n",
            "line 3: a carriage return outside quotes; save the file with one kind of line ends",
        ),
        (
            "a;b\n1;2\n",
            "the first line names the single column 'a;b'; fields seem to be separated by semicolons",
        ),
        ("a\tb\n1\t2\n", "separated by tabs, where a .csv file has commas; rename the file to end in .tsv"),
        ("a|b\n1|2\n", "separated by vertical bars, where a .csv file has commas; save it with commas"),
        (
            "sep=;\na;b\n",
            "fields seem to be separated by semicolons, where a .csv file has commas; save it with",
        ),
        (
            ",a,b\n0,1,2\n",
            "the first line gives column 1 of 3 no name; name it, or leave it out (pandas writes row",
        ),
        ("a,b,\n1,2,\n", "the first line gives column 3 of 3 no name"),
        ("a, ,b\n1,2,3\n", "the first line gives column 2 of 3 no name"),
        ("a,b,a\n1,2,3\n", "the first line names the column 'a' twice; rename one"),
        ("a,b\n", "the file has no rows, only a line of column names"),
        ("\n\n", "the file is empty; its first line is to name the columns"),
        (b"a,\xff\n1,2\n", "line 1: expected UTF-8 text; byte 2 of it (0xff) is not; save the file as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "the file is UTF-16 text, not UTF-8; save it as UTF-8"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    said = error_of(write(tmp_path / "a.csv", text))
    assert said.startswith("a.csv: ")
    assert message in said


def test_other_separators_are_named_in_tsv_files_too(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    assert "separated by commas, where a .tsv file has tabs; rename" in error_of(write(path, "a,b\n1,2\n"))
    path = tmp_path / "a.tsv.gz"
    assert "where a .tsv file has tabs; save it" in error_of(write(path, gzip.compress(b"a;b\n1;2\n")))


def test_a_single_column_is_no_mistake(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text\none; two\n"a, b"\n')
    assert rows_of(path) == [{"text": "one; two"}, {"text": "a, b"}]


@pytest.mark.parametrize("line", ["3", "3,4,5", "3,4,", "3;4"])
def test_a_row_of_other_length_can_be_skipped(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "a.csv", f"a,b\n1,2\n{line}\n5,6\n")
    n_fields = counted(line.count(",") + 1, "field")
    assert error_of(path).startswith(
        f"a.csv: line 3: {n_fields}, where the first line names 2 columns: 'a', 'b';"
    )
    assert usable_rows(path) == [{"a": "1", "b": "2"}, {"a": "5", "b": "6"}]


def test_records_longer_than_what_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchtune.datasets._records._CHUNK", 5)
    path = write(tmp_path / "a.csv", 'a,b\r\n"one\r\ntwo",2\r\nthree,"4\n"\r\n')
    assert rows_of(path) == [{"a": "one\r\ntwo", "b": "2"}, {"a": "three", "b": "4\n"}]
    assert "line 5: the quote that opens at column 3" in error_of(write(path, 'a,b\n"x\ny",1\n3,4\nz,"5\n'))
