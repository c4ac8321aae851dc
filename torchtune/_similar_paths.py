"""Suggest an existing path for a misspelled one."""

import difflib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_CUTOFF = 0.6
"""The minimum similarity of two names, as difflib's ratio."""


StrPath = str | os.PathLike[str]


def similar_path(path: StrPath, accepts: Callable[[Path], bool] = Path.exists) -> Path | None:
    """Return the existing path that differs from a missing path in one similar name; None if no name is similar.

    Names are similar if they differ in a few characters, or if one begins with the other, as `SmolLM2-135M` begins
    with `SmolLM2`.

    Args:
        path: A path that does not exist.
        accepts: Returns whether a path exists and is of the expected kind.
    """
    path = Path(path)
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    remaining = path.relative_to(missing)
    scored = [(score, entry / remaining) for entry, score in _similar(missing) if accepts(entry / remaining)]
    return max(scored)[1] if scored else None


def did_you_mean_path(path: StrPath, accepts: Callable[[Path], bool] = Path.exists) -> str:
    """Return `did you mean x?`, where x is the result of `similar_path`; an empty string if no path is similar."""
    similar = similar_path(path, accepts)
    return f"did you mean {similar}?" if similar else ""


def _similar(missing: Path) -> Iterator[tuple[Path, float]]:
    """Yield the entries with similar names in the folder of a missing path, each with its similarity."""
    try:
        entries = sorted(missing.parent.iterdir())
    except OSError:
        return
    for entry in entries:
        score = _similarity(missing.name, entry.name)
        if score >= _CUTOFF and not entry.name.startswith("."):
            yield entry, score


def _similarity(left: str, right: str) -> float:
    left, right = (name.lower().replace("_", "-") for name in (left, right))
    if Path(left).suffix == Path(right).suffix:  # a common suffix does not make names similar
        left, right = Path(left).stem, Path(right).stem
    shorter, longer = sorted((left, right), key=len)
    ratio = difflib.SequenceMatcher(None, left, right).ratio()
    is_prefix = longer.startswith(shorter) and not longer[len(shorter) :][:1].isalnum()
    return max(ratio, _CUTOFF) if is_prefix else ratio
