"""Changes to a SentencePiece model before the library loads it.

The library offers none. A model is a protocol buffer (`src/sentencepiece_model.proto` of
https://github.com/google/sentencepiece): field 1 of `ModelProto` is a piece, repeated, and field 3 the settings of its
normaliser; of a piece, field 1 is the text and field 3 the type. If a field occurs twice, the last one counts, and
messages are merged, so that a change is appended to the existing bytes.
"""

from collections.abc import Collection, Iterator

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT = 1
_MODEL_TYPE, _BPE = 3, b"\x02"
_NORMALIZER_NAME, _REMOVES_SPACES = 1, 4
_LENGTH_DELIMITED = 2
_CONTROL = b"\x18\x03"
"""Field 3 of a piece: the type of what is never found in a text."""
_NO_SPACE_PREFIX = b"\x1a\x02\x18\x00"
"""Field 3 of a model, which holds field 3 of its normaliser, add_dummy_prefix: false."""


def without_space_prefix(model: bytes) -> bytes:
    """Let a model put no space before a text."""
    return model + _NO_SPACE_PREFIX


def as_control(model: bytes, texts: Collection[str]) -> bytes:
    """Make some of a model's pieces control pieces, which are not found in texts.

    Raises:
        ValueError: it is not such a model, or is damaged.
    """
    wanted = {text.encode() for text in texts}
    parts = []
    for number, whole, content in _fields(model):
        if number == _PIECES and _text(content) in wanted:
            piece = content + _CONTROL
            parts.append(b"\x0a" + _varint(len(piece)) + piece)
        else:
            parts.append(whole)
    return b"".join(parts)


def is_plain_bpe(model: bytes) -> bool:
    """Tell whether a model merges pairs of pieces, and takes texts as they are, as Llama 2's does.

    Raises:
        ValueError: it is not such a model, or is damaged.
    """
    parts = {number: content for number, _, content in _fields(model) if number != _PIECES}
    trainer = {number: content for number, _, content in _fields(parts.get(_TRAINER, b""))}
    normalizer = {number: content for number, _, content in _fields(parts.get(_NORMALIZER, b""))}
    return (
        trainer.get(_MODEL_TYPE) == _BPE
        and normalizer.get(_NORMALIZER_NAME) == b"identity"
        and normalizer.get(_REMOVES_SPACES) == b"\x00"
    )


def _text(piece: bytes) -> bytes:
    return next((content for number, _, content in _fields(piece) if number == _TEXT), b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield each field's number, the whole of it, and what it holds: of a text or message its bytes."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        content = b""
        if kind == _LENGTH_DELIMITED:
            size, at = _read_varint(message, at)
            content = message[at : at + size]
            at += size
        elif kind == 0:
            begin = at
            _, at = _read_varint(message, at)
            content = message[begin:at]
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise ValueError("not a protocol buffer")
        if at > len(message):
            raise ValueError("cut short")
        yield number, message[start:at], content


_FIXED = {1: 8, 5: 4}
"""Sizes of the kinds of numbers that are not written as varints (bytes)."""


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, lowest first; return it and where it ends."""
    number = shift = 0
    while at < len(message):
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return number, at
    raise ValueError("cut short")


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])
