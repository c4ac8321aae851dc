"""Edit a serialized SentencePiece model in ways that the library does not support.

A model is a protocol buffer (`src/sentencepiece_model.proto` of https://github.com/google/sentencepiece). In
`ModelProto`, field 1 is a piece (repeated) and field 3 the normalizer's settings; in a piece, field 1 is the text and
field 3 the type. If a field occurs twice, the last value takes precedence and messages are merged, so edits
can be appended to the existing bytes.
"""

from collections.abc import Collection, Iterator

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT = 1
_MODEL_TYPE, _BPE = 3, b"\x02"
_NORMALIZER_NAME, _REMOVES_SPACES = 1, 4
_LENGTH_DELIMITED = 2
_CONTROL = b"\x18\x03"
"""Field 3 of a piece: the type of control pieces, which are never recognized in text."""
_NO_SPACE_PREFIX = b"\x1a\x02\x18\x00"
"""Field 3 of a model, with field 3 of its normalizer: add_dummy_prefix = false."""


def without_space_prefix(model: bytes) -> bytes:
    """Return a model that prepends no space to text."""
    return model + _NO_SPACE_PREFIX


def as_control(model: bytes, texts: Collection[str]) -> bytes:
    """Return a model in which the given pieces are control pieces, which are not recognized in text.

    Raises:
        ValueError: The bytes are not a SentencePiece model, or are damaged.
    """
    encoded_texts = {text.encode() for text in texts}
    parts = []
    for number, field_bytes, content in _fields(model):
        if number == _PIECES and _text(content) in encoded_texts:
            piece = content + _CONTROL
            parts.append(b"\x0a" + _varint(len(piece)) + piece)
        else:
            parts.append(field_bytes)
    return b"".join(parts)


def is_plain_bpe(model: bytes) -> bool:
    """Return whether a model is BPE without text normalization, such as Llama 2's.

    Raises:
        ValueError: The bytes are not a SentencePiece model, or are damaged.
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
    """Yield the number, the full bytes and the content of each field."""
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        number, kind = key >> 3, key & 7
        content = b""
        if kind == _LENGTH_DELIMITED:
            size, position = _read_varint(message, position)
            content = message[position : position + size]
            position += size
        elif kind == 0:
            begin = position
            _, position = _read_varint(message, position)
            content = message[begin:position]
        elif kind in _FIXED:
            position += _FIXED[kind]
        else:
            raise ValueError("not a protocol buffer")
        if position > len(message):
            raise ValueError("truncated")
        yield number, message[start:position], content


_FIXED = {1: 8, 5: 4}
"""Sizes in bytes of the fixed-width wire types."""


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """Read a varint: seven bits per byte, lowest first; return it and the position after it."""
    number = shift = 0
    while position < len(message):
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            return number, position
    raise ValueError("truncated")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
