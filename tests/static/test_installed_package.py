"""Type checkers report the same errors in a user's project for a wheel and for an editable installation."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.static.test_type_checkers import (
    CASES,
    CHECKERS,
    CheckerError,
    assert_marked_errors,
    basedpyright,
    mypy,
)
from tests.test_wheel import build_wheel, copy_project

pytestmark = pytest.mark.slow


class Installed(NamedTuple):
    """An environment in which torchtune is installed, and a project folder outside the clone."""

    python: str
    folder: Path


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install torchtune into a new environment that uses the dependencies of this one."""
    root = tmp_path_factory.mktemp(request.param)
    venv.create(root / "venv", with_pip=False)
    (site,) = (root / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    python = str(root / "venv/bin/python")
    if request.param == "wheel":
        (root / "built").mkdir()
        source = [str(build_wheel(root / "built", "--no-build-isolation"))]
    else:
        source = ["--no-build-isolation", "--editable", str(copy_project(root / "clone"))]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *source]
    subprocess.run(pip, check=True)
    project = tmp_path_factory.mktemp("project")
    shutil.copy(CASES, project)
    command = [python, "-P", "-c", "import torchtune, recipes; print(torchtune.__file__, recipes.__file__)"]
    files = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True, env={}).stdout
    assert files.count(str(root)) == 2
    return Installed(python, project)


@CHECKERS
def test_checker_reports_every_marked_error_outside_the_clone(
    installed: Installed,
    check: Callable[..., list[CheckerError]],
    rules: Mapping[str, set[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    # Default settings, as in a project without a configuration.
    options = ["cases.py"] if check is basedpyright else ["--strict"]
    errors = check("cases.py", folder=installed.folder, python=installed.python, options=options)
    assert_marked_errors(errors, rules)


@pytest.mark.parametrize("check", [mypy, basedpyright])
def test_project_with_a_package_named_recipes_can_import_torchtune_recipes(
    installed: Installed,
    check: Callable[..., list[CheckerError]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/__init__.py").touch()
    (tmp_path / "recipes/cake.py").write_text("SUGAR: int = 3\n")
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    (tmp_path / "mine.py").write_text(
        "from recipes.cake import SUGAR\n"
        "from torchtune.configs_py.smollm2 import smollm2_135m_lora\n"
        "from torchtune.recipes.lora_finetune import LoraFinetuneConfig\n"
        "cfg: LoraFinetuneConfig = smollm2_135m_lora()\n"
        "cfg.batch_size = SUGAR\n"
        "spoon: str = SUGAR\n"
    )
    options = ["-p", "."] if check is basedpyright else ["--strict"]
    errors = check("mine.py", folder=tmp_path, python=installed.python, options=options)
    assert [error.line for error in errors] == [6]
