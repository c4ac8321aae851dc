"""Encoded rows on the disk, so that what was encoded once need not be again.

A row is found by a digest of all that its tokens depend on: what was read out of the source, the dataset's settings,
the tokenizer's files and the versions of what encodes. Nothing in a cache can be out of date therefore, and one folder
may serve any number of datasets. Each process writes files of its own, which only grow, so that ranks and workers share
a folder without waiting for each other; a record that was not written whole does not match its checksum, and is
encoded again.
"""

import contextlib
import hashlib
import json
import os
import struct
import time
import uuid
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field

from torchtune.data import IGNORE_INDEX, Example, Note

_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("offset", "<i8"), ("size", "<i4"), ("checksum", "<u4")])
"""A digest in two halves, and the record's place in the file beside its index."""
_REFRESH_SECONDS = 10.0
"""How old the view of what other processes have written may be."""
_FLUSH_ROWS = 64
"""Rows after which what was written is handed to the system."""

Entries = np.ndarray[Any, np.dtype[np.void]]


@define(eq=False)
class TokenCache:
    """A folder of encoded rows.

    Args:
        folder: Where they stand; it is made.
        meaning: All that tokens depend on besides the row itself, as text.

    Raises:
        OSError: the folder cannot be made.
    """

    folder: Path
    meaning: str
    _entries: Entries = field(init=False, factory=lambda: np.empty(0, _ENTRY))
    """What is there, by digest."""
    _files: "np.ndarray[Any, np.dtype[np.int32]]" = field(init=False, factory=lambda: np.empty(0, np.int32))
    """Of each entry, which of the files it stands in."""
    _known: dict[Path, int] = field(init=False, factory=dict)
    """Indices that were read, and how many entries of each."""
    _open: dict[int, int] = field(init=False, factory=dict)
    """Numbers of open files."""
    _writer: "_Writer | None" = field(init=False, default=None)
    _looked: float = field(init=False, default=-1e9)

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def __getstate__(self) -> tuple[Path, str]:
        return self.folder, self.meaning

    def __setstate__(self, state: tuple[Path, str]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # another process opens files of its own

    def get(self, row: str) -> list[Example] | None:
        """Return what a row was encoded to; None where nobody has encoded it.

        Args:
            row: What was read out of the source, as text.
        """
        high, low = self._digest(row)
        examples = self._find(high, low)
        if examples is None and time.monotonic() - self._looked > _REFRESH_SECONDS:
            self._refresh()
            examples = self._find(high, low)
        return examples

    def put(self, row: str, examples: list[Example]) -> None:
        """Write what a row was encoded to.

        Raises:
            OSError: there is no room.
        """
        if self._writer is None:
            self._writer = _Writer(self.folder / f"{uuid.uuid4().hex}.rows")
            weakref.finalize(self, self._writer.close)
        self._writer.add(*self._digest(row), _packed(examples))

    def flush(self) -> None:
        """Hand to the system what was written."""
        if self._writer is not None:
            self._writer.flush()

    def _digest(self, row: str) -> tuple[int, int]:
        found = hashlib.blake2b(f"{self.meaning}\0{row}".encode("utf-8", "surrogatepass"), digest_size=16)
        high, low = struct.unpack("<QQ", found.digest())
        return high, low

    def _find(self, high: int, low: int) -> list[Example] | None:
        at = int(np.searchsorted(self._entries["high"], np.uint64(high)))
        while at < len(self._entries) and int(self._entries["high"][at]) == high:
            examples = self._read(at) if int(self._entries["low"][at]) == low else None
            if examples is not None:
                return examples
            at += 1
        return None

    def _read(self, at: int) -> list[Example] | None:
        entry = self._entries[at]
        number = int(self._files[at])
        if number not in self._open:
            path = list(self._known)[number].with_suffix(".rows")
            if not path.is_file():
                return None
            self._open[number] = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._open[number])
        record = os.pread(self._open[number], int(entry["size"]), int(entry["offset"]))
        if len(record) != entry["size"] or zlib.crc32(record) != entry["checksum"]:
            return None
        return _unpacked(record)

    def _refresh(self) -> None:
        """Read what has been added to the indices."""
        self.flush()
        self._looked = time.monotonic()
        entries, files = [self._entries], [self._files]
        for path in sorted(self.folder.glob("*.index")):
            known = self._known.setdefault(path, 0)
            size = path.stat().st_size // _ENTRY.itemsize
            if size > known:
                added = np.fromfile(path, _ENTRY, count=size - known, offset=known * _ENTRY.itemsize)
                entries.append(added)
                files.append(np.full(len(added), list(self._known).index(path), np.int32))
                self._known[path] = size
        if len(entries) > 1:
            joined = np.concatenate(entries)
            order = np.argsort(joined["high"], kind="stable")
            self._entries = joined[order]
            self._files = np.concatenate(files)[order]


class _Writer:
    """One process's own two files: records, and their index, which is written behind them."""

    def __init__(self, path: Path) -> None:
        self._rows = path.open("ab")
        self._index = path.with_suffix(".index").open("ab")
        self._waiting: list[tuple[int, int, int, int, int]] = []

    def add(self, high: int, low: int, record: bytes) -> None:
        self._waiting.append((high, low, self._rows.tell(), len(record), zlib.crc32(record)))
        self._rows.write(record)
        if len(self._waiting) >= _FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        if not self._rows.closed:
            self._rows.flush()
            self._index.write(np.array(self._waiting, _ENTRY).tobytes())
            self._index.flush()
            self._waiting = []

    def close(self) -> None:
        """End both files; what there is no room for is encoded again another time."""
        for end in (self.flush, self._rows.close, self._index.close):
            with contextlib.suppress(OSError):
                end()


def _packed(examples: list[Example]) -> bytes:
    """Write examples as bytes.

    First comes how many there are; then of each how many tokens, the tokens, a bit each for the targets, how many bytes
    its notes take, and these as JSON.
    """
    parts = [struct.pack("<I", len(examples))]
    for example in examples:
        mask = np.array(example.labels) != IGNORE_INDEX
        tokens = np.array(example.tokens, "<i4")
        parts += [struct.pack("<I", len(tokens)), tokens.tobytes(), np.packbits(mask).tobytes()]
        pairs = [[note.text, note.example] for note in example.notes]
        notes = json.dumps(pairs).encode() if pairs else b""
        parts += [struct.pack("<I", len(notes)), notes]
    return b"".join(parts)


def _unpacked(record: bytes) -> list[Example]:
    (n,) = struct.unpack_from("<I", record)
    at = 4
    examples = []
    for _ in range(n):
        (length,) = struct.unpack_from("<I", record, at)
        tokens = np.frombuffer(record, "<i4", length, at + 4)
        at += 4 + 4 * length
        n_bytes = -(-length // 8)
        mask = np.unpackbits(np.frombuffer(record, np.uint8, n_bytes, at), count=length).astype(bool)
        (size,) = struct.unpack_from("<I", record, at + n_bytes)
        at += n_bytes + 4
        notes = tuple(Note(*note) for note in json.loads(record[at : at + size])) if size else ()
        at += size
        examples.append(Example(tokens.tolist(), np.where(mask, tokens, IGNORE_INDEX).tolist(), notes))
    return examples
