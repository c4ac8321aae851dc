"""mypy --strict and basedpyright report exactly the marked errors in `cases.py`."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).with_name("cases.py")


RULES = {
    "arg-type": {"reportArgumentType", "reportAttributeAccessIssue", "reportAssignmentType"},
    "assignment": {"reportAttributeAccessIssue", "reportAssignmentType"},
    "attr-defined": {"reportAttributeAccessIssue"},
    # The second rule applies to a partial of a function with `**kwargs: Unpack[...]`.
    "call-arg": {"reportCallIssue", "reportArgumentType"},
    "index": {"reportIndexIssue"},
    "return-value": {"reportReturnType"},
}
"""The basedpyright rules that correspond to each mypy error code."""


class CheckerError(NamedTuple):
    """An error reported by a type checker."""

    file: str
    line: int
    rule: str
    message: str


def expected_errors() -> dict[int, str]:
    """Return the mypy error code of each line that is marked as an error."""
    lines = CASES.read_text(encoding="utf-8").splitlines()
    return {i: match[1] for i, line in enumerate(lines, 1) if (match := re.search(r"# error: (\S+)$", line))}


def lines_marked_ok() -> set[int]:
    lines = CASES.read_text(encoding="utf-8").splitlines()
    return {i for i, line in enumerate(lines, 1) if line.endswith("# ok")}


def mypy(
    *paths: str,
    folder: Path = ROOT,
    python: str = sys.executable,
    options: Sequence[str] = ("--config-file", "pyproject.toml"),
) -> list[CheckerError]:
    command = [python, "-m", "mypy", *options, "--no-error-summary", *paths]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    matches = re.findall(r"^(\S+?):(\d+): error: (.*)  \[(\S+)\]$", output, re.MULTILINE)
    assert len(matches) == output.count(": error: ")
    return [CheckerError(file, int(line), rule, message) for file, line, message, rule in matches]


def basedpyright(
    *paths: str,
    folder: Path = ROOT,
    python: str = sys.executable,
    options: Sequence[str] = ("-p", "tests/static/pyrightconfig.json"),
) -> list[CheckerError]:
    flags = ["--outputjson", "--level", "error", "--pythonpath", python]
    command = [python, "-m", "basedpyright", *flags, *options]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    report = json.loads(output)
    assert report["summary"]["filesAnalyzed"] >= len(paths)
    return [
        CheckerError(d["file"], d["range"]["start"]["line"] + 1, d["rule"], d["message"])
        for d in report["generalDiagnostics"]
    ]


def test_there_are_at_least_30_cases_of_each_kind_and_all_marks_are_valid() -> None:
    assert len(expected_errors()) >= 30
    assert len(lines_marked_ok()) >= 30
    assert set(expected_errors().values()) == RULES.keys()
    marked_lines = [
        line for line in CASES.read_text(encoding="utf-8").splitlines() if re.search(r"# (error|ok)\b", line)
    ]
    assert len(marked_lines) == len(expected_errors()) + len(lines_marked_ok()), "a mark is misspelled"


CHECKERS = pytest.mark.parametrize(
    ("check", "rules"),
    [(mypy, {code: {code} for code in RULES}), (basedpyright, RULES)],
    ids=["mypy", "basedpyright"],
)


@pytest.mark.slow
@CHECKERS
def test_checker_reports_exactly_the_marked_errors(
    check: Callable[..., list[CheckerError]], rules: Mapping[str, set[str]]
) -> None:
    assert_marked_errors(check("tests/static/cases.py", "configs_py", "recipes"), rules)


def assert_marked_errors(errors: Sequence[CheckerError], rules: Mapping[str, set[str]]) -> None:
    """Check that a checker reports exactly the marked errors."""
    in_cases = {error.line: error for error in errors if error.file.endswith("cases.py")}
    assert [error for error in errors if not error.file.endswith("cases.py")] == []
    expected = expected_errors()
    assert expected.keys() - in_cases.keys() == set(), "not reported"
    assert {line: in_cases[line] for line in in_cases.keys() - expected.keys()} == {}, "not marked as errors"
    for line, code in expected.items():
        assert in_cases[line].rule in rules[code], in_cases[line]
