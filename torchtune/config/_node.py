"""A config without a class: a read-only mapping with attribute access."""

from collections.abc import Iterator, Mapping
from typing import Any

from torchtune.config._mistakes import Location, Path, did_you_mean, with_suggestion


class Node(Mapping[str, Any]):
    """A read-only mapping whose keys are also attributes; nested nodes reference their root node.

    Args:
        tree: Mappings, lists and scalars.
        root: The node against which references are resolved; this node itself by default.
        path: The field path of this node, from its root.
        origins: The locations of the values in a root node, by path.
    """

    __slots__ = ("_origins", "_path", "_root", "_tree")

    def __init__(
        self,
        tree: Mapping[str, Any],
        root: "Node | None" = None,
        path: Path = (),
        origins: Mapping[Path, Location] | None = None,
    ) -> None:
        self._tree, self._path = tree, path
        self._root = root if root is not None else self
        self._origins = origins or {}

    def __getitem__(self, key: str) -> Any:
        return _wrapped(self._tree[key], self._root, (*self._path, key))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            suggestion = did_you_mean(name, self._tree)
            raise AttributeError(with_suggestion(f"the config has no {name!r}", suggestion)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def __repr__(self) -> str:
        return f"Node({dict(self._tree)!r})"


def _wrapped(value: Any, root: Node, path: Path) -> Any:
    if isinstance(value, Mapping):
        return Node(value, root, path)
    if isinstance(value, list):
        return [_wrapped(item, root, (*path, i)) for i, item in enumerate(value)]
    return value


def node_source(value: object) -> tuple[Location, Path] | None:
    """Return the location and field path of a node; None for anything else."""
    if not isinstance(value, Node):
        return None
    path, origins = value._path, value._root._origins  # noqa: SLF001 -- this module's own class
    return origins.get(path, Location()), path


def root_of(value: object) -> Any:
    """Return the tree against which a node's references are resolved; None for anything else."""
    return value._root._tree if isinstance(value, Node) else None  # noqa: SLF001 -- this module's own class


def tree_of(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the plain mapping of a node, or the mapping itself."""
    return value._tree if isinstance(value, Node) else value  # noqa: SLF001 -- this module's own class
