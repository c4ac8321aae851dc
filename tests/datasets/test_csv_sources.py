"""CSV files yield the same rows as Python's csv module, without its size limit; an unclosed quote raises an error."""

import csv
import gzip
import io
from pathlib import Path

import pytest

from tests.datasets.reading import error_of, rows_of, usable_rows
from torchtune.datasets import open_data_source


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("line_ending", ["\n", "\r\n", "\r"])
def test_rows_match_the_csv_module(tmp_path: Path, name: str, line_ending: str) -> None:
    separator = "\t" if name == "a.tsv" else ","
    rows = [
        {"a": 'say "hi"', "b": f"x{separator}y"},
        {"a": "two\u2028\x85\x0clines", "b": '5" tall' + line_ending + "and wide"},
        {"a": "", "b": "nul\0"},
        {"a": "é" * 150_000, "b": " 3"},
    ]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["a", "b"], delimiter=separator, lineterminator=line_ending)
    writer.writeheader()
    writer.writerows(rows)
    path = write(tmp_path / name, "\ufeff" + file.getvalue())
    assert rows_of(path) == rows
    assert open_data_source(str(path)).location(3) == f"{path}: line 6"


def test_a_quote_inside_an_unquoted_field_is_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'a,b\n5" nails, "quoted"\nit\'s ""x"",3"\n')
    assert rows_of(path) == [{"a": '5" nails', "b": ' "quoted"'}, {"a": 'it\'s ""x""', "b": '3"'}]


def test_blank_lines_and_a_missing_final_line_ending_are_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "\n\na,b\n\n1,2\n\n\n3,4")
    assert rows_of(path) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert open_data_source(str(path)).location(1) == f"{path}: line 8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'a,b\n1,2\n"x,3\n5,6\n',
            "line 3: the quote that opens at column 1 is never closed; close it, or write a literal quote",
        ),
        ('a,b\n"x\ny",z\n1,"z\n5,6\n7,8', "line 4: the quote that opens at column 3 is never closed"),
        ('a,b\n1,"\n', "line 2: the quote that opens at column 3 is never closed"),
        (
            'a,b\n1,2\n"x,3\n"5",6\n7,8\n',
            "opens with a quote at column 1 continues after its closing quote on line 4, column 2; write a literal",
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
            "line 3: carriage return outside quotes; use the same line ending throughout the file",
        ),
        (
            "a;b\n1;2\n",
            "the first line names only one column, 'a;b'; fields seem to be separated by semicolons",
        ),
        ("a\tb\n1\t2\n", "separated by tabs, but a .csv file uses commas; rename the file to end in .tsv"),
        ("a|b\n1|2\n", "separated by vertical bars, but a .csv file uses commas; save it with commas"),
        (
            "sep=;\na;b\n",
            "fields seem to be separated by semicolons, but a .csv file uses commas; save it with",
        ),
        (
            ",a,b\n0,1,2\n",
            "the first line has no name for column 1 of 3; name it, or remove it (if it contains row numbers",
        ),
        ("a,b,\n1,2,\n", "the first line has no name for column 3 of 3"),
        ("a, ,b\n1,2,3\n", "the first line has no name for column 2 of 3"),
        ("a,b,a\n1,2,3\n", "the first line names the column 'a' twice; rename one"),
        ("a,b\n", "the file has no rows, only column names"),
        ("\n\n", "the file is empty; its first line must name the columns"),
        (b"a,\xff\n1,2\n", "line 1: expected UTF-8 text; byte 2 (0xff) is invalid; save the file as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "the file is UTF-16 text, not UTF-8; save it as UTF-8"),
    ],
)
def test_an_invalid_file_raises_an_error_with_the_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    error = error_of(write(tmp_path / "a.csv", text))
    assert error.startswith("a.csv: ")
    assert message in error


def test_other_separators_in_a_tsv_file_raise(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    assert "separated by commas, but a .tsv file uses tabs; rename" in error_of(write(path, "a,b\n1,2\n"))
    path = tmp_path / "a.tsv.gz"
    assert "but a .tsv file uses tabs; save it" in error_of(write(path, gzip.compress(b"a;b\n1;2\n")))


def test_a_single_column_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text\none; two\n"a, b"\n')
    assert rows_of(path) == [{"text": "one; two"}, {"text": "a, b"}]


@pytest.mark.parametrize("line", ["3", "3,4,5", "3,4,", "3;4"])
def test_a_row_with_a_different_length_raises_or_is_skipped(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "a.csv", f"a,b\n1,2\n{line}\n5,6\n")
    n_fields = line.count(",") + 1
    assert error_of(path).startswith(f"a.csv: line 3: expected 2 fields ('a', 'b'), got {n_fields}; put")
    assert usable_rows(path) == [{"a": "1", "b": "2"}, {"a": "5", "b": "6"}]


def test_records_longer_than_a_chunk_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchtune.datasets._records._CHUNK", 5)
    path = write(tmp_path / "a.csv", 'a,b\r\n"one\r\ntwo",2\r\nthree,"4\n"\r\n')
    assert rows_of(path) == [{"a": "one\r\ntwo", "b": "2"}, {"a": "three", "b": "4\n"}]
    assert "line 5: the quote that opens at column 3" in error_of(write(path, 'a,b\n"x\ny",1\n3,4\nz,"5\n'))
