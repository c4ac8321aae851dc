"""Compressed files, written by other programs, are read like the files in them."""

import bz2
import errno
import gc
import gzip
import io
import json
import lzma
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from tests.datasets.reading import error_of, rows_of
from torchtune.datasets import open_source

ROWS = [{"a": f"größe {i}", "b": "x,\ny"} for i in range(300)]


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pa.Codec("zstd").compress(content, asbytes=True)),
}


def content_of(ending: str) -> bytes:
    """Write the rows with the `datasets` library."""
    file = io.BytesIO()
    table = datasets.Dataset.from_list(ROWS)
    if ending in (".csv", ".tsv"):
        table.to_csv(file, sep="," if ending == ".csv" else "\t", index=False)
    else:
        table.to_json(file, lines=ending != ".json", force_ascii=False)
    return file.getvalue()


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".ndjson", ".csv", ".tsv"])
def test_a_compressed_file_gives_the_rows_of_the_file_in_it(
    tmp_path: Path, ending: str, compression: str
) -> None:
    path = tmp_path / f"a{ending}{compression}"
    path.write_bytes(COMPRESS[compression](content_of(ending)))
    assert rows_of(path) == ROWS
    assert open_source(str(path)).place(0).startswith(f"{path}: ")


@pytest.mark.parametrize("compression", COMPRESS)
def test_lines_of_text_and_several_streams_in_one_file(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(COMPRESS[compression](b"one\n\ntwo\n") + COMPRESS[compression](b"three\n"))
    assert rows_of(path) == [{"text": "one"}, {"text": "two"}, {"text": "three"}]
    assert open_source(str(path)).place(2) == f"{path}: line 4"


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("damage", ["cut", "not compressed", "cut early"])
def test_a_damaged_file_is_one_error(tmp_path: Path, compression: str, damage: str) -> None:
    path = tmp_path / f"a.jsonl{compression}"
    whole = COMPRESS[compression](content_of(".jsonl"))
    path.write_bytes({"cut": whole[:-9], "cut early": whole[:40], "not compressed": b'{"a": 1}\n'}[damage])
    said = error_of(path)
    assert said.startswith(
        f"a.jsonl{compression}: cannot be decompressed, it is damaged, cut short or not a "
    )
    assert said.endswith("copy or download it again")
    assert "\n" not in said


def test_a_changed_byte_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    content = bytearray(gzip.compress(content_of(".jsonl")))
    content[-6] ^= 1
    path.write_bytes(content)
    assert "a.jsonl.gz: cannot be decompressed" in error_of(path)


def test_a_bad_line_is_named_in_the_users_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": }\n'))
    assert error_of(path).startswith("a.jsonl.gz: line 3: not valid JSON at column 7")


def test_a_compressed_name_without_a_text_ending_is_no_file_of_rows(tmp_path: Path) -> None:
    for name in ("a.gz", "a.parquet.gz", "a.doc.zst"):
        (tmp_path / name).write_bytes(gzip.compress(b"x"))
        assert error_of(tmp_path / name).startswith(
            f"{name}: expected a file of rows ending in .json, .jsonl"
        )


def test_the_copy_is_removed_with_the_table_and_at_the_end_of_python(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(content_of(".jsonl")))
    table = open_source(str(path))
    (copy,) = (tmp_path / "tmp").iterdir()
    assert copy.read_bytes() == content_of(".jsonl")
    del table
    gc.collect()
    assert list((tmp_path / "tmp").iterdir()) == []
    program = (
        "import sys, tempfile, pathlib; tempfile.tempdir = sys.argv[2]; from torchtune.datasets import open_source;"
        " table = open_source(sys.argv[1]); print(len(list(pathlib.Path(sys.argv[2]).iterdir())))"
    )
    words = [sys.executable, "-c", program, str(path), str(tmp_path / "tmp")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "1\n"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_another_process_reads_the_copy_and_makes_one_where_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.zst"
    path.write_bytes(COMPRESS[".zst"](content_of(".csv")))
    table = open_source(str(path))
    (tmp_path / "table").write_bytes(pickle.dumps(table))
    program = (
        "import pickle, sys; table = pickle.load(open(sys.argv[1], 'rb')); print(ascii(table[299]['a']))"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "table")]
    for _ in range(2):
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stdout == ascii(ROWS[299]["a"]) + "\n"
        assert table[0] == ROWS[0]  # the other process has not removed it
        table.file._copy.path.unlink(missing_ok=True)  # type: ignore[attr-defined]  # a Csv's
    assert table[1] == ROWS[1]  # it is open


def test_a_full_disk_is_told_from_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", fail)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
    with pytest.raises(
        OSError, match=r"a.jsonl.gz: cannot be decompressed into .*: No space left .* TMPDIR names"
    ):
        open_source(str(path))
