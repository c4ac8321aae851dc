"""mypy --strict and basedpyright find the marked mistakes, and nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).with_name("cases.py")


def marked(word: str) -> set[int]:
    """Return the lines of the cases that are marked with a word."""
    lines = CASES.read_text(encoding="utf-8").splitlines()
    return {i for i, line in enumerate(lines, 1) if re.search(rf"# {word}$", line)}


def mypy(*paths: str) -> list[tuple[str, int, str]]:
    call = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--no-error-summary", *paths]
    out = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    found = re.findall(r"^(\S+?):(\d+): error: (.*)$", out, re.MULTILINE)
    return [(file, int(line), message) for file, line, message in found]


def basedpyright(*paths: str) -> list[tuple[str, int, str]]:
    call = [
        sys.executable,
        "-m",
        "basedpyright",
        "--outputjson",
        "--level",
        "error",
        "--pythonpath",
        sys.executable,
    ]
    settings = ROOT / "tests/static/pyrightconfig.json"
    out = subprocess.run(
        [*call, "-p", str(settings)], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    report = json.loads(out)
    assert report["summary"]["filesAnalyzed"] >= len(paths)
    return [(d["file"], d["range"]["start"]["line"] + 1, d["message"]) for d in report["generalDiagnostics"]]


def test_cases_are_many() -> None:
    assert len(marked("error")) >= 30
    assert len(marked("ok")) >= 20
    assert not marked("error") & marked("ok")


@pytest.mark.slow
@pytest.mark.parametrize("check", [mypy, basedpyright])
def test_checker_finds_every_marked_mistake_and_no_other(check: object) -> None:
    assert callable(check)
    found = check("tests/static/cases.py", "configs_py", "recipes")
    in_cases = {line: message for file, line, message in found if file.endswith("static/cases.py")}
    elsewhere = [entry for entry in found if not entry[0].endswith("static/cases.py")]
    assert elsewhere == []
    assert marked("error") - in_cases.keys() == set(), "not found"
    assert {line: in_cases[line] for line in in_cases.keys() - marked("error")} == {}, "false alarm"
