"""Text that carries its origins through everything that a chat template does with it.

A template is an arbitrary program. There are two ways to find out which parts of a message it rendered: guess from the
output, or let every part of the text carry its origin. `Traced` does the latter: it is a `str`, so that a template
computes exactly the same results as with plain text, and the operations return text that keeps its origins.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

Origin = tuple[int, int, int, int]
"""Start and end of a part of the text (characters), the index of its source, and the character of the source at which
the part begins, or CHANGED."""

CHANGED = -1
"""The part differs from its source, for example in uppercase."""


class Traced(str):
    """Text with the origins of its parts.

    Args:
        text: The text.
        origins: The origins.
    """

    __slots__ = ("origins",)
    origins: tuple[Origin, ...]

    def __new__(cls, text: str, origins: tuple[Origin, ...]) -> "Traced":
        self = super().__new__(cls, text)
        self.origins = origins
        return self

    @classmethod
    def from_source(cls, text: str, source: int) -> "Traced":
        """Build text that comes entirely from one source."""
        return cls(text, ((0, len(text), source, 0),))

    def __str__(self) -> str:
        return self

    def __add__(self, other: Any) -> str:
        if not isinstance(other, str) or hasattr(
            other, "__html__"
        ):  # such text escapes text that is added to it
            return NotImplemented
        other_origins = _shifted(other.origins, len(self)) if isinstance(other, Traced) else ()
        return Traced(str.__add__(self, other), self.origins + other_origins)

    def __radd__(self, other: Any) -> str:
        if not isinstance(other, str) or hasattr(other, "__html__"):
            return NotImplemented
        return Traced(str.__add__(other, self), _shifted(self.origins, len(other)))

    def __mul__(self, times: SupportsIndex) -> str:
        return changed(str.__mul__(self, times), self)

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if not isinstance(key, slice):
            i = range(len(self))[key]
            return self.substring(i, i + 1)
        start, stop, step = key.indices(len(self))
        return (
            self.substring(start, max(start, stop))
            if step == 1
            else changed(str.__getitem__(self, key), self)
        )

    def __iter__(self) -> Iterator[str]:
        return (self.substring(i, i + 1) for i in range(len(self)))

    def substring(self, start: int, end: int) -> str:
        """Return `self[start:end]` for 0 <= start <= end <= len(self)."""
        origins = []
        for s, e, source, offset in self.origins:
            left, right = max(s, start), min(e, end)
            if left < right or (left == right and s == e):
                origins.append(
                    (left - start, right - start, source, offset if offset < 0 else offset + left - s)
                )
        return Traced(str.__getitem__(self, slice(start, end)), tuple(origins))

    def strip(self, chars: str | None = None, /) -> str:
        """Apply `str.strip`, and keep origins."""
        start = len(self) - len(str.lstrip(self, chars))
        return self.substring(start, max(start, len(str.rstrip(self, chars))))

    def lstrip(self, chars: str | None = None, /) -> str:
        """Apply `str.lstrip`, and keep origins."""
        return self.substring(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        """Apply `str.rstrip`, and keep origins."""
        return self.substring(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        """Apply `str.removeprefix`, and keep origins."""
        return self.substring(len(self) - len(str.removeprefix(self, prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> str:
        """Apply `str.removesuffix`, and keep origins."""
        return self.substring(0, len(str.removesuffix(self, suffix)))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        """Apply `str.replace`, and keep origins."""
        if not old:
            return changed(str.replace(self, old, new, count), self, new)
        return joined(self.split(old, count), new)

    def join(self, iterable: Iterable[str], /) -> str:
        """Apply `str.join`, and keep origins."""
        return joined(iterable, self)


def _splitting_method(name: str) -> Callable[..., Sequence[str]]:
    method = getattr(str, name)

    def split(self: Traced, *args: Any, **kwargs: Any) -> Sequence[str]:
        parts: Sequence[str] = method(self, *args, **kwargs)
        position = 0
        traced_parts = []
        for part in parts:
            position = str.find(self, part, position)
            traced_parts.append(self.substring(position, position + len(part)))
            position += len(part)
        return tuple(traced_parts) if isinstance(parts, tuple) else traced_parts

    return _named(split, name)


def _changing_method(name: str) -> Callable[..., str]:
    method = getattr(str, name)

    def change(self: Traced, *args: Any, **kwargs: Any) -> str:
        text = method(self, *args, **kwargs)
        if len(text) == len(self) and not args and not kwargs:
            return Traced(text, self.origins)  # changed letter by letter, as by upper and lower
        return changed(text, self, args, kwargs)

    return _named(change, name)


def _named(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    method.__name__ = name
    method.__doc__ = f"Apply `str.{name}`, and keep origins."
    return method


for _name in ("split", "rsplit", "splitlines", "partition", "rpartition"):
    setattr(Traced, _name, _splitting_method(_name))
for _name in (
    *("upper", "lower", "title", "capitalize", "swapcase", "casefold", "center", "ljust", "rjust", "zfill"),
    *("expandtabs", "translate", "format", "format_map", "__mod__"),
):
    setattr(Traced, _name, _changing_method(_name))


class Sourced:
    """A value that carries its sources, without their positions in it."""

    sources: tuple[int, ...] = ()


class TracedNumber:
    """A number that carries its source."""

    source: int

    def __str__(self) -> str:
        return Traced.from_source(repr(self), self.source)


class TracedInt(TracedNumber, int):
    """An int that carries its source."""


class TracedFloat(TracedNumber, float):
    """A float that carries its source."""


class JsonObject(dict[Any, Any]):
    """An object that can also be used as its JSON text, like a tool call's arguments in OpenAI's format.

    Most templates treat arguments as an object (`arguments | tojson`), but some treat them as text.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: Any) -> str:
        return joined((self.text, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> str:
        return joined((other, self.text)) if isinstance(other, str) else NotImplemented


def joined(parts: Iterable[Any], separator: str = "") -> str:
    """Join texts and their origins."""
    texts: list[str] = list(parts)
    if separator:
        texts = [text for part in texts for text in (separator, part)][1:]
    origins: list[Origin] = []
    length = 0
    for text in texts:
        if isinstance(text, Traced):
            origins += _shifted(text.origins, length)
        length += len(text)
    result = str.join("", texts)
    return Traced(result, tuple(origins)) if origins else result


def _shifted(origins: tuple[Origin, ...], by: int) -> tuple[Origin, ...]:
    if not by:
        return origins
    return tuple([(start + by, end + by, source, offset) for start, end, source, offset in origins])


def changed(text: str, *values: object) -> str:
    """Return text computed from some values, with each of their sources as an origin of the whole text."""
    sources = dict.fromkeys(source for value in values for source in sources_in(value))
    if not sources:
        return text
    return Traced(text, tuple((0, len(text), source, CHANGED) for source in sources))


def sources_in(value: object) -> Iterator[int]:
    """Yield the sources of all texts and numbers in a value."""
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
    """Return `str(value)`, with origins."""
    if isinstance(value, (dict, list, tuple)) and not isinstance(value, JsonObject):
        return changed(str(value), value)
    return changed(str.__str__(value), value) if isinstance(value, Sourced) else str(value)


def _entries(value: Any, *, sort_keys: bool) -> list[tuple[Any, Any]]:
    """Return the entries of an object or a list; a list's entries have the key None."""
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
    """Serialize a value as `json.dumps` does, by default without escaping non-ASCII characters, and keep origins.

    The signature matches the filter `tojson` in transformers' chat templates (utils/chat_template_utils.py).
    """
    if not any(True for _ in sources_in(value)):
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
    item, colon = separators or ((", ", ": ") if indent is None else (",", ": "))
    space = " " * indent if isinstance(indent, int) else indent
    quoted = json.encoder.encode_basestring_ascii if ensure_ascii else json.encoder.encode_basestring

    def text_of(value: Any) -> str:
        """Serialize a scalar or a key."""
        if isinstance(value, Traced):
            text = quoted(value)
            if len(text) == len(value) + 2:  # nothing was escaped
                return joined(('"', value, '"'))
            return changed(text, value)
        if isinstance(value, TracedNumber):
            return Traced.from_source(json.dumps(value), value.source)
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
