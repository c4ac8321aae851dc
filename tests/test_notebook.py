"""The example notebook runs from its first cell to its last."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_run import tiny_run
from torchtune.cli import main

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs/from_python.ipynb"


def run_notebook(folder: Path) -> list[str]:
    """Run the notebook in a folder and return the output text of each code cell that has one."""
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return [_output(cell) for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]


def _output(cell: Any) -> str:
    parts = [out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs]
    return "".join(parts)


def test_notebook_is_committed_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow  # starts a kernel
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny_run(tmp_path, lambda *args: main(args))  # replaces the demo's model
    (tmp_path / "models").mkdir()
    (tmp_path / "model").rename(tmp_path / "models/SmolLM2-135M-Instruct")
    for name in ("demo", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    outputs = run_notebook(tmp_path)
    assert outputs[0] == "batch_size: expected a value above 0, got 0\n"
    assert "step 20/20: loss" in outputs[1]
    assert "validation_loss" in outputs[2]
    assert " before, " in outputs[3]
    assert (tmp_path / "runs/notebook/best/adapter_model.safetensors").is_file()
