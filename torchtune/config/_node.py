"""A config without a class: a mapping with attribute access, as the specification's YAML examples use it."""

from collections.abc import Iterator, Mapping
from typing import Any

from torchtune.config._mistakes import did_you_mean


class Node(Mapping[str, Any]):
    """A read-only mapping whose keys are attributes too; nested nodes know their root.

    Args:
        tree: Mappings, lists and scalars.
        root: The node that references below this one are resolved against; this node itself by default.
    """

    __slots__ = ("_root", "_tree")

    def __init__(self, tree: Mapping[str, Any], root: "Node | None" = None) -> None:
        self._tree = tree
        self._root = root if root is not None else self

    def __getitem__(self, key: str) -> Any:
        return _wrapped(self._tree[key], self._root)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}{did_you_mean(name, self._tree)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def __repr__(self) -> str:
        return f"Node({dict(self._tree)!r})"


def _wrapped(value: Any, root: Node) -> Any:
    if isinstance(value, Mapping):
        return Node(value, root)
    return [_wrapped(item, root) for item in value] if isinstance(value, list) else value


def root_of(value: object) -> Any:
    """Return the tree of a node's root, which its references are resolved against; None for anything else."""
    return value._root._tree if isinstance(value, Node) else None  # noqa: SLF001 -- this module's own class


def tree_of(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the plain mapping below a node."""
    return value._tree if isinstance(value, Node) else value  # noqa: SLF001 -- this module's own class
