"""Where code is written: the position of a call in its file, and how a file's path is shown."""

from pathlib import Path
from types import CodeType


def position_of(code: CodeType, instruction: int) -> tuple[int, int]:
    """Return the line and column at which an instruction's expression begins."""
    positions = list(code.co_positions())
    line, _, column, _ = positions[instruction // 2]
    return line or code.co_firstlineno, column or 0


def shown_path(file: str) -> str:
    """Return a file's path as a user would write it here: relative where it lies below this folder."""
    path, here = Path(file), Path.cwd()
    if not path.is_absolute():
        return str(path)
    for root in (here, Path(__file__).resolve().parents[2]):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return str(path)
