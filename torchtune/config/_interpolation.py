"""Interpolation: `${a.b}` refers to the value at a.b.

A value that is one reference has the type of its target; references within text become text. `$${` is a literal `${`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from torchtune._hints import hint_for
from torchtune.config._mistakes import Mistake, Path, did_you_mean, dotted
from torchtune.config._tree import BROKEN, child, leaves, value_at

T = TypeVar("T")

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)\}")

REQUIRED_NAME: Final = "required"
"""The name in `${required}`, which marks a value that the user must set, unless there is a field of this name."""

MAX_WORK: Final = 2**22
"""The maximum number of values and characters that all references of a config may expand to."""


class Text(str):
    """Resolved text that contains a literal `${`, written to YAML as `$${`."""

    __slots__ = ()


def is_reference(value: object) -> bool:
    """Return whether a value contains an unresolved interpolation, `${...}`."""
    return isinstance(value, str) and not isinstance(value, Text) and "${" in value.replace("$${", "")


def reference_target(value: object) -> Path | None:
    """Return the path that a value refers to, or None if the value is not exactly one reference."""
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) and not isinstance(value, Text) else None
    return _path_of(match[1]) if match and match[1] is not None else None


def _path_of(name: str) -> tuple[str, ...]:
    return tuple(name.strip().split("."))


def resolve_tree(
    tree: Any, root: Any = None, missing: Collection[str] = (), computed: Collection[str] = ()
) -> tuple[Any, list[Mistake]]:
    """Replace every reference in a tree with the value that it refers to.

    Args:
        tree: The tree to resolve.
        root: The tree in which references are looked up; `tree` itself by default.
        missing: Required fields that are not set; they are reported separately.
        computed: Fields that are computed from other fields and cannot be referenced.

    Returns:
        The resolved tree, and a mistake for each circular reference and each reference whose target does not exist; a
        value may have multiple mistakes. Values that cannot be resolved are left unchanged. A reference that fails only
        because its target contains a broken reference has a mistake of the kind `consequence`.
    """
    resolver = _Resolver(tree if root is None else root, missing, computed, is_root=root is None)
    return resolver.resolve(tree, ()), resolver.mistakes


class _Fault(NamedTuple):
    """The reason why a reference cannot be resolved."""

    mistake: Mistake
    """The mistake, without its path."""
    cycle: tuple[Path, ...] = ()
    """The paths of a reference cycle, if that is the reason."""
    is_elsewhere: bool = False
    """True if the fault is in the value that the reference refers to."""


class _BrokenReferenceError(LookupError):
    """The faults of all references in one value."""

    def __init__(self, *faults: _Fault) -> None:
        super().__init__()
        self.faults = tuple(dict.fromkeys(faults))


def _broken(message: str, suggestion: str = "", caused_by: Path | None = None) -> _BrokenReferenceError:
    return _BrokenReferenceError(_Fault(Mistake("reference", message, suggestion, caused_by=caused_by)))


def _circular(cycle: Sequence[Path]) -> Mistake:
    cycle_text = " -> ".join(map(dotted, [*cycle, cycle[0]]))
    return Mistake("reference", f"circular references: {cycle_text}", caused_by=cycle[0])


class _Resolver:
    # Not an attrs class, because importing attrs would make `tune diff` 30% slower.
    def __init__(
        self, root: Any, missing: Collection[str], computed: Collection[str], *, is_root: bool
    ) -> None:
        self.root = root
        self.missing = missing
        self.computed = computed
        self.is_root = is_root
        """True if the resolved tree is the root itself, so that its paths match those of references."""
        self.mistakes: list[Mistake] = []
        self.in_progress: list[Path] = []
        self.cycles: set[frozenset[Path]] = set()
        self.failed: dict[Path, tuple[_Fault, ...]] = {}
        """The faults of references that failed, cached because finding them repeatedly could take exponential time."""
        self.exhausted = False
        self.work = 0
        """The number of values and characters that references have expanded to so far."""

    def resolve(self, value: Any, path: Path) -> Any:
        """Resolve all references in a value, and record each failure at its leaf."""
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
            self.mistakes.append(Mistake("reference", message, "refer to the final value directly", path))
        return value

    def _mistake_at(self, path: Path, fault: _Fault) -> Mistake:
        """Return the mistake for a leaf, or a consequence if the fault is reported at another leaf."""
        consequence = Mistake("consequence")
        if not self.is_root:
            return fault.mistake
        if fault.cycle:
            text_path = tuple(map(str, path))
            indices = [i for i, member in enumerate(fault.cycle) if text_path[: len(member)] == member]
            if frozenset(fault.cycle) in self.cycles or not indices:
                return consequence
            self.cycles.add(frozenset(fault.cycle))
            return _circular([*fault.cycle[indices[0] + 1 :], *fault.cycle[: indices[0] + 1]])
        if self.work > MAX_WORK:
            is_first, self.exhausted = not self.exhausted, True
            return fault.mistake if is_first else consequence
        return consequence if fault.is_elsewhere else fault.mistake

    def _target(self, value: Any) -> Any:
        """Resolve the references in the target of a reference; any failure is also a failure of that reference."""
        self._count(1)
        if isinstance(value, Mapping):
            return dict(zip(value, self._resolve_each(value.values(), self._target), strict=True))
        return self._resolve_each(value, self._target) if isinstance(value, list) else self._text(value)

    def _resolve_each(
        self, values: Iterable[T], resolve: Callable[[T], Any], faults: Iterable[_Fault] = ()
    ) -> list[Any]:
        """Resolve multiple values; if any fail, or `faults` is not empty, raise an error with all faults."""
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
        """Count expanded values up to a limit, because 30 levels of two references expand to a billion values."""
        self.work += amount
        if self.work > MAX_WORK:
            raise _broken(f"references expand to more than {MAX_WORK:,} values", "use fewer references")

    def _text(self, value: Any) -> Any:
        if not isinstance(value, str) or "${" not in value:
            return value
        match = _REFERENCE.fullmatch(value)
        if match is not None and match[1] is not None:
            return self._look_up(match[1])
        parts = _REFERENCE.split(value)  # text, name, text, name, ..., text
        faults: tuple[_Fault, ...] = ()
        if any("${" in text for text in parts[::2]):
            message = f"{value!r} contains a malformed reference"
            faults = _broken(message, "use ${name}, or $${ for a literal ${").faults
        parts[1::2] = self._resolve_each(parts[1::2], self._joined, faults)
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
            raise _broken(f"${{{name}}} is not a single value, so it cannot be interpolated into text")
        if value is None:
            message = f"${{{name}}} is null, so it cannot be interpolated into text"
            raise _broken(message, caused_by=_path_of(name))
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)

    def _look_up(self, name: str) -> Any:
        path = _path_of(name)
        if name == REQUIRED_NAME and REQUIRED_NAME not in self.root:
            raise _BrokenReferenceError(_Fault(Mistake("missing", "required", got=f"${{{name}}}")))
        if path[0] in self.missing:
            return BROKEN
        if path[0] in self.computed:
            fix = f"set {name} explicitly, or compute the field that refers to it in the config class"
            raise _broken(f"${{{name}}} is computed from other fields, so it cannot be referenced", fix)
        if path in self.in_progress:
            cycle = tuple(self.in_progress[self.in_progress.index(path) :])
            raise _BrokenReferenceError(_Fault(_circular(cycle), cycle))
        if path in self.failed:
            raise _BrokenReferenceError(*self.failed[path])
        try:
            value = value_at(self.root, path)
        except LookupError:
            raise _broken(f"${{{name}}} not found", self._suggestion(path)) from None
        self.in_progress.append(path)
        try:
            return self._target(value)
        except _BrokenReferenceError as error:
            self.failed[path] = tuple(fault._replace(is_elsewhere=True) for fault in error.faults)
            raise _BrokenReferenceError(*self.failed[path]) from None
        finally:
            self.in_progress.pop()

    def _suggestion(self, path: Path) -> str:
        """Return a hint for an OmegaConf idiom, or a suggestion of a name similar to the wrong segment."""
        name = dotted(path)
        if name.startswith("."):
            return (
                "relative references are not supported; use the path from the top level, such as ${lora.rank}"
            )
        hint = hint_for(name) if ":" in name or name.startswith(("oc.", "x-")) else None
        if hint is not None:
            return hint
        holder = self.root
        for i, key in enumerate(path):
            try:
                holder = child(holder, key)
            except LookupError:
                candidates = (
                    [dotted((*path[:i], k, *path[i + 1 :])) for k in holder]
                    if isinstance(holder, Mapping)
                    else []
                )
                return did_you_mean(dotted(path), candidates or [dotted(p) for p, _ in leaves(self.root)])
        return ""
