"""Files of plain text: a row for each line."""

from pathlib import Path

from torchtune.datasets._records import RecordTable, TextFile, find_lines
from torchtune.datasets._tables import Row


class TextLines(RecordTable):
    """A .txt file: a row for each line that is not blank, its text in the column `text`.

    Raises:
        ValueError: The file has no rows, or is not text.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(find_lines(TextFile(path)))
        self._newline = self._records.file.newline.decode()

    def __getitem__(self, index: int, /) -> Row:
        return {"text": self._records.text(index).partition(self._newline)[0].rstrip("\r")}
