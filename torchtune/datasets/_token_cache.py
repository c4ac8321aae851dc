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

from torchtune.data import IGNORE_INDEX, Example, Item, Note, items_of

_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("offset", "<i8"), ("size", "<i4"), ("checksum", "<u4")])
"""A digest in two halves, and the record's place in the file beside its index."""
_REFRESH_SECONDS = 10.0
"""How old the view of what other processes have written may be."""
_FLUSH_ROWS = 64
"""Rows after which what was written is handed to the system."""

_FORMAT = 2
"""Number of the records' form, which is part of their digests."""

Entries = np.ndarray[Any, np.dtype[np.void]]


@define(eq=False)
class TokenCache:
    """A folder of encoded rows.

    Args:
        folder: Where they are; it is created.
        meaning: All that tokens depend on besides the row itself, as text.
        item_type: The class of the items.

    Raises:
        OSError: the folder cannot be made.
    """

    folder: Path
    meaning: str
    item_type: type[Item] = Example
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

    def __getstate__(self) -> tuple[Path, str, type[Item]]:
        return self.folder, self.meaning, self.item_type

    def __setstate__(self, state: tuple[Path, str, type[Item]]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # another process opens files of its own

    def get(self, row: str) -> Item | list[Item] | None:
        """Return what a row was encoded to; None where nobody has encoded it.

        Args:
            row: What was read out of the source, as text.
        """
        high, low = self._digest(row)
        record = self._find(high, low)
        if record is None and time.monotonic() - self._looked > _REFRESH_SECONDS:
            self._refresh()
            record = self._find(high, low)
        return None if record is None else _unpacked(record, self.item_type)

    def put(self, row: str, encoded: Item | list[Item]) -> None:
        """Write what a row was encoded to.

        Raises:
            OSError: there is no room.
        """
        if self._writer is None:
            self._writer = _Writer(self.folder / f"{uuid.uuid4().hex}.rows")
            weakref.finalize(self, self._writer.close)
        self._writer.add(*self._digest(row), _packed(encoded))

    def flush(self) -> None:
        """Hand to the system what was written."""
        if self._writer is not None:
            self._writer.flush()

    def _digest(self, row: str) -> tuple[int, int]:
        found = hashlib.blake2b(
            f"{_FORMAT}\0{self.meaning}\0{row}".encode("utf-8", "surrogatepass"), digest_size=16
        )
        high, low = struct.unpack("<QQ", found.digest())
        return high, low

    def _find(self, high: int, low: int) -> bytes | None:
        at = int(np.searchsorted(self._entries["high"], np.uint64(high)))
        while at < len(self._entries) and int(self._entries["high"][at]) == high:
            record = self._read(at) if int(self._entries["low"][at]) == low else None
            if record is not None:
                return record
            at += 1
        return None

    def _read(self, at: int) -> bytes | None:
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
        return record

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


def _packed(encoded: Item | list[Item]) -> bytes:
    """Write a row's items as bytes.

    First come how many there are, and 1 if they are a list; then of each item how many sequences it has, the sequences,
    how many bytes the rest takes, and that as JSON: its notes and extras.
    """
    items = items_of(encoded)
    parts = [struct.pack("<IB", len(items), isinstance(encoded, list))]
    for item in items:
        parts += [struct.pack("<I", len(item.sequences)), *map(_packed_sequence, item.sequences)]
        rest = {"notes": [[note.text, note.example] for note in item.notes], "extras": item.extras}
        packed_rest = json.dumps(rest).encode() if any(rest.values()) else b""
        parts += [struct.pack("<I", len(packed_rest)), packed_rest]
    return b"".join(parts)


def _packed_sequence(sequence: Example) -> bytes:
    """Write a sequence as bytes: how many tokens it has, the tokens, and a bit each for the targets."""
    tokens = np.array(sequence.tokens, "<i4")
    mask = np.array(sequence.labels) != IGNORE_INDEX
    return struct.pack("<I", len(tokens)) + tokens.tobytes() + np.packbits(mask).tobytes()


def _unpacked(record: bytes, item_type: type[Item]) -> Item | list[Item]:
    n_items, is_list = struct.unpack_from("<IB", record)
    at = 5
    items = []
    for _ in range(n_items):
        (n_sequences,) = struct.unpack_from("<I", record, at)
        at += 4
        sequences = []
        for _ in range(n_sequences):
            sequence, at = _unpacked_sequence(record, at)
            sequences.append(sequence)
        (size,) = struct.unpack_from("<I", record, at)
        rest = json.loads(record[at + 4 : at + 4 + size]) if size else {"notes": [], "extras": {}}
        at += 4 + size
        item = item_type.of_sequences(sequences, rest["extras"])
        items.append(item.with_notes(Note(*note) for note in rest["notes"]) if rest["notes"] else item)
    return items if is_list else items[0]


def _unpacked_sequence(record: bytes, at: int) -> tuple[Example, int]:
    """Read a sequence that begins at a byte; return it, and the byte after it."""
    (length,) = struct.unpack_from("<I", record, at)
    tokens = np.frombuffer(record, "<i4", length, at + 4)
    at += 4 + 4 * length
    n_bytes = -(-length // 8)
    mask = np.unpackbits(np.frombuffer(record, np.uint8, n_bytes, at), count=length).astype(bool)
    return Example(tokens.tolist(), np.where(mask, tokens, IGNORE_INDEX).tolist()), at + n_bytes
