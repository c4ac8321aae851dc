"""Where a call is written in its file."""

from types import CodeType

from torchtune.config._mistakes import Location, shown_path


def position_of(code: CodeType, instruction: int) -> tuple[int, int]:
    """Return the line and column at which an instruction's expression begins."""
    positions = list(code.co_positions())
    line, _, column, _ = positions[instruction // 2]
    return line or code.co_firstlineno, column or 0


def location_of_call(code: CodeType, instruction: int) -> Location:
    """Return the file and line of a call."""
    return Location(0, position_of(code, instruction)[0], shown_path(code.co_filename), "file")
