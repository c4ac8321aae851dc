"""A run records its code, data and packages. Changes are reported and prevent resuming the run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = '''"""Write a checkpoint, or exit as if killed."""

import os
from pathlib import Path

from attrs import define

from helper import SIGN
from third import Optimizer
from torchtune import config
from torchtune.config import Component, MayChange, lazy
from typing import Annotated


@define(kw_only=True)
class WritingConfig:
    """The config of this recipe."""

    output_dir: str
    seed: int | None = 1
    epochs: Annotated[int, MayChange()] = 1
    rows: str = "rows.jsonl"
    optimizer: Component[Optimizer] = lazy(Optimizer)


@config.parse
def main(cfg: WritingConfig) -> None:
    """Write a checkpoint, or resume from it."""
    checkpoint = Path(cfg.output_dir, "checkpoints/step_1")
    checkpoint.mkdir(parents=True, exist_ok=True)
    if os.environ.get("KILLED"):
        os._exit(9)
    Path(cfg.output_dir, "final").mkdir(exist_ok=True)


if __name__ == "__main__":
    main()
'''


class Project:
    """A user's project in a separate folder, with a third-party package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("recipe.py", RECIPE)
        self.write("helper.py", "SIGN = 1\n")
        self.write("rows.jsonl", '{"a": 1}\n{"a": 2}\n')
        self.install("1.0")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def install(self, version: str) -> None:
        """Install the third-party package with its metadata."""
        self.write("lib/site-packages/third.py", "class Optimizer:\n    def __init__(self) -> None: ...\n")
        for old in (self.folder / "lib/site-packages").glob("*.dist-info/*"):
            old.unlink()
        metadata = f"Metadata-Version: 2.1\nName: third\nVersion: {version}\n"
        self.write("lib/site-packages/third-0.dist-info/METADATA", metadata)
        self.write("lib/site-packages/third-0.dist-info/top_level.txt", "third\n")

    def tune(self, *args: str, killed: bool = False) -> tuple[int, str]:
        """Call `tune` in the project's folder, and return its exit status and output."""
        status, text = self.python("-m", "torchtune.cli", *args, killed=killed)
        assert "Traceback" not in text
        return status, text

    def python(self, *args: str, killed: bool = False) -> tuple[int, str]:
        """Call Python in the project's folder, and return its exit status and output."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.folder / "lib/site-packages")]),
            "TUNE_ALLOW": "third",
            "PYTHONDONTWRITEBYTECODE": "1",
            **({"KILLED": "1"} if killed else {}),
        }
        result = subprocess.run(
            [sys.executable, *args],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout + result.stderr

    def run(self, *args: str, killed: bool = False) -> tuple[int, str]:
        return self.tune("./recipe.py", "output_dir=run", *args, killed=killed)

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder / "run/run.json").read_text())
        return record


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def edit_recipe(project: Project) -> None:
    project.write("recipe.py", RECIPE.replace("exist_ok=True)", "exist_ok=bool(1))", 1))


def edit_import(project: Project) -> None:
    project.write("helper.py", "SIGN = -1\n")


def edit_data(project: Project) -> None:
    project.write("rows.jsonl", '{"a": 1}\n{"a": 3}\n')


def upgrade(project: Project) -> None:
    project.install("1.1")


EDITS: list[tuple[Callable[[Project], None], str]] = [
    (edit_recipe, "code.recipe.py"),
    (edit_import, "code.helper.py"),
    (edit_data, "sources.rows"),
    (upgrade, "packages.third"),
]
edits = pytest.mark.parametrize(
    ("edit", "path"),
    [
        pytest.param(edit, path, marks=() if path.startswith("sources") else pytest.mark.slow, id=path)
        for edit, path in EDITS
    ],
)


@edits
def test_a_change_prevents_resuming_unless_it_is_accepted(
    project: Project, edit: Callable[[Project], None], path: str
) -> None:
    assert project.run(killed=True)[0] == 9
    edit(project)
    status, text = project.run()
    assert status == 2
    assert "code, data or versions have changed since the run in run started; restore them, or pass" in text
    assert "pass --accept-changes to resume anyway; to start a new run, choose a different output_dir" in text
    assert f"\n  {path} changed from " in text or f"\n  {path}: " in text
    assert "2 mistakes" in text, "nothing else must be reported"
    assert "accepted" not in project.record
    status, text = project.run("--accept-changes")
    assert status == 0, text
    (accepted,) = project.record["accepted"]
    assert list(accepted["changes"]) == [path]
    assert accepted["when"]


@pytest.mark.slow
@edits
def test_diff_of_a_run_lists_the_changes(
    project: Project, edit: Callable[[Project], None], path: str
) -> None:
    assert project.run()[0] == 0
    assert project.tune("diff", "run") == (0, "no differences\n")
    edit(project)
    status, text = project.tune("diff", "run")
    assert (status, text.partition(": ")[0]) == (0, path)
    assert ("+SIGN = -1" in text) == (edit is edit_import)


@pytest.mark.slow
def test_diff_between_two_runs_shows_the_differing_code(project: Project) -> None:
    project.run()
    edit_import(project)
    edit_data(project)
    project.tune("./recipe.py", "output_dir=other")
    text = project.tune("diff", "run", "other")[1]
    assert "output_dir: run -> other" in text
    assert "sources.rows: '1 file, 18 bytes, " in text
    assert "-SIGN = 1\n+SIGN = -1" in text


def test_an_unchanged_run_resumes(project: Project) -> None:
    assert project.run(killed=True)[0] == 9
    # A copy on another disk has a different modification time.
    os.utime(project.folder / "rows.jsonl", (1, 1))
    assert project.run()[0] == 0


def test_code_is_copied_and_the_state_of_its_repository_is_recorded(project: Project) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for args in (["init", "-q"], ["add", "recipe.py", "helper.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *args], cwd=project.folder, check=True)
    edit_import(project)
    project.run()
    assert (project.folder / "run/code/recipe.py").read_text() == RECIPE
    assert (project.folder / "run/code/helper.py").read_text() == "SIGN = -1\n"
    assert not (project.folder / "run/code/third.py").exists(), "installed packages are recorded by version"
    (state,) = project.record["repositories"].values()
    head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=project.folder, capture_output=True, check=True)
    assert state["commit"] == head.stdout.decode().strip()
    assert state["changes"], "the change of helper.py since the commit must be recorded"


@pytest.mark.slow
def test_a_finished_run_is_extended_by_more_epochs(project: Project) -> None:
    assert project.run()[0] == 0
    for args in ((), ("--extend",), ("epochs=2",), ("epochs=1", "--extend")):
        status, text = project.run(*args)
        assert status == 2
        assert "has finished; to train longer, raise epochs or max_steps and pass --extend; " in text
    status, text = project.run("epochs=2", "--extend")
    assert status == 0, text
    (extended,) = project.record["extended"]
    assert (extended["step"], extended["epochs"]) == (1, [1, 2])
    assert "finished" in project.record
    edit_data(project)
    assert "sources.rows" in project.run("epochs=3", "--extend")[1]


RESULTS = [
    "metrics.jsonl",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "final/model.safetensors",
            "best/x",
            "checkpoints/step_3/x",
            "samples.jsonl",
            "profile/x",
            "log.txt",
            "wandb_id.txt",
        )
    ),
]


@pytest.mark.parametrize("name", RESULTS)
def test_results_of_unknown_origin_are_not_overwritten(project: Project, name: str) -> None:
    project.write(f"run/{name}", "weights")
    status, text = project.run()
    assert status == 2
    assert f"run/{name.partition('/')[0]} exists, but run contains no config.yaml" in text
    assert "choose a different output_dir or pass --overwrite" in text
    assert (project.folder / "run" / name).read_text() == "weights"
    assert project.run("--overwrite")[0] == 0
    assert not (project.folder / "run" / name).exists()


@pytest.mark.slow
def test_a_finished_run_without_its_frozen_config_is_not_overwritten(project: Project) -> None:
    assert project.run()[0] == 0
    (project.folder / "run/config.yaml").unlink()
    (project.folder / "run/final").rmdir()
    (project.folder / "run/checkpoints/step_1").rmdir()
    (project.folder / "run/checkpoints").rmdir()
    status, text = project.run()
    assert status == 2
    assert "run/run.json exists, but run contains no config.yaml" in text


@pytest.mark.slow
def test_overwriting_removes_copies_of_code_but_no_user_files(project: Project) -> None:
    project.write("code/mine.py", "x = 1\n")
    args = ("./recipe.py", "output_dir=.")
    assert project.tune(*args)[0] == 0
    assert project.tune(*args, "--overwrite")[0] == 0
    assert (project.folder / "code/mine.py").read_text() == "x = 1\n"
    assert project.run()[0] == 0
    edit_import(project)
    assert project.run("--overwrite")[0] == 0
    assert (project.folder / "run/code/helper.py").read_text() == "SIGN = -1\n"
    assert len([*(project.folder / "run/code").glob("helper.py*")]) == 1, (
        "copies from the earlier start are removed"
    )


@pytest.mark.slow
def test_an_edited_module_is_detected_even_if_it_is_imported_late(project: Project) -> None:
    project.write("parts/__init__.py", "")
    project.write("parts/early.py", "def sign():\n    from .late import SIGN\n    return SIGN\n")
    project.write("parts/late.py", "SIGN = 1\n")
    project.write("parts/unused.py", "")
    project.write(
        "recipe.py", RECIPE.replace("    if os.environ", "    import parts.early\n    if os.environ")
    )
    assert project.run(killed=True)[0] == 9
    code = {"recipe.py", "helper.py", "parts/__init__.py", "parts/early.py", "parts/late.py"}
    assert project.record["code"].keys() == code
    project.write("parts/late.py", "SIGN = -1\n")
    status, text = project.run()
    assert (status, "\n  code.parts/late.py changed from " in text) == (2, True)


@pytest.mark.parametrize("edited", ["train.py", "recipe.py", "helper.py"])
@pytest.mark.slow
def test_an_edited_recipe_is_detected_if_it_is_called_from_a_program(project: Project, edited: str) -> None:
    program = "from recipe import WritingConfig, main\n\nmain(WritingConfig(output_dir='run'))\n"
    project.write("train.py", program)
    assert project.python("train.py", killed=True)[0] == 9
    assert project.record["code"].keys() == {"train.py", "recipe.py", "helper.py"}
    file = project.folder / edited
    file.write_text(file.read_text() + "\n# edited\n")
    status, text = project.python("train.py")
    assert (status, f"code.{edited} changed from " in text) == (1, True)


@pytest.mark.slow
def test_run_in_the_working_folder_records_the_code_there_but_not_its_copies(project: Project) -> None:
    args = ("./recipe.py", "output_dir=.")
    assert project.tune(*args, killed=True)[0] == 9
    project.tune(*args, killed=True)
    record = json.loads((project.folder / "run.json").read_text())
    assert record["code"].keys() == {"recipe.py", "helper.py"}
    edit_import(project)
    status, text = project.tune(*args)
    assert (status, "\n  code.helper.py changed from " in text) == (2, True)


@pytest.mark.slow
def test_diff_compares_an_extended_run_with_the_command_that_extended_it(project: Project) -> None:
    assert project.tune("./recipe.py", "output_dir=whole", "epochs=2")[0] == 0
    assert project.run()[0] == 0
    assert project.run("epochs=2", "--extend")[0] == 0
    assert project.tune("diff", "run") == (0, "no differences\n")
    status, text = project.tune("diff", "run", "whole")
    assert (status, text) == (0, "output_dir: run -> whole\nextended.epochs: [1, 2] -> (absent)\n")
