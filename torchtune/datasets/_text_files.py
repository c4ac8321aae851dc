"""Plain text files: one row per line."""

from pathlib import Path

from torchtune.datasets._records import Records, TextFile, find_lines
from torchtune.datasets._tables import Row


class TextLines(Records):
    """A .txt file: each line that is not blank is a row, with its text in the column `text`.

    Raises:
        ValueError: The file has no rows, or is not text.
    """

    def __init__(self, path: Path) -> None:
        file = TextFile(path)
        super().__init__(file, find_lines(file))

    def __getitem__(self, index: int, /) -> Row:
        return {"text": self.text(index).partition(self.file.newline.decode())[0].rstrip("\r")}
