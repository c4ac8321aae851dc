"""Names and prose in the tree contain no banned word or phrase, and the checker detects banned ones."""

import pytest

from tests.static import language
from tests.static.language import (
    ALLOWED,
    ROOT,
    files,
    violations,
    violations_in_markdown,
    violations_in_python,
)

CHECKED = ["torchtune", "recipes", "configs_py", "tests", "benchmarks", "demo", "docs", "setup.py"]
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]


def test_tree_contains_no_banned_name_or_phrase() -> None:
    paths = [path for name in [*CHECKED, *PAGES] for path in files(ROOT / name)]
    assert len(paths) > 500
    assert [str(violation) for path in paths for violation in violations(path)] == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("found = 1", ["found"]),
        ("def said() -> None: ...", ["said"]),
        ("def read(text, given): ...", ["given"]),
        ("class Slip: ...", ["Slip"]),
        ("self.is_told = True", ["is_told"]),
        ("for theirs, value in pairs: ...", ["theirs"]),
        ("with open(path) as there: ...", ["there"]),
        ("if (kept := read()): ...", ["kept"]),
        ("import numpy as beside", ["beside"]),
        ("match value:\n    case [own, *rest]: ...", ["own", "rest"]),
        ("try: ...\nexcept OSError as made: ...", ["made"]),
        ('"""The run goes on."""', ["goes on"]),
        ('"""The loss\n    is no number."""', ["is no number"]),
        ("# Values that are refused here.", ["refused"]),
        ("x = 1  # It goes\n# on.", ["goes on"]),
        ('message = f"{field}: expected a list; {value} is none"', ["is none"]),
        ("matches = find(text)\nn_rows = 3", []),
        ('if answer == "yes":\n    """The loss is not a number."""', []),
    ],
)
def test_banned_names_and_phrases_in_python_source_are_detected(source: str, words: list[str]) -> None:
    assert [violation.text for violation in violations_in_python("torchtune/module.py", source)] == words


def test_docstrings_of_tests_are_checked_but_other_strings_are_not() -> None:
    source = 'def test_chat() -> None:\n    """The chat goes on."""\n    chat = "The story goes on."\n'
    assert [violation.line for violation in violations_in_python("tests/test_chat.py", source)] == [2]


def test_code_in_markdown_is_not_checked() -> None:
    page = "The run\ngoes on.\n\n```python\nfound = refuse()\n```\nUse `beside` here.\nIt is refused.\n"
    result = [(violation.line, violation.text) for violation in violations_in_markdown("docs/page.md", page)]
    assert result == [(2, "goes on"), (8, "refused")]


def test_every_allowed_use_occurs(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = set(ALLOWED)
    monkeypatch.setattr(language, "ALLOWED", {})
    occurring = {
        (violation.file, violation.text) for file, _ in allowed for violation in violations(ROOT / file)
    }
    assert allowed - occurring == set()
