"""The error messages in "Troubleshooting" and the option names in "Coming from ..." match the code."""

import ast
import functools
import re
from pathlib import Path

import pytest

from torchtune._hints import _FIELDS

ROOT = Path(__file__).resolve().parents[1]
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
COMING_FROM = (ROOT / "docs/coming_from.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"(?m)^### `(.*)`$", TROUBLESHOOTING)


@functools.cache
def library_strings() -> str:
    """Return all strings in the library except docstrings, one per line, with formatted values replaced by NUL."""
    strings = []
    for file in sorted((ROOT / "torchtune").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
        for node in nodes:
            if node in docstrings:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                strings.append("".join(map(str, parts)))
    return "\n".join(strings)


def test_troubleshooting_page_lists_messages() -> None:
    assert len(MESSAGES) > 25


@pytest.mark.quick_cases(13)
@pytest.mark.parametrize("message", MESSAGES)
def test_message_of_the_troubleshooting_page_occurs_in_the_code(message: str) -> None:
    pieces = [piece.strip(" ;:,.?()'`") for piece in message.split("...")]
    assert [piece for piece in pieces if piece not in library_strings()] == []


@pytest.mark.parametrize(("field", "names"), _FIELDS.items())
def test_table_contains_the_option_names_of_other_projects(field: str, names: str) -> None:
    row_names = ", ".join(f"`{name}`" for name in names.split())
    path = re.split(r"[=, ]", field, maxsplit=1)[0]
    assert re.search(rf"(?m)^\| {re.escape(row_names)} \| `{re.escape(path)}", COMING_FROM)
