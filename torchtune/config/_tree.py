"""Walks over trees of mappings and lists."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from torchtune.config._component import COMPONENT_KEY
from torchtune.config._mistakes import Path


class Broken:
    """Stands in a tree for a value whose mistake was said already, so that no other follows from it.

    A config function may compute with it, which gives the same again.
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
    """Yield every leaf with its path; an empty mapping and a list without mappings in it are leaves."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    elif isinstance(tree, list) and any(isinstance(item, (Mapping, list)) for item in tree):
        for i, item in enumerate(tree):
            yield from leaves(item, (*path, i))
    else:
        yield path, tree


def places(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of a tree and of everything in it."""
    yield path
    if isinstance(tree, Mapping | list):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from places(value, (*path, key))


def child(tree: Any, key: str | int) -> Any:
    """Return what stands at a key or list index.

    Raises:
        LookupError: Nothing stands there.
    """
    if isinstance(tree, list):
        if isinstance(key, int) or is_index(key):
            return tree[int(key)]
        raise LookupError(key)
    if isinstance(tree, Mapping):
        return tree[key]
    raise LookupError(key)


def is_index(text: str) -> bool:
    """Tell whether a part of a path may be the index of a list."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def as_path(text: str) -> Path:
    """Return a dotted path with its list indices as numbers."""
    return tuple(int(part) if is_index(part) else part for part in text.split("."))


def at(tree: Any, path: Path) -> Any:
    """Return what stands at a path.

    Raises:
        LookupError: Nothing stands there.
    """
    for key in path:
        tree = child(tree, key)
    return tree


def copied(tree: Any) -> Any:
    """Return a copy whose mappings and lists may be changed."""
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(item) for item in tree] if isinstance(tree, list) else tree


def is_component_tree(tree: Any) -> bool:
    """Tell whether a tree is a component's mapping."""
    return isinstance(tree, Mapping) and COMPONENT_KEY in tree
