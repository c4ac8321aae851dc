"""The wheel contains recipes, Python configs and YAML configs, and works outside the clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.tiny_run import tiny_run

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    *("pyproject.toml", "setup.py", "README.md", "LICENSE"),
    *("torchtune", "recipes", "configs_py", "configs_yaml"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the project's wheel in this environment, which contains the build dependencies."""
    return build_wheel(tmp_path_factory.mktemp("wheel"), "--no-build-isolation")


def build_wheel(folder: Path, *options: str) -> Path:
    """Build a wheel from a copy of the project."""
    source = copy_project(folder / "source")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *options, "-w", str(folder), "."]
    subprocess.run(pip, cwd=source, check=True)
    (wheel_file,) = folder.glob("torchtune-*.whl")
    return wheel_file


def copy_project(folder: Path) -> Path:
    """Copy the files needed to install the project into a new folder, and return the folder."""
    folder.mkdir()
    for name in NAMES:
        subprocess.run(["cp", "-r", str(ROOT / name), str(folder)], check=True)
    shutil.rmtree(folder / "configs_yaml/schemas", ignore_errors=True)
    return folder


def install(wheel: Path, site: Path) -> dict[str, str]:
    """Install a wheel without dependencies into a folder, and return an environment that can import it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True)
    return {**os.environ, "PYTHONPATH": str(site)}


def tune(folder: Path, *args: str, environment: dict[str, str] | None = None) -> str:
    code = "from torchtune.cli import run; run()"
    command = [sys.executable, "-P", "-c", code, *args]
    completed = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.mark.slow
def test_installed_wheel_lists_validates_and_copies_configs(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    environment = install(wheel, site)
    code = "import torchtune, recipes; print(torchtune.__file__, recipes.__file__)"
    completed = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout.count(str(site)) == 2
    assert "smollm2_135m_lora" in tune(tmp_path, "ls", environment=environment)
    command = ("lora_finetune", "--config", "smollm2_135m_lora")
    assert tune(tmp_path, "validate", *command, environment=environment).startswith("ok: 139,399,488")
    shipped = site / "configs_yaml/schemas/lora_finetune.json"
    assert is_complete(shipped)
    before = shipped.stat().st_mtime_ns
    tune(tmp_path, "cp", "smollm2_135m_lora", "mine.yaml", environment=environment)
    schema = (tmp_path / "mine.yaml").read_text().splitlines()[0].rpartition("$schema=")[2]
    assert schema == "site/configs_yaml/schemas/lora_finetune.json"
    assert shipped.stat().st_mtime_ns == before
    assert tune(
        tmp_path, "validate", "lora_finetune", "--config", "mine.yaml", environment=environment
    ).startswith("ok")
    assert sysconfig.get_paths()["purelib"] not in completed.stdout


def is_complete(schema: Path) -> bool:
    return "additionalProperties" in json.loads(schema.read_text())


@pytest.mark.slow
def test_wheel_built_without_torch_builds_its_schemas_on_first_use(tmp_path: Path) -> None:
    folder, site = tmp_path / "wheel", tmp_path / "site"
    folder.mkdir()
    environment = install(build_wheel(folder), site)
    schemas = {path.stem: path for path in (site / "configs_yaml/schemas").glob("*.json")}
    assert schemas.keys() == {"full_finetune", "lora_finetune", "alpaca_generate"}
    assert not any(map(is_complete, schemas.values()))
    tune(tmp_path, "cp", "smollm2_135m_lora", "mine.yaml", environment=environment)
    assert all(map(is_complete, schemas.values()))
    (record,) = site.glob("torchtune-*.dist-info/RECORD")
    for name in schemas:  # an uninstall removes the files in RECORD
        assert f"configs_yaml/schemas/{name}.json" in record.read_text()


@pytest.mark.slow
def test_wheel_installed_with_its_dependencies_fine_tunes(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    bin_folder = tmp_path / "venv/bin"
    pip = [str(bin_folder / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def installed_tune(*args: str) -> int:
        command = [str(bin_folder / "tune"), *args]
        completed = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert completed.returncode == 0, completed.stderr
        return 0

    tiny = tiny_run(tmp_path, installed_tune)
    out = f"output_dir={tmp_path / 'run'}"
    command = [
        "lora_finetune",
        "--config",
        "smollm2_135m_lora",
        "--override",
        *tiny.overrides,
        *tiny.rows,
        out,
    ]
    installed_tune(*command, "device=cpu", "batch_size=3", "validation.max_new_tokens=4")
    assert (tmp_path / "run/metrics.jsonl").read_text().count('"lr"') == 4
    assert (tmp_path / "run/final/adapter_model.safetensors").is_file()
    overrides = [f"model_directory={tiny.folder / 'model'}", f"dataset.source={tiny.folder / 'rows.json'}"]
    installed_tune("full_finetune", "--config", "full", *overrides, "device=cpu", "max_steps=1")
    assert (tmp_path / "runs/full/final/model.safetensors").is_file()
    prompt = [
        *tiny.overrides,
        f"adapter_directory={tmp_path / 'run/final'}",
        "prompt=Hello?",
        "max_new_tokens=4",
    ]
    installed_tune("alpaca_generate", "--config", "smollm2_135m_generate", *prompt, "device=cpu")
