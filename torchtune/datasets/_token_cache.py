"""A cache of encoded rows on disk.

A row is looked up by a digest of everything that its tokens depend on: the parsed row, the dataset's settings, the
tokenizer's files and the versions of the libraries that encode the row. Entries therefore never become out of date,
and any number of datasets may share a folder. Each process appends to its own files, so that ranks and workers share a
folder without waiting for each other. A record that was not completely written does not match its checksum, and its
row is encoded again.
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

from torchtune.data import IGNORE_INDEX, Example, Item, Note, as_items

_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("offset", "<i8"), ("size", "<i4"), ("checksum", "<u4")])
"""An entry of an index: a digest in two halves, and the position of its record in the .rows file of the same name."""
_REFRESH_SECONDS = 10.0
"""Shortest time between two reads of the entries that other processes have added."""
_FLUSH_ROWS = 64
"""Number of rows that are written between two flushes."""

_FORMAT = 2
"""Version of the record format, which is part of every digest."""

Entries = np.ndarray[Any, np.dtype[np.void]]


@define(eq=False)
class TokenCache:
    """A folder of encoded rows.

    Args:
        folder: The folder of the cache; it is created if needed.
        dependencies: Everything that the tokens of a row depend on, except the row itself, as text.
        item_type: The class of the items.

    Raises:
        OSError: The folder cannot be created.
    """

    folder: Path
    dependencies: str
    item_type: type[Item] = Example
    _entries: Entries = field(init=False, factory=lambda: np.empty(0, _ENTRY))
    """The entries that have been read, sorted by digest."""
    _files: "np.ndarray[Any, np.dtype[np.int32]]" = field(init=False, factory=lambda: np.empty(0, np.int32))
    """The index of each entry's file in `_n_read`."""
    _n_read: dict[Path, int] = field(init=False, factory=dict)
    """The index files, with the number of entries that were read from each."""
    _descriptors: dict[int, int] = field(init=False, factory=dict)
    """Descriptors of open files."""
    _writer: "_Writer | None" = field(init=False, default=None)
    _refreshed_at: float = field(init=False, default=-1e9)

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def __getstate__(self) -> tuple[Path, str, type[Item]]:
        return self.folder, self.dependencies, self.item_type

    def __setstate__(self, state: tuple[Path, str, type[Item]]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # another process opens its own files

    def get(self, row: str) -> Item | list[Item] | None:
        """Return the encoding of a row, or None if it is not in the cache.

        Args:
            row: The parsed row, as text.
        """
        high, low = self._digest(row)
        record = self._find(high, low)
        if record is None and time.monotonic() - self._refreshed_at > _REFRESH_SECONDS:
            self._refresh()
            record = self._find(high, low)
        return None if record is None else _unpack(record, self.item_type)

    def store(self, row: str, encoded: Item | list[Item]) -> None:
        """Write the encoding of a row.

        Raises:
            OSError: The disk is full.
        """
        if self._writer is None:
            self._writer = _Writer(self.folder / f"{uuid.uuid4().hex}.rows")
            weakref.finalize(self, self._writer.close)
        self._writer.add(*self._digest(row), _pack(encoded))

    def flush(self) -> None:
        """Flush the rows written so far to the operating system."""
        if self._writer is not None:
            self._writer.flush()

    def _digest(self, row: str) -> tuple[int, int]:
        digest = hashlib.blake2b(
            f"{_FORMAT}\0{self.dependencies}\0{row}".encode("utf-8", "surrogatepass"), digest_size=16
        )
        high, low = struct.unpack("<QQ", digest.digest())
        return high, low

    def _find(self, high: int, low: int) -> bytes | None:
        i = int(np.searchsorted(self._entries["high"], np.uint64(high)))
        while i < len(self._entries) and int(self._entries["high"][i]) == high:
            record = self._read(i) if int(self._entries["low"][i]) == low else None
            if record is not None:
                return record
            i += 1
        return None

    def _read(self, i: int) -> bytes | None:
        entry = self._entries[i]
        file_index = int(self._files[i])
        if file_index not in self._descriptors:
            path = list(self._n_read)[file_index].with_suffix(".rows")
            if not path.is_file():
                return None
            self._descriptors[file_index] = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptors[file_index])
        record = os.pread(self._descriptors[file_index], int(entry["size"]), int(entry["offset"]))
        if len(record) != entry["size"] or zlib.crc32(record) != entry["checksum"]:
            return None
        return record

    def _refresh(self) -> None:
        """Read the entries that were added to the index files."""
        self.flush()
        self._refreshed_at = time.monotonic()
        entries, files = [self._entries], [self._files]
        for path in sorted(self.folder.glob("*.index")):
            n_read = self._n_read.setdefault(path, 0)
            size = path.stat().st_size // _ENTRY.itemsize
            if size > n_read:
                added = np.fromfile(path, _ENTRY, count=size - n_read, offset=n_read * _ENTRY.itemsize)
                entries.append(added)
                files.append(np.full(len(added), list(self._n_read).index(path), np.int32))
                self._n_read[path] = size
        if len(entries) > 1:
            joined = np.concatenate(entries)
            order = np.argsort(joined["high"], kind="stable")
            self._entries = joined[order]
            self._files = np.concatenate(files)[order]


