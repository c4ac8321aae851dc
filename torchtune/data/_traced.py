"""Text that knows where it came from, through everything that a chat template does with it.

A template is an arbitrary program. What it wrote of a message can be told in two ways: by guessing from its output, or
by letting every piece of text carry its origin. `Traced` does the latter: it is a `str`, so that a template computes
exactly what it would compute with plain text, and its operations return text that still knows its origins.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

Origin = tuple[int, int, int, int]
"""Where a piece of text begins and ends (characters), the number of the source that it comes from, and at which of the
source's characters it begins, or CHANGED."""

CHANGED = -1
"""The piece is not written as its source is, but in capitals, say."""


class Traced(str):
    """A text, pieces of which come from known sources.

    Args:
        text: The text.
        origins: Where its pieces come from.
    """

    __slots__ = ("origins",)
    origins: tuple[Origin, ...]

    def __new__(cls, text: str, origins: tuple[Origin, ...]) -> "Traced":
        self = super().__new__(cls, text)
        self.origins = origins
        return self

    @classmethod
    def of_source(cls, text: str, source: int) -> "Traced":
        """Make the text of a source."""
        return cls(text, ((0, len(text), source, 0),))

    def __str__(self) -> str:
        return self

    def __add__(self, other: Any) -> str:
        if not isinstance(other, str) or hasattr(other, "__html__"):  # that escapes what it is joined to
            return NotImplemented
        more = _moved(other.origins, len(self)) if isinstance(other, Traced) else ()
        return Traced(str.__add__(self, other), self.origins + more)

    def __radd__(self, other: Any) -> str:
        if not isinstance(other, str) or hasattr(other, "__html__"):
            return NotImplemented
        return Traced(str.__add__(other, self), _moved(self.origins, len(other)))

    def __mul__(self, times: SupportsIndex) -> str:
        return changed(str.__mul__(self, times), self)

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if not isinstance(key, slice):
            at = range(len(self))[key]
            return self.between(at, at + 1)
        start, stop, step = key.indices(len(self))
        return (
            self.between(start, max(start, stop)) if step == 1 else changed(str.__getitem__(self, key), self)
        )

    def __iter__(self) -> Iterator[str]:
        return (self.between(i, i + 1) for i in range(len(self)))

    def between(self, start: int, end: int) -> str:
        """Return a part of the text."""
        kept = []
        for s, e, source, offset in self.origins:
            left, right = max(s, start), min(e, end)
            if left < right or (left == right and s == e):
                kept.append(
                    (left - start, right - start, source, offset if offset < 0 else offset + left - s)
                )
        return Traced(str.__getitem__(self, slice(start, end)), tuple(kept))

    def strip(self, chars: str | None = None, /) -> str:
        """As `str.strip`."""
        start = len(self) - len(str.lstrip(self, chars))
        return self.between(start, max(start, len(str.rstrip(self, chars))))

    def lstrip(self, chars: str | None = None, /) -> str:
        """As `str.lstrip`."""
        return self.between(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        """As `str.rstrip`."""
        return self.between(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        """As `str.removeprefix`."""
        return self.between(len(self) - len(str.removeprefix(self, prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> str:
        """As `str.removesuffix`."""
        return self.between(0, len(str.removesuffix(self, suffix)))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        """As `str.replace`."""
        if not old:
            return changed(str.replace(self, old, new, count), self, new)
        return joined(self.split(old, count), new)

    def join(self, iterable: Iterable[str], /) -> str:
        """As `str.join`."""
        return joined(iterable, self)


def _cutting(name: str) -> Callable[..., Sequence[str]]:
    method = getattr(str, name)

    def cut(self: Traced, *args: Any, **kwargs: Any) -> Sequence[str]:
        parts: Sequence[str] = method(self, *args, **kwargs)
        at = 0
        pieces = []
        for part in parts:
            at = str.find(self, part, at)
            pieces.append(self.between(at, at + len(part)))
            at += len(part)
        return tuple(pieces) if isinstance(parts, tuple) else pieces

    return _named(cut, name)


def _changing(name: str) -> Callable[..., str]:
    method = getattr(str, name)

    def change(self: Traced, *args: Any, **kwargs: Any) -> str:
        text = method(self, *args, **kwargs)
        if len(text) == len(self) and not args and not kwargs:
            return Traced(text, self.origins)  # upper, lower and their like: letter by letter
        return changed(text, self, args, kwargs)

    return _named(change, name)


def _named(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    method.__name__ = name
    method.__doc__ = f"As `str.{name}`."
    return method


for _name in ("split", "rsplit", "splitlines", "partition", "rpartition"):
    setattr(Traced, _name, _cutting(_name))
for _name in (
    *("upper", "lower", "title", "capitalize", "swapcase", "casefold", "center", "ljust", "rjust", "zfill"),
    *("expandtabs", "translate", "format", "format_map", "__mod__"),
):
    setattr(Traced, _name, _changing(_name))


class Sourced:
    """A value of another kind that knows its sources."""

    sources: tuple[int, ...] = ()


class TracedNumber:
    """A number of a known source."""

    source: int

    def __str__(self) -> str:
        return Traced.of_source(repr(self), self.source)


class TracedInt(TracedNumber, int):
    """A whole number of a known source."""


class TracedFloat(TracedNumber, float):
    """A fraction of a known source."""


class JsonObject(dict[Any, Any]):
    """An object that may stand for its JSON text too, as a tool call's arguments do in OpenAI's format.

    Most templates write arguments as an object (`arguments | tojson`), some take them for text already.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: Any) -> str:
        return joined((self.text, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> str:
        return joined((other, self.text)) if isinstance(other, str) else NotImplemented


def joined(parts: Iterable[Any], separator: str = "") -> str:
    """Join texts, with their origins."""
    texts: list[str] = list(parts)
    if separator:
        texts = [text for part in texts for text in (separator, part)][1:]
    origins: list[Origin] = []
    at = 0
    for text in texts:
        if isinstance(text, Traced):
            origins += _moved(text.origins, at)
        at += len(text)
    whole = str.join("", texts)
    return Traced(whole, tuple(origins)) if origins else whole


def _moved(origins: tuple[Origin, ...], by: int) -> tuple[Origin, ...]:
    if not by:
        return origins
    return tuple([(start + by, end + by, source, offset) for start, end, source, offset in origins])


def changed(text: str, *given: object) -> str:
    """Return a text that was computed from something, all of whose sources are taken to be in it."""
    sources = dict.fromkeys(source for value in given for source in sources_in(value))
    if not sources:
        return text
    return Traced(text, tuple((0, len(text), source, CHANGED) for source in sources))


def sources_in(value: object) -> Iterator[int]:
    """Yield the sources of all text and numbers in a value."""
    if isinstance(value, Traced):
        yield from (source for _, _, source, _ in value.origins)
    elif isinstance(value, TracedNumber):
        yield value.source
    elif isinstance(value, Sourced):
        yield from value.sources
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*sources_in(key), *sources_in(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from sources_in(item)


def as_text(value: Any) -> str:
    """Return what a template writes of a value, as `str` does."""
    if isinstance(value, (dict, list, tuple)) and not isinstance(value, JsonObject):
        return changed(str(value), value)
    return changed(str.__str__(value), value) if isinstance(value, Sourced) else str(value)


def _entries(value: Any, *, sort_keys: bool) -> list[tuple[Any, Any]]:
    """Return the entries of an object; those of a list have None as their key."""
    if not isinstance(value, dict):
        return [(None, entry) for entry in value]
    return sorted(value.items()) if sort_keys else list(value.items())


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as `json.dumps` does, by default without escaping other alphabets, and keep origins.

    The signature is that of the filter `tojson` in transformers' chat templates (utils/chat_template_utils.py).
    """
    if not any(True for _ in sources_in(value)):
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
    item, colon = separators or ((", ", ": ") if indent is None else (",", ": "))
    space = " " * indent if isinstance(indent, int) else indent
    quoted = json.encoder.encode_basestring_ascii if ensure_ascii else json.encoder.encode_basestring

    def text_of(value: Any) -> str:
        """Write a scalar or a key."""
        if isinstance(value, Traced):
            text = quoted(value)
            if len(text) == len(value) + 2:  # nothing was escaped
                return joined(('"', value, '"'))
            return changed(text, value)
        if isinstance(value, TracedNumber):
            return Traced.of_source(json.dumps(value), value.source)
        return json.dumps(value, ensure_ascii=ensure_ascii)

    def write(value: Any, depth: int) -> Iterator[str]:
        is_mapping = isinstance(value, dict)
        if not value or not (is_mapping or isinstance(value, (list, tuple))):
            yield text_of(value)
            return
        inner, outer = ("", "") if space is None else (f"\n{space * (depth + 1)}", f"\n{space * depth}")
        yield "{" if is_mapping else "["
        for i, (key, entry) in enumerate(_entries(value, sort_keys=sort_keys)):
            yield f"{item if i else ''}{inner}"
            if is_mapping:
                yield text_of(key) if isinstance(key, str) else text_of(json.dumps(key))
                yield colon
            yield from write(entry, depth + 1)
        yield outer + ("}" if is_mapping else "]")

    return joined(write(value, 0))
