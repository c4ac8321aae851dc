"""Every snippet in the docs works: Python code is executed, and commands that start a run are validated."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.tune import Tune
from torchtune.config import Trust, only_trusting
from torchtune.runs import config_layers, recipe_names

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Snippet(NamedTuple):
    page: str
    line: int
    language: str
    text: str
    file: str
    """The file that the snippet is written to, named in the comment before it; empty without such a comment."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets() -> list[Snippet]:
    snippets = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        pattern = r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```"
        for match in re.finditer(pattern, text, re.DOTALL):
            line = text[: match.start(3)].count("\n") + 1
            name = str(page.relative_to(ROOT))
            snippets.append(Snippet(name, line, match[2], match[3], match[1] or ""))
    return snippets


SNIPPETS = snippets()
COMMANDS = [
    (snippet, command)
    for snippet in SNIPPETS
    if snippet.language in ("bash", "console")
    for line in snippet.text.splitlines()
    if (command := line.removeprefix("$ ").split("  #")[0]).startswith("tune ")
]


def write_files(snippet: Snippet, folder: Path) -> None:
    """Write the files that a snippet's page contains, and forget modules that were imported under their names."""
    for page_snippet in SNIPPETS:
        if page_snippet.file and page_snippet.page == snippet.page:
            (folder / page_snippet.file).write_text(page_snippet.text)
            sys.modules.pop(Path(page_snippet.file).stem, None)


def test_quoted_lines_occur_in_the_quoted_file() -> None:
    n_quoted = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for file, lines in re.findall(r"<!-- lines of: (\S+) -->\n```\w+\n(.*?)```", text, re.DOTALL):
            assert lines in (ROOT / file).read_text(encoding="utf-8"), f"{page}: {lines}"
            n_quoted += 1
    assert n_quoted == 3


def is_run(args: list[str]) -> bool:
    """Return whether the arguments after `tune` start a recipe, optionally after torchrun options."""
    starts_recipe = args[0] in {*recipe_names(), "--nproc_per_node"} or args[0].endswith(".py")
    return args[0] == "run" or (starts_recipe and "--help" not in args)


def test_recipe_of_the_guide_equals_the_tested_recipe() -> None:
    (recipe,) = (snippet for snippet in SNIPPETS if snippet.file == "pairs.py")
    assert recipe.text == (ROOT / "tests/recipes/pairs.py").read_text(encoding="utf-8")


def test_docs_have_snippets_in_every_language() -> None:
    assert {"python", "yaml", "bash", "console", "text"} <= {s.language for s in SNIPPETS}
    assert len(COMMANDS) > 5


@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if s.language == "python"], ids=str)
def test_python_snippet_runs(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(snippet, tmp_path)
    file = tmp_path / f"snippet_{snippet.line}_{Path(snippet.page).stem.lower()}.py"
    file.write_text(snippet.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    exec(compile(snippet.text, str(file), "exec"), {"__name__": file.stem})


@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if s.language == "yaml" and not s.file], ids=str)
def test_yaml_snippet_is_a_config(snippet: Snippet, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(snippet.text)
    config_layers(str(tmp_path / "my.yaml"), None).build()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("snippet", "command"), COMMANDS, ids=str)
def test_tune_line_works_as_documented(
    snippet: Snippet,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tune: Tune,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(snippet, tmp_path)
    args = shlex.split(command)[1:]
    if is_run(args):
        args = ["validate", *args[args[0] == "run" :]]
    with only_trusting(Trust()):
        result = tune(*args)
    if snippet.language == "console":
        printed = (result.out + result.err).strip()
        if request.config.getoption("--update-transcripts"):
            page = ROOT / snippet.page
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace(snippet.text, f"$ {command}\n{printed}\n"), encoding="utf-8")
            return
        expected = snippet.text.split(command)[1].strip()
        assert printed == expected, "run: make transcripts"
    else:
        assert result.status == 0, result.err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize("command", [c for s, c in COMMANDS if s.page == "docs/config_tutorial.md"])
def test_quoted_arguments_in_the_tutorial_reach_tune_unchanged(shell: str, command: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed on this machine")
    line = command.replace("tune ", "printf '%s\\0' ", 1)
    options = {"bash": ["--norc", "--noprofile"], "zsh": ["--no-rcs"]}[shell]
    completed = subprocess.run([shell, *options, "-c", line], capture_output=True, text=True, check=True)
    assert completed.stdout.split("\0")[:-1] == shlex.split(command)[1:]
