"""The existing path that a misspelt one most likely means."""

import difflib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_CUTOFF = 0.6
"""How similar two names must be, by difflib's ratio."""


StrPath = str | os.PathLike[str]


def near_path(path: StrPath, accepts: Callable[[Path], bool] = Path.exists) -> Path | None:
    """Return the existing path that differs from a missing one in a single, similar name; None if there is none.

    Names are similar if they differ in a few characters, or if one continues the other, as `SmolLM2-135M` continues
    `SmolLM2`.

    Args:
        path: A path that does not exist.
        accepts: Tells whether a path exists and is of the expected kind.
    """
    path = Path(path)
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    rest = path.relative_to(missing)
    scored = [(score, entry / rest) for entry, score in _similar(missing) if accepts(entry / rest)]
    return max(scored)[1] if scored else None


def did_you_mean_path(path: StrPath, accepts: Callable[[Path], bool] = Path.exists) -> str:
    """Return `did you mean x?`, or nothing if no existing path is near; the arguments are those of `near_path`."""
    near = near_path(path, accepts)
    return f"did you mean {near}?" if near else ""


def _similar(missing: Path) -> Iterator[tuple[Path, float]]:
    """Yield the similar names in the folder of a missing path, and how similar each is."""
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
    if Path(left).suffix == Path(right).suffix:  # an ending in common says nothing
        left, right = Path(left).stem, Path(right).stem
    shorter, longer = sorted((left, right), key=len)
    ratio = difflib.SequenceMatcher(None, left, right).ratio()
    is_continued = longer.startswith(shorter) and not longer[len(shorter) :][:1].isalnum()
    return max(ratio, _CUTOFF) if is_continued else ratio
