"""Interpolation: `${a.b}` stands for the value at a.b.

Alone it keeps the value's type, within text it is joined as text, and `$${` is a literal `${`.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from attrs import define, field

from torchtune.config._mistakes import SILENT, Path, Problem, did_you_mean, dotted
from torchtune.config._tree import BROKEN, at, child, leaves

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)\}")

MAX_WORK: Final = 2**22
"""How many values and characters all references of a config may expand to."""


class Text(str):
    """Resolved text in which `${` is meant literally; it is written back as `$${`."""

    __slots__ = ()


def is_reference(value: object) -> bool:
    """Tell whether a value still holds an interpolation, `${...}`."""
    return isinstance(value, str) and not isinstance(value, Text) and "${" in value.replace("$${", "")


def referred(value: object) -> Path | None:
    """Return the path that a value refers to as a whole; None where it is not a reference and nothing else."""
    whole = _REFERENCE.fullmatch(value) if isinstance(value, str) and not isinstance(value, Text) else None
    return tuple(whole[1].strip().split(".")) if whole and whole[1] is not None else None


def resolve_tree(
    tree: Any, root: Any = None, unset: Mapping[str, str] = MappingProxyType({})
) -> tuple[Any, list[Problem]]:
    """Replace every reference in a tree by the value it names.

    Args:
        tree: What to resolve.
        root: What references are looked up in; the tree itself by default.
        unset: Fields that are not there, with why no reference may name them; nothing where that they are missing
            is a mistake of its own.

    Returns:
        The resolved tree, and a problem for each reference that names nothing or leads back to itself. What
        cannot be resolved is left as it was written; where that is the fault of another reference, which has the
        problem, the message is empty.
    """
    resolver = _Resolver(tree if root is None else root, unset, whole=root is None)
    return resolver.resolve(tree, ()), resolver.problems


class _BrokenReferenceError(LookupError):
    """A reference cannot be resolved; the message says why.

    Attributes:
        ring: The paths that lead in a circle, if that is the reason.
        because: The path of a value that does not fit here.
        depth: How many references led to the text that is broken; 0 in that text itself.
    """

    def __init__(self, message: str, ring: tuple[Path, ...] = (), because: Path | None = None) -> None:
        super().__init__(message)
        self.ring, self.because = ring, because
        self.depth = 0


@define
class _Resolver:
    root: Any
    unset: Mapping[str, str]
    whole: bool
    """True where what is resolved is the root itself, so that its paths are those of references."""
    problems: list[Problem] = field(factory=list)
    busy: list[Path] = field(factory=list)
    rings: set[frozenset[Path]] = field(factory=set)
    exhausted: bool = False
    work: int = 0
    """Values and characters that references brought in so far."""

    def resolve(self, value: Any, path: Path) -> Any:
        """Resolve everything below a value, noting what fails at the leaf where it was written."""
        if isinstance(value, Mapping):
            return {key: self.resolve(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, (*path, i)) for i, item in enumerate(value)]
        try:
            return self._text(value)
        except _BrokenReferenceError as error:
            self.problems.append(Problem(path, self._said_here(error, path), error.because))
        except RecursionError:
            self.problems.append(Problem(path, "the chain of references is too long; name the value itself"))
        return value

    def _said_here(self, error: "_BrokenReferenceError", path: Path) -> str:
        """Return what is said of a reference, which is nothing where another's leaf says it."""
        if not self.whole:
            return str(error)
        if error.ring:
            ring = frozenset(error.ring)
            here = tuple(map(str, path))
            if ring in self.rings or not any(here[: len(p)] == p for p in ring):
                return SILENT
            self.rings.add(ring)
            return str(error)
        if self.work > MAX_WORK:
            said, self.exhausted = self.exhausted, True
            return SILENT if said else str(error)
        return SILENT if error.depth else str(error)

    def _inner(self, value: Any) -> Any:
        """Resolve a value that a reference leads to; what fails there is the reference's failure too."""
        self._count(1)
        if isinstance(value, Mapping):
            return {key: self._inner(item) for key, item in value.items()}
        return [self._inner(item) for item in value] if isinstance(value, list) else self._text(value)

    def _count(self, amount: int) -> None:
        """Bound what references expand to, since one that is used twice in each of 30 others is a billion values."""
        self.work += amount
        if self.work > MAX_WORK:
            raise _BrokenReferenceError("references expand to more than any config holds; is it a bomb?")

    def _text(self, value: Any) -> Any:
        if not isinstance(value, str) or "${" not in value:
            return value
        if (whole := _REFERENCE.fullmatch(value)) and whole[1] is not None:
            return self._look_up(whole[1])
        if "${" in _REFERENCE.sub("", value):
            raise _BrokenReferenceError(
                f"{value!r} holds an unfinished reference; write ${{name}}, or $${{ for itself"
            )
        joined = _REFERENCE.sub(self._joined, value)
        self._count(len(joined))
        return Text(joined) if "${" in joined else joined

    def _joined(self, match: re.Match[str]) -> str:
        if match[1] is None:
            return "${"
        value = self._look_up(match[1])
        if value is BROKEN:
            raise _BrokenReferenceError(SILENT)
        if isinstance(value, (Mapping, list)):
            raise _BrokenReferenceError(
                f"${{{match[1]}}} is not a single value, so it cannot be part of text"
            )
        if value is None:
            raise _BrokenReferenceError(
                f"${{{match[1]}}} is null, so it cannot be part of text", because=tuple(match[1].split("."))
            )
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)

    def _look_up(self, name: str) -> Any:
        path = tuple(name.strip().split("."))
        if path[0] in self.unset:
            if why := self.unset[path[0]]:
                raise _BrokenReferenceError(f"${{{name}}} {why}")
            return BROKEN
        if path in self.busy:
            start = self.busy.index(path)
            ring = " -> ".join(dotted(p) for p in [*self.busy[start:], path])
            raise _BrokenReferenceError(f"references lead in a circle: {ring}", tuple(self.busy[start:]))
        self.busy.append(path)
        try:
            return self._inner(at(self.root, path))
        except _BrokenReferenceError as error:
            error.depth += 1
            raise
        except LookupError:
            raise _BrokenReferenceError(f"${{{name}}} names nothing{self._suggestion(path)}") from None
        finally:
            self.busy.pop()

    def _suggestion(self, path: Path) -> str:
        """Suggest a name beside the first segment that is wrong, or a whole path."""
        holder = self.root
        for i, key in enumerate(path):
            try:
                holder = child(holder, key)
            except LookupError:
                known = (
                    [dotted((*path[:i], k, *path[i + 1 :])) for k in holder]
                    if isinstance(holder, Mapping)
                    else []
                )
                return did_you_mean(dotted(path), known or [dotted(p) for p, _ in leaves(self.root)])
        return ""