class _Writer:
    """The two files of one process: the records, and their index, which is written after them."""

    def __init__(self, path: Path) -> None:
        self._rows = path.open("ab")
        self._index = path.with_suffix(".index").open("ab")
        self._pending: list[tuple[int, int, int, int, int]] = []

    def add(self, high: int, low: int, record: bytes) -> None:
        self._pending.append((high, low, self._rows.tell(), len(record), zlib.crc32(record)))
        self._rows.write(record)
        if len(self._pending) >= _FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        if not self._rows.closed:
            self._rows.flush()
            self._index.write(np.array(self._pending, _ENTRY).tobytes())
            self._index.flush()
            self._pending = []

    def close(self) -> None:
        """Close both files. Rows that do not fit on the disk are encoded again next time."""
        for close in (self.flush, self._rows.close, self._index.close):
            with contextlib.suppress(OSError):
                close()


def _pack(encoded: Item | list[Item]) -> bytes:
    """Serialize a row's items.

    The record begins with the number of items, and 1 if they are a list. For each item, it contains the number of
    sequences, the sequences, the size of the metadata in bytes, and the metadata as JSON: notes and extras.
    """
    items = as_items(encoded)
    parts = [struct.pack("<IB", len(items), isinstance(encoded, list))]
    for item in items:
        parts += [struct.pack("<I", len(item.sequences)), *map(_pack_sequence, item.sequences)]
        metadata = {"notes": [[note.text, note.example] for note in item.notes], "extras": item.extras}
        packed_metadata = json.dumps(metadata).encode() if any(metadata.values()) else b""
        parts += [struct.pack("<I", len(packed_metadata)), packed_metadata]
    return b"".join(parts)


def _pack_sequence(sequence: Example) -> bytes:
    """Serialize a sequence: the number of tokens, the tokens, and one bit per token, set for targets."""
    tokens = np.array(sequence.tokens, "<i4")
    mask = np.array(sequence.labels) != IGNORE_INDEX
    return struct.pack("<I", len(tokens)) + tokens.tobytes() + np.packbits(mask).tobytes()


def _unpack(record: bytes, item_type: type[Item]) -> Item | list[Item]:
    n_items, is_list = struct.unpack_from("<IB", record)
    offset = 5
    items = []
    for _ in range(n_items):
        (n_sequences,) = struct.unpack_from("<I", record, offset)
        offset += 4
        sequences = []
        for _ in range(n_sequences):
            sequence, offset = _unpack_sequence(record, offset)
            sequences.append(sequence)
        (size,) = struct.unpack_from("<I", record, offset)
        metadata = json.loads(record[offset + 4 : offset + 4 + size]) if size else {"notes": [], "extras": {}}
        offset += 4 + size
        item = item_type.from_sequences(sequences, metadata["extras"])
        items.append(
            item.with_notes(Note(*note) for note in metadata["notes"]) if metadata["notes"] else item
        )
    return items if is_list else items[0]


def _unpack_sequence(record: bytes, offset: int) -> tuple[Example, int]:
    """Deserialize the sequence at an offset; return it and the offset after it."""
    (length,) = struct.unpack_from("<I", record, offset)
    tokens = np.frombuffer(record, "<i4", length, offset + 4)
    offset += 4 + 4 * length
    n_bytes = -(-length // 8)
    mask = np.unpackbits(np.frombuffer(record, np.uint8, n_bytes, offset), count=length).astype(bool)
    return Example(tokens.tolist(), np.where(mask, tokens, IGNORE_INDEX).tolist()), offset + n_bytes
