"""Comparing two config trees leaf by leaf."""

from typing import Any, Final, NamedTuple

from torchtune.config._tree import leaves

ABSENT: Final = object()
"""Stands for a leaf that one side does not have."""


class Difference(NamedTuple):
    """A leaf in which two trees differ."""

    path: str
    left: Any
    """The left tree's value, or ABSENT."""
    right: Any
    """The right tree's value, or ABSENT."""


def differences(left: Any, right: Any) -> list[Difference]:
    """Return the leaves in which two trees differ, in the order of the left one, then of the right."""
    a, b = dict(leaves(left)), dict(leaves(right))
    rows = [(path, a.get(path, ABSENT), b.get(path, ABSENT)) for path in dict.fromkeys([*a, *b])]
    # By repr, so that 1 and 1.0 and true differ, as they do in YAML.
    return [Difference(".".join(map(str, path)), x, y) for path, x, y in rows if repr(x) != repr(y)]
