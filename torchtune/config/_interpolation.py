"""Interpolation: `${a.b}` stands for the value at a.b.

Alone it keeps the value's type, within text it is joined as text, and `$${` is a literal `${`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from torchtune._hints import hint_for
from torchtune.config._mistakes import Mistake, Path, did_you_mean, dotted
from torchtune.config._tree import BROKEN, at, child, leaves

T = TypeVar("T")

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)\}")

REQUIRED_NAME: Final = "required"
"""`${required}` stands for a value that whoever runs the config has to set, unless a field has this name."""

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
    return _path_of(whole[1]) if whole and whole[1] is not None else None


def _path_of(name: str) -> tuple[str, ...]:
    return tuple(name.strip().split("."))


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
        The resolved tree, and a mistake for each reference that names nothing or leads back to itself; a value may
        have several. What cannot be resolved is left as it was written; where that is the fault of another reference,
        which has the mistake, this one is a consequence.
    """
    resolver = _Resolver(tree if root is None else root, missing, computed, whole=root is None)
    return resolver.resolve(tree, ()), resolver.mistakes


class _Fault(NamedTuple):
    """Why a reference cannot be resolved."""

    mistake: Mistake
    """What is wrong, without the path."""
    ring: tuple[Path, ...] = ()
    """The paths that lead in a circle, if that is the reason."""
    is_elsewhere: bool = False
    """True where the reference leads to the text that is broken, which has the mistake."""


class _BrokenReferenceError(LookupError):
    """References in one value cannot be resolved, each for its own reason."""

    def __init__(self, *faults: _Fault) -> None:
        super().__init__()
        self.faults = tuple(dict.fromkeys(faults))


def _broken(message: str, suggestion: str = "", caused_by: Path | None = None) -> _BrokenReferenceError:
    return _BrokenReferenceError(_Fault(Mistake("reference", message, suggestion, caused_by=caused_by)))


def _in_a_circle(ring: Sequence[Path]) -> Mistake:
    shown = " -> ".join(map(dotted, [*ring, ring[0]]))
    return Mistake("reference", f"references lead in a circle: {shown}", caused_by=ring[0])


class _Resolver:
    # Importing attrs would take a third of what `tune diff` does.
    def __init__(
        self, root: Any, missing: Collection[str], computed: Collection[str], *, whole: bool
    ) -> None:
        self.root = root
        self.missing = missing
        self.computed = computed
        self.whole = whole
        """True where what is resolved is the root itself, so that its paths are those of references."""
        self.mistakes: list[Mistake] = []
        self.busy: list[Path] = []
        self.rings: set[frozenset[Path]] = set()
        self.failed: dict[Path, tuple[_Fault, ...]] = {}
        """The faults of references that failed; without it, looking for all faults could take exponential time."""
        self.exhausted = False
        self.work = 0
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
            mistakes = (self._mistake_at(path, fault)._replace(path=path) for fault in error.faults)
            self.mistakes += dict.fromkeys(mistakes)
        except RecursionError:
            message = "the chain of references is too long"
            self.mistakes.append(Mistake("reference", message, "name the value itself", path))
        return value

    def _mistake_at(self, path: Path, fault: _Fault) -> Mistake:
        """Return the mistake of a leaf, which is a consequence where another leaf has the mistake."""
        consequence = Mistake("consequence")
        if not self.whole:
            return fault.mistake
        if fault.ring:
            here = tuple(map(str, path))
            own = [i for i, member in enumerate(fault.ring) if here[: len(member)] == member]
            if frozenset(fault.ring) in self.rings or not own:
                return consequence
            self.rings.add(frozenset(fault.ring))
            return _in_a_circle([*fault.ring[own[0] + 1 :], *fault.ring[: own[0] + 1]])
        if self.work > MAX_WORK:
            is_first, self.exhausted = not self.exhausted, True
            return fault.mistake if is_first else consequence
        return consequence if fault.is_elsewhere else fault.mistake

    def _inner(self, value: Any) -> Any:
        """Resolve a value that a reference leads to; what fails there is the reference's failure too."""
        self._count(1)
        if isinstance(value, Mapping):
            return dict(zip(value, self._each(value.values(), self._inner), strict=True))
        return self._each(value, self._inner) if isinstance(value, list) else self._text(value)

    def _each(
        self, values: Iterable[T], resolve: Callable[[T], Any], faults: Iterable[_Fault] = ()
    ) -> list[Any]:
        """Resolve several values, so that a fault of one hides none of the others; `faults` are known already."""
        resolved: list[Any] = []
        unresolved = list(faults)
        for value in values:
            try:
                resolved.append(resolve(value))
            except _BrokenReferenceError as error:
                unresolved += error.faults
        if unresolved:
            raise _BrokenReferenceError(*unresolved)
        return resolved

    def _count(self, amount: int) -> None:
        """Bound what references expand to, since one that is used twice in each of 30 others is a billion values."""
        self.work += amount
        if self.work > MAX_WORK:
            raise _broken("references expand to more than any config holds", "is it a bomb?")

    def _text(self, value: Any) -> Any:
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole is not None and whole[1] is not None:
            return self._look_up(whole[1])
        parts = _REFERENCE.split(value)  # text, name, text, name, ..., text
        faults: tuple[_Fault, ...] = ()
        if any("${" in text for text in parts[::2]):
            message = f"{value!r} holds an unfinished reference"
            faults = _broken(message, "write ${name}, or $${ for itself").faults
        parts[1::2] = self._each(parts[1::2], self._joined, faults)
        joined = "".join(parts)
        self._count(len(joined))
        return Text(joined) if "${" in joined else joined

    def _joined(self, name: str | None) -> str:
        if name is None:
            return "${"
        value = self._look_up(name)
        if value is BROKEN:
            raise _BrokenReferenceError(_Fault(Mistake("consequence")))
        if isinstance(value, (Mapping, list)):
            raise _broken(f"${{{name}}} is not a single value, so it cannot be part of text")
        if value is None:
            message = f"${{{name}}} is null, so it cannot be part of text"
            raise _broken(message, caused_by=_path_of(name))
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)

    def _look_up(self, name: str) -> Any:
        path = _path_of(name)
        if name == REQUIRED_NAME and REQUIRED_NAME not in self.root:
            raise _BrokenReferenceError(_Fault(Mistake("missing", "is required", got=f"${{{name}}}")))
        if path[0] in self.missing:
            return BROKEN
        if path[0] in self.computed:
            message = f"${{{name}}} is computed from other fields, so no reference can name it"
            raise _broken(message, "set it, or compute it there")
        if path in self.busy:
            ring = tuple(self.busy[self.busy.index(path) :])
            raise _BrokenReferenceError(_Fault(_in_a_circle(ring), ring))
        if path in self.failed:
            raise _BrokenReferenceError(*self.failed[path])
        try:
            value = at(self.root, path)
        except LookupError:
            raise _broken(f"${{{name}}} names nothing", self._suggestion(path)) from None
        self.busy.append(path)
        try:
            return self._inner(value)
        except _BrokenReferenceError as error:
            self.failed[path] = tuple(fault._replace(is_elsewhere=True) for fault in error.faults)
            raise _BrokenReferenceError(*self.failed[path]) from None
        finally:
            self.busy.pop()

    def _suggestion(self, path: Path) -> str:
        """Say what to write for an idiom of OmegaConf's, or suggest a name beside the segment that is wrong."""
        name = dotted(path)
        hint = hint_for(name) if ":" in name or name.startswith(("oc.", "x-")) else None
        if hint is not None:
            return hint
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
