"""Interpolation: `${a.b}` stands for the value at a.b.

Alone it keeps the value's type, within text it is joined as text, and `$${` is a literal `${`.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field

from torchtune.config._mistakes import Path, Problem, did_you_mean, dotted
from torchtune.config._tree import at, child, leaves

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)\}")


class Text(str):
    """Resolved text in which `${` is meant literally; it is written back as `$${`."""

    __slots__ = ()


def is_reference(value: object) -> bool:
    """Tell whether a value still holds an interpolation, `${...}`."""
    return isinstance(value, str) and not isinstance(value, Text) and "${" in value.replace("$${", "")


def resolve_tree(
    tree: Any, root: Any = None, unset: frozenset[str] = frozenset()
) -> tuple[Any, list[Problem]]:
    """Replace every reference in a tree by the value it names.

    Args:
        tree: What to resolve.
        root: What references are looked up in; the tree itself by default.
        unset: Fields that a reference may name although they are not there; such a reference is left as written.

    Returns:
        The resolved tree, and a problem for each reference that names nothing or leads back to itself. What
        cannot be resolved is left as it was written.
    """
    resolver = _Resolver(tree if root is None else root, unset)
    return resolver.resolve(tree, ()), resolver.problems


class _BrokenReferenceError(LookupError):
    """A reference cannot be resolved; the message says why."""


@define
class _Resolver:
    root: Any
    unset: frozenset[str]
    problems: list[Problem] = field(factory=list)
    busy: list[Path] = field(factory=list)

    def resolve(self, value: Any, path: Path) -> Any:
        """Resolve everything below a value, noting what fails at the leaf where it was written."""
        if isinstance(value, Mapping):
            return {key: self.resolve(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, (*path, i)) for i, item in enumerate(value)]
        try:
            return self._text(value)
        except _BrokenReferenceError as error:
            self.problems.append(Problem(path, str(error)))
            return value

    def _inner(self, value: Any) -> Any:
        """Resolve a value that a reference leads to; what fails there is the reference's failure too."""
        if isinstance(value, Mapping):
            return {key: self._inner(item) for key, item in value.items()}
        return [self._inner(item) for item in value] if isinstance(value, list) else self._text(value)

    def _text(self, value: Any) -> Any:
        if not isinstance(value, str) or "${" not in value:
            return value
        if (whole := _REFERENCE.fullmatch(value)) and whole[1] is not None:
            return self._look_up(whole[1])
        joined = _REFERENCE.sub(self._joined, value)
        return Text(joined) if "${" in joined else joined

    def _joined(self, match: re.Match[str]) -> str:
        if match[1] is None:
            return "${"
        value = self._look_up(match[1])
        if isinstance(value, (Mapping, list)):
            raise _BrokenReferenceError(
                f"${{{match[1]}}} is not a single value, so it cannot be part of text"
            )
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        return str(value)

    def _look_up(self, name: str) -> Any:
        path = tuple(name.strip().split("."))
        if path[0] in self.unset:
            return f"${{{name}}}"
        if path in self.busy:
            ring = " -> ".join(dotted(p) for p in [*self.busy[self.busy.index(path) :], path])
            raise _BrokenReferenceError(f"references lead in a circle: {ring}")
        self.busy.append(path)
        try:
            return self._inner(at(self.root, path))
        except _BrokenReferenceError:
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
