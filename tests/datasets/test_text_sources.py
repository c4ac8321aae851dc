"""Plain text files are split into lines at line endings only."""

import pickle
from pathlib import Path

import pytest

from tests.datasets.reading import error_of, rows_of
from torchtune.datasets import open_data_source

NOT_LINE_ENDINGS = "\x00 \x0b \x0c \x1c \x1d \x1e \x85 \u2028 \u2029 \ufeff \t \u3000"
"""Characters that Python's `splitlines` and other readers treat as line endings, and other white space."""


def texts(path: Path) -> list[str]:
    return [row["text"] for row in rows_of(path)]


@pytest.mark.parametrize(
    "line_ending", [b"\n", b"\r\n", b"\r", b"\n\n", b"\n   \t   \x0c       \n", b"\r\r\n"]
)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("has_final_line_ending", [True, False])
def test_only_line_endings_separate_lines(
    tmp_path: Path, line_ending: bytes, bom: bytes, has_final_line_ending: bool
) -> None:
    lines = ["one", f"  two {NOT_LINE_ENDINGS} three ", "größe 🎉", "x"]
    path = tmp_path / "a.txt"
    final_line_ending = line_ending * has_final_line_ending
    path.write_bytes(bom + line_ending.join(line.encode() for line in lines) + final_line_ending)
    assert texts(path) == lines
    table = open_data_source(str(path))
    assert pickle.loads(pickle.dumps(table))[1] == table[1]


def test_a_carriage_return_within_a_line_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"10%\r20%\r100%\ndone\r\n")
    assert texts(path) == ["10%\r20%\r100%", "done"]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_lines_longer_than_a_chunk_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("torchtune.datasets._records._CHUNK", size)
    lines = [" " * (i % 3) + "ab" * (i % 9) + str(i) for i in range(80)]
    path = tmp_path / "a.txt"
    path.write_text("\n \n".join([*lines, "", 30 * " "]))
    assert texts(path) == lines
    assert open_data_source(str(path)).location(79) == f"{path}: line 159"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello\n".encode("utf-16"), "UTF-16 text, not UTF-8; save it as UTF-8"),
        ("hello\n".encode("utf-16-be"), "binary, or UTF-16 text, not UTF-8; save it as UTF-8"),
        ("hello\n".encode("utf-32"), "UTF-16 text"),
        (b"PK\x03\x04 and so on", "a ZIP archive; extract it first"),
        (b"PAR1 and so on", "a Parquet file; rename it to end in .parquet"),
        (b"\x28\xb5\x2f\xfd and so on", "compressed with zstd; add .zst to its name"),
        (b"\0\1\2\0\0\0\4\0", "binary, or UTF-16 text"),
    ],
)
def test_binary_and_utf_16_files_raise(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert error_of(path).startswith(f"a.txt: the file is {message}")


def test_a_line_in_another_encoding_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one\n\nGröße\n".encode("latin-1"))
    assert (
        error_of(path)
        == "a.txt: line 3: expected UTF-8 text; byte 2 (0xf6) is invalid; save the file as UTF-8"
    )
