"""Interpolation: `${a.b}` stands for the value at a.b.

Alone it keeps the value's type, within text it is joined as text, and `$${` is a literal `${`.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from attrs import define, field

from torchtune.config._mistakes import Mistake, Path, did_you_mean, dotted
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
    tree: Any, root: Any = None, missing: Collection[str] = (), computed: Collection[str] = ()
) -> tuple[Any, list[Mistake]]:
    """Replace every reference in a tree by the value it names.

    Args:
        tree: What to resolve.
        root: What references are looked up in; the tree itself by default.
        missing: Fields that are required and not there, which is a mistake of its own.
        computed: Fields that are not there since they are computed from others, so that no reference may name them.

    Returns:
        The resolved tree, and a mistake for each reference that names nothing or leads back to itself. What
        cannot be resolved is left as it was written; where that is the fault of another reference, which has the
        mistake, this one is a consequence.
    """
    resolver = _Resolver(tree if root is None else root, missing, computed, whole=root is None)
    return resolver.resolve(tree, ()), resolver.mistakes


class _BrokenReferenceError(LookupError):
    """A reference cannot be resolved.

    Attributes:
        mistake: What is wrong, without the path.
        ring: The paths that lead in a circle, if that is the reason.
        depth: How many references led to the text that is broken; 0 in that text itself.
    """

    def __init__(self, mistake: Mistake, ring: tuple[Path, ...] = ()) -> None:
        super().__init__(mistake)
        self.mistake, self.ring = mistake, ring
        self.depth = 0


def _broken(message: str, suggestion: str = "", caused_by: Path | None = None) -> _BrokenReferenceError:
    return _BrokenReferenceError(Mistake("reference", message, suggestion, caused_by=caused_by))


@define
class _Resolver:
    root: Any
    missing: Collection[str]
    computed: Collection[str]
    whole: bool
    """True where what is resolved is the root itself, so that its paths are those of references."""
    mistakes: list[Mistake] = field(factory=list)
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
            is_reported_here = not self.whole or self._is_reported_at(path, error)
            found = error.mistake if is_reported_here else Mistake("consequence")
            self.mistakes.append(found._replace(path=path))
        except RecursionError:
            message = "the chain of references is too long"
            self.mistakes.append(Mistake("reference", message, "name the value itself", path))
        return value

    def _is_reported_at(self, path: Path, error: "_BrokenReferenceError") -> bool:
        """Tell whether a broken reference is reported at a leaf, and not at another that leads to it."""
        if error.ring:
            ring = frozenset(error.ring)
            here = tuple(map(str, path))
            is_first = ring not in self.rings and any(here[: len(p)] == p for p in ring)
            self.rings |= {ring} if is_first else set()
            return is_first
        if self.work > MAX_WORK:
            is_first, self.exhausted = not self.exhausted, True
            return is_first
        return not error.depth

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
            raise _broken("references expand to more than any config holds", "is it a bomb?")

    def _text(self, value: Any) -> Any:
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole and whole[1] is not None:
            return self._look_up(whole[1])
        if "${" in _REFERENCE.sub("", value):
            raise _broken(f"{value!r} holds an unfinished reference", "write ${name}, or $${ for itself")
        joined = _REFERENCE.sub(self._joined, value)
        self._count(len(joined))
        return Text(joined) if "${" in joined else joined

    def _joined(self, match: re.Match[str]) -> str:
        if match[1] is None:
            return "${"
        value = self._look_up(match[1])
        if value is BROKEN:
            raise _BrokenReferenceError(Mistake("consequence"))
        if isinstance(value, (Mapping, list)):
            raise _broken(f"{match[0]} is not a single value, so it cannot be part of text")
        if value is None:
            cause = tuple(match[1].split("."))
            raise _broken(f"{match[0]} is null, so it cannot be part of text", caused_by=cause)
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)

    def _look_up(self, name: str) -> Any:
        path = tuple(name.strip().split("."))
        if path[0] in self.missing:
            return BROKEN
        if path[0] in self.computed:
            message = f"${{{name}}} is computed from other fields, so no reference can name it"
            raise _broken(message, "set it, or compute it there")
        if path in self.busy:
            start = self.busy.index(path)
            ring = tuple(self.busy[start:])
            shown = " -> ".join(map(dotted, [*ring, path]))
            found = Mistake("reference", f"references lead in a circle: {shown}", caused_by=ring[-1])
            raise _BrokenReferenceError(found, ring)
        self.busy.append(path)
        try:
            return self._inner(at(self.root, path))
        except _BrokenReferenceError as error:
            error.depth += 1
            raise
        except LookupError:
            raise _broken(f"${{{name}}} names nothing", self._suggestion(path)) from None
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
