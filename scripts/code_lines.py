"""Count lines of code, excluding docstrings, comments and blank lines.

    python scripts/code_lines.py [BASE]

Prints one line for each package of the library, one for the recipes and one for the configs. With a commit as BASE, it
also prints the differences from that commit. A string that is a statement counts as a docstring; the lines of other
strings count as code.
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
"""Line and column."""

Counts = dict[str, tuple[int, int]]
"""Lines of code and total lines, by package."""

_NON_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def count_code(text: str) -> int:
    """Count the lines of code of a Python file."""
    docstrings = _docstrings(text)
    lines = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _NON_CODE or any(start <= token.start < end for start, end in docstrings):
            continue
        lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def _docstrings(text: str) -> list[tuple[Position, Position]]:
    """Return the start and end positions of each docstring."""
    lines = text.split("\n")

    def position(line: int, column: int) -> Position:
        prefix = lines[line - 1].encode()[:column].decode()  # ast counts bytes, tokenize counts characters
        return line, len(prefix)

    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    return [
        (position(node.lineno, node.col_offset), position(node.end_lineno or 0, node.end_col_offset or 0))
        for node in statements
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def count_packages(files: Iterable[tuple[str, str]]) -> Counts:
    """Count lines by package.

    Args:
        files: Paths relative to the repository root, with the files' texts.
    """
    counts: Counts = defaultdict(lambda: (0, 0))
    for path, text in files:
        first, *others = path.split("/")
        package = f"torchtune/{others[0]}" if first == "torchtune" and len(others) > 1 else first
        code, lines = counts[package]
        counts[package] = code + count_code(text), lines + len(text.splitlines())
    return dict(counts)


def working_tree_files() -> Iterable[tuple[str, str]]:
    """Yield the Python files of the working tree."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def commit_files(commit: str) -> Iterable[tuple[str, str]]:
    """Yield the Python files of a commit."""
    archive = subprocess.run(["git", "archive", commit, *FOLDERS], cwd=ROOT, check=True, capture_output=True)  # noqa: S603, S607 - git
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".py") else None
            if file is not None:
                yield member.name, file.read().decode()


def table(current: Counts, before: Counts | None = None) -> list[str]:
    """Format the counts as the lines of a table, with the differences from earlier counts if there are any."""
    names = sorted({*current, *(before or {})}, key=lambda name: (not name.startswith("torchtune"), name))
    groups = {name: [name] for name in names}
    groups["torchtune, total"] = [name for name in names if name.startswith("torchtune")]
    groups["total"] = names
    rows = [f"{'':<24}{'code':>8}{'lines':>8}" + ("" if before is None else f"{'code':>10}{'lines':>8}")]
    for title, members in groups.items():
        code, lines = _sum(current, members)
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
    before = count_packages(commit_files(sys.argv[1])) if len(sys.argv) > 1 else None
    print("\n".join(table(count_packages(working_tree_files()), before)))


if __name__ == "__main__":
    main()
