"""Compressed files written by other libraries are read like uncompressed ones."""

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
from torchtune.datasets import open_data_source

ROWS = [{"a": f"größe {i}", "b": "x,\ny"} for i in range(300)]


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pa.Codec("zstd").compress(content, asbytes=True)),
}


def content_of(ending: str) -> bytes:
    """Return the content of a file with the rows, written by the `datasets` library in the format of the suffix."""
    file = io.BytesIO()
    table = datasets.Dataset.from_list(ROWS)
    if ending in (".csv", ".tsv"):
        table.to_csv(file, sep="," if ending == ".csv" else "\t", index=False)
    else:
        table.to_json(file, lines=ending != ".json", force_ascii=False)
    return file.getvalue()


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".ndjson", ".csv", ".tsv"])
def test_a_compressed_file_has_the_same_rows_as_the_uncompressed_file(
    tmp_path: Path, ending: str, compression: str
) -> None:
    path = tmp_path / f"a{ending}{compression}"
    path.write_bytes(COMPRESS[compression](content_of(ending)))
    assert rows_of(path) == ROWS
    assert open_data_source(str(path)).location(0).startswith(f"{path}: ")


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_compressed_text_file_may_contain_multiple_streams(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(COMPRESS[compression](b"one\n\ntwo\n") + COMPRESS[compression](b"three\n"))
    assert rows_of(path) == [{"text": "one"}, {"text": "two"}, {"text": "three"}]
    assert open_data_source(str(path)).location(2) == f"{path}: line 4"


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("damage", ["truncated", "not compressed", "truncated early"])
def test_a_damaged_file_raises_a_one_line_error(tmp_path: Path, compression: str, damage: str) -> None:
    path = tmp_path / f"a.jsonl{compression}"
    compressed = COMPRESS[compression](content_of(".jsonl"))
    path.write_bytes(
        {"truncated": compressed[:-9], "truncated early": compressed[:40], "not compressed": b'{"a": 1}\n'}[
            damage
        ]
    )
    message = error_of(path)
    assert message.startswith(
        f"a.jsonl{compression} cannot be decompressed: it is damaged, truncated or not a "
    )
    assert message.endswith("copy or download it again")
    assert "\n" not in message


def test_a_changed_byte_is_detected_by_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    content = bytearray(gzip.compress(content_of(".jsonl")))
    content[-6] ^= 1
    path.write_bytes(content)
    assert "a.jsonl.gz cannot be decompressed" in error_of(path)


def test_errors_contain_the_line_in_the_compressed_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": }\n'))
    assert error_of(path).startswith("a.jsonl.gz: line 3: not valid JSON at column 7")


def test_a_compressed_file_requires_a_text_format_suffix(tmp_path: Path) -> None:
    for name in ("a.gz", "a.parquet.gz", "a.doc.zst"):
        (tmp_path / name).write_bytes(gzip.compress(b"x"))
        assert error_of(tmp_path / name).startswith(f"{name}: expected a data file ending in .json, .jsonl")


@pytest.mark.slow
def test_the_temporary_file_is_removed_with_the_table_or_when_python_exits(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(content_of(".jsonl")))
    table = open_data_source(str(path))
    (copy,) = (tmp_path / "tmp").iterdir()
    assert copy.read_bytes() == content_of(".jsonl")
    del table
    gc.collect()
    assert list((tmp_path / "tmp").iterdir()) == []
    program = (
        "import sys, tempfile, pathlib; tempfile.tempdir = sys.argv[2];"
        " from torchtune.datasets import open_data_source; table = open_data_source(sys.argv[1]);"
        " print(len(list(pathlib.Path(sys.argv[2]).iterdir())))"
    )
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "tmp")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_second_process_reads_the_temporary_file_or_creates_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.zst"
    path.write_bytes(COMPRESS[".zst"](content_of(".csv")))
    table = open_data_source(str(path))
    (tmp_path / "table").write_bytes(pickle.dumps(table))
    program = (
        "import pickle, sys; table = pickle.load(open(sys.argv[1], 'rb')); print(ascii(table[299]['a']))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "table")]
    for _ in range(2):
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert result.stdout == ascii(ROWS[299]["a"]) + "\n"
        assert table[0] == ROWS[0]  # the second process has not removed the temporary file
        table.file._copy.path.unlink(missing_ok=True)  # type: ignore[attr-defined]  # `file` is an attribute of Csv
    assert table[1] == ROWS[1]  # this process still has the removed file open


def test_a_full_disk_is_not_reported_as_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", fail)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
    with pytest.raises(
        OSError,
        match=r"a.jsonl.gz cannot be decompressed into .*: No space left .* set the environment variable TMPDIR",
    ):
        open_data_source(str(path))
