"""Functions on trees of mappings and lists."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from torchtune.config._component import COMPONENT_KEY
from torchtune.config._mistakes import Path


class Broken:
    """A placeholder for a value whose mistake is already reported, to avoid follow-up mistakes.

    Arithmetic with the placeholder, for example in a config function, returns the placeholder.
    """

    def __repr__(self) -> str:
        return "(broken)"

    def _same(self, *_: object) -> "Broken":
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _same
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __getitem__ = _same

    def __bool__(self) -> bool:
        return False

    def _false(self, _: object) -> bool:
        return False

    __lt__ = __le__ = __gt__ = __ge__ = _false


BROKEN: Final = Broken()


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every leaf with its path; an empty mapping and a list of scalars are leaves."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    elif isinstance(tree, list) and any(isinstance(item, (Mapping, list)) for item in tree):
        for i, item in enumerate(tree):
            yield from leaves(item, (*path, i))
    else:
        yield path, tree


def all_paths(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of a tree and the path of every value in it."""
    yield path
    if isinstance(tree, Mapping | list):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from all_paths(value, (*path, key))


def child(tree: Any, key: str | int) -> Any:
    """Return the value at a key or list index.

    Raises:
        LookupError: The tree has no such value.
    """
    if isinstance(tree, list):
        if isinstance(key, int) or is_index(key):
            return tree[int(key)]
        raise LookupError(key)
    if isinstance(tree, Mapping):
        return tree[key]
    raise LookupError(key)


def is_index(text: str) -> bool:
    """Return whether a path segment may be a list index."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def as_path(text: str) -> Path:
    """Convert a dotted path to a tuple, with list indices as int."""
    return tuple(int(part) if is_index(part) else part for part in text.split("."))


def value_at(tree: Any, path: Path) -> Any:
    """Return the value at a path.

    Raises:
        LookupError: The tree has no such value.
    """
    for key in path:
        tree = child(tree, key)
    return tree


def copy_tree(tree: Any) -> Any:
    """Copy the mappings and lists of a tree."""
    if isinstance(tree, Mapping):
        return {key: copy_tree(value) for key, value in tree.items()}
    return [copy_tree(item) for item in tree] if isinstance(tree, list) else tree


def is_component_tree(tree: Any) -> bool:
    """Return whether a tree is the mapping of a component."""
    return isinstance(tree, Mapping) and COMPONENT_KEY in tree
