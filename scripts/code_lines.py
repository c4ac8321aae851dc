"""Count the lines of code: those that are left without docstrings, comments and blank lines.

    python scripts/code_lines.py [BASE]

Prints a line for each package of the library, for the recipes and for the configs; with BASE, a commit, also the
difference from it. A string that stands alone as a statement is a docstring. All lines of any other string count.
"""

import ast
import io
import subprocess
import sys
import tarfile
import tokenize
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("torchtune", "recipes", "configs_py")

Position = tuple[int, int]
"""A line, and a character in it."""

Counts = dict[str, tuple[int, int]]
"""Of each package, its lines of code and all its lines."""

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def count_code(text: str) -> int:
    """Count the lines of a Python file that hold code."""
    docstrings = _docstrings(text)
    lines = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _NO_CODE or any(start <= token.start < end for start, end in docstrings):
            continue
        lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def _docstrings(text: str) -> list[tuple[Position, Position]]:
    """Return where each docstring begins and ends."""
    lines = text.split("\n")

    def position(line: int, column: int) -> Position:
        return line, len(lines[line - 1].encode()[:column].decode())  # ast counts bytes, tokenize characters

    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    return [
        (position(node.lineno, node.col_offset), position(node.end_lineno or 0, node.end_col_offset or 0))
        for node in statements
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def count_packages(files: Iterable[tuple[str, str]]) -> Counts:
    """Count by package.

    Args:
        files: Paths from the root of the repository, with their texts.
    """
    counts: Counts = defaultdict(lambda: (0, 0))
    for path, text in files:
        first, *others = path.split("/")
        package = f"torchtune/{others[0]}" if first == "torchtune" and len(others) > 1 else first
        code, lines = counts[package]
        counts[package] = code + count_code(text), lines + len(text.splitlines())
    return dict(counts)


def files_here() -> Iterable[tuple[str, str]]:
    """Yield the Python files of the working tree."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def files_of(commit: str) -> Iterable[tuple[str, str]]:
    """Yield the Python files of a commit."""
    archive = subprocess.run(["git", "archive", commit, *FOLDERS], cwd=ROOT, check=True, capture_output=True)  # noqa: S603, S607 - git.
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".py") else None
            if file is not None:
                yield member.name, file.read().decode()


def table(now: Counts, before: Counts | None = None) -> list[str]:
    """Write the counts as lines of text, with the difference from others if there are any."""
    names = sorted({*now, *(before or {})}, key=lambda name: (not name.startswith("torchtune"), name))
    groups = {name: [name] for name in names}
    groups["torchtune, together"] = [name for name in names if name.startswith("torchtune")]
    groups["everything"] = names
    rows = [f"{'':<24}{'code':>8}{'lines':>8}" + ("" if before is None else f"{'code':>10}{'lines':>8}")]
    for title, members in groups.items():
        code, lines = _sum(now, members)
        row = f"{title:<24}{code:>8,}{lines:>8,}"
        if before is not None:
            old_code, old_lines = _sum(before, members)
            row += f"{code - old_code:>+10,}{lines - old_lines:>+8,}"
        rows.append(row)
    return rows


def _sum(counts: Counts, names: Iterable[str]) -> tuple[int, int]:
    pairs = [counts.get(name, (0, 0)) for name in names]
    return sum(code for code, _ in pairs), sum(lines for _, lines in pairs)


def main() -> None:
    """Print the table."""
    before = count_packages(files_of(sys.argv[1])) if len(sys.argv) > 1 else None
    print("\n".join(table(count_packages(files_here()), before)))


if __name__ == "__main__":
    main()
