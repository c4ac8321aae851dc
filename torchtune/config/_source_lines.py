"""Find the source location of a call."""

from types import CodeType

from torchtune.config._mistakes import Location, display_path


def position_of(code: CodeType, instruction: int) -> tuple[int, int]:
    """Return the line and column of an instruction's expression."""
    positions = list(code.co_positions())
    line, _, column, _ = positions[instruction // 2]
    return line or code.co_firstlineno, column or 0


def location_of_call(code: CodeType, instruction: int) -> Location:
    """Return the file and line of a call."""
    return Location(0, position_of(code, instruction)[0], display_path(code.co_filename), "file")
