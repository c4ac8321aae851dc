"""`tune diff` compares registered configs, files and runs, and reports changes since a run was started."""

import json
from pathlib import Path

import pytest

from tests.tune import Tune

RECIPE = '''"""Does nothing."""

from attrs import define

from torchtune import config
from torchtune.config import Component, lazy
from torchtune.utils.metric_logging import DiskLogger, MetricLogger


@define(kw_only=True)
class DiffedConfig:
    """The config of this recipe."""

    output_dir: str
    seed: int | None = None
    steps: int = 3
    metric_logger: Component[MetricLogger] = lazy(DiskLogger, log_dir="logs")


@config.parse
def main(cfg: DiffedConfig) -> None:
    """Do nothing."""
'''


def test_file_is_merged_with_its_base_before_the_comparison(tune: Tune, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("_base_: smollm2_135m_lora\nseed: 7\noptimizer: {lr: 0.5}\n")
    text = tune("diff", "smollm2_135m_lora", str(tmp_path / "my.yaml")).out
    assert text == "seed: 1 -> 7\noptimizer.lr: 0.001 -> 0.5\n"


def test_json_omits_the_value_of_a_config_without_the_field(tune: Tune, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\nb: null\n")
    (tmp_path / "b.yaml").write_text("b: x\nc: [1, 2]\n")
    differences = json.loads(tune("diff", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "--json").out)
    assert differences == [
        {"path": "a", "left": 1},
        {"path": "b", "left": None, "right": "x"},
        {"path": "c", "right": [1, 2]},
    ]


def test_output_is_coloured_only_if_colour_is_supported(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\n")
    (tmp_path / "b.yaml").write_text("a: 2\n")
    call = ("diff", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"))
    assert tune(*call).out == "a: 1 -> 2\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert tune(*call).out == "\x1b[1ma\x1b[0m: \x1b[31m1\x1b[0m -> \x1b[32m2\x1b[0m\n"


def test_registered_config_is_frozen_before_it_is_compared_with_a_run(tune: Tune, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    call = ("lora_finetune", "--config", "smollm2_135m_lora")
    assert tune("export", *call, "optimizer.eps=1e-6", "-o", str(run / "config.yaml")).status == 0
    assert tune("diff", "smollm2_135m_lora", str(run)).out == "optimizer.eps: 1.0e-08 -> 1.0e-06\n"


def test_single_run_is_compared_with_the_current_config_of_its_command(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "diffed_recipe.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    assert tune("./diffed_recipe.py", "output_dir=run", "steps=4").status == 0
    monkeypatch.chdir("/")
    run = tmp_path / "run"
    assert tune("diff", str(run)).out == "no differences\n"
    frozen = (run / "config.yaml").read_text()
    assert "filename: null" in frozen
    (run / "config.yaml").write_text(frozen.replace("filename: null", "filename: old.txt"))
    record = json.loads((run / "run.json").read_text())
    record["versions"]["torchtune"] = "0.0.1"
    (run / "run.json").write_text(json.dumps(record))
    lines = tune("diff", str(run)).out.splitlines()
    assert lines[0] == "metric_logger.filename: old.txt -> null"
    assert lines[1].startswith("versions.torchtune: '0.0.1' -> ")


def test_folder_without_a_run_is_reported_as_one_mistake(tune: Tune, tmp_path: Path) -> None:
    result = tune("diff", str(tmp_path))
    assert result.status == 2
    assert "not a run's folder; pass a second config to compare it with" in result.err
