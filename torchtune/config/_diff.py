"""Compare two config trees leaf by leaf."""

from typing import Any, Final, NamedTuple

from torchtune.config._tree import leaves

ABSENT: Final = object()
"""A placeholder for a leaf that is missing in one of the trees."""


class Difference(NamedTuple):
    """A leaf that differs between two trees."""

    path: str
    left: Any
    """The left tree's value, or ABSENT."""
    right: Any
    """The right tree's value, or ABSENT."""


def differences(left: Any, right: Any) -> list[Difference]:
    """Return the leaves that differ between two trees: those of the left tree in its order, then all others."""
    a, b = dict(leaves(left)), dict(leaves(right))
    rows = [(path, a.get(path, ABSENT), b.get(path, ABSENT)) for path in dict.fromkeys([*a, *b])]
    # Compared by repr, so that 1, 1.0 and true differ, as in YAML.
    return [Difference(".".join(map(str, path)), x, y) for path, x, y in rows if repr(x) != repr(y)]
