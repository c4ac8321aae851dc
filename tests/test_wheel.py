"""The wheel carries recipes, Python configs and YAML configs."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.tiny_run import tiny_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the project's wheel, built from a copy of the tracked and untracked files."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = ["pyproject.toml", "README.md", "LICENSE", "torchtune", "recipes", "configs_py", "configs_yaml"]
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in names), str(source)], check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    subprocess.run(pip, cwd=source, check=True)
    (built,) = out.glob("torchtune-*.whl")
    return built


def tune(folder: Path, *words: str, environment: dict[str, str] | None = None) -> str:
    code = "from torchtune.cli import run; run()"
    call = [sys.executable, "-P", "-c", code, *words]
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_lists_validates_and_copies_away_from_the_clone(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = "import torchtune, recipes; print(torchtune.__file__, recipes.__file__)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", where],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.count(str(site)) == 2
    assert "smollm2_135m_lora" in tune(tmp_path, "ls", environment=environment)
    call = ("lora_finetune", "--config", "smollm2_135m_lora")
    assert tune(tmp_path, "validate", *call, environment=environment).startswith("ok: 139,399,488")
    tune(tmp_path, "cp", "smollm2_135m_lora", "mine.yaml", environment=environment)
    schema = (tmp_path / "mine.yaml").read_text().splitlines()[0].rpartition("$schema=")[2]
    assert Path(schema).is_relative_to(site)
    assert Path(schema).is_file()
    assert tune(
        tmp_path, "validate", "lora_finetune", "--config", "mine.yaml", environment=environment
    ).startswith("ok")
    assert sysconfig.get_paths()["purelib"] not in found.stdout


@pytest.mark.slow
def test_full_install_of_the_wheel_fine_tunes(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    bin_folder = tmp_path / "venv/bin"
    pip = [str(bin_folder / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def installed_tune(*words: str) -> int:
        call = [str(bin_folder / "tune"), *words]
        done = subprocess.run(
            call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return 0

    tiny = tiny_run(tmp_path, installed_tune)
    out = f"output_dir={tmp_path / 'run'}"
    call = ["lora_finetune", "--config", "smollm2_135m_lora", "--override", *tiny.words, *tiny.rows, out]
    installed_tune(*call, "device=cpu", "batch_size=3", "validation.max_new_tokens=4")
    assert (tmp_path / "run/metrics.jsonl").read_text().count('"lr"') == 4
    assert (tmp_path / "run/final/adapter_model.safetensors").is_file()
    prompt = [*tiny.words, f"adapter_directory={tmp_path / 'run/final'}", "prompt=Hello?", "max_new_tokens=4"]
    installed_tune("alpaca_generate", "--config", "smollm2_135m_generate", *prompt, "device=cpu")
