"""The guide's custom recipe, run by `tune` in separate processes, supports packing, ranks, resuming and validation."""

import json
import sys
from pathlib import Path

import pytest

from tests.recipes import pairs
from tests.test_faults import TWO_RANKS, Command
from tests.tiny_run import ROWS, Tiny, tiny_run
from torchtune.utils.metric_logging import read_metrics

pytestmark = pytest.mark.slow

CONFIG = """\
_base_: smollm2_135m_lora
output_dir: runs/pairs
dataset: {{_component_: torchtune.datasets.PreferenceDataset, source: {folder}/pairs.jsonl}}
lora: {{rank: 4, dropout: 0.2}}
validation: {{dataset: null, fraction: 0.4, every_n_steps: 5, prompts: [Hello], max_new_tokens: 3}}
loading: {{packing: {{length: 100}}}}
epochs: 10
batch_size: 1
device: cpu
"""
FUNCTION = """\
from pairs import PairsConfig

from torchtune.config import load


def tiny_pairs() -> PairsConfig:
    \"\"\"Return the YAML file's config with a different beta.\"\"\"
    cfg = load({text!r}, PairsConfig)
    cfg.preference.beta = 0.3
    return cfg
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from torchtune.cli import main

    tiny = tiny_run(tmp_path_factory.mktemp("tiny"), lambda *args: main(args))
    rows = [
        {"prompt": row["instruction"], "chosen": row["output"], "rejected": "Who knows?" + "!" * (i % 3)}
        for i, row in enumerate(ROWS)
    ]
    (tiny.folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tiny.folder / "pairs.yaml").write_text(CONFIG.format(folder=tiny.folder))
    (tiny.folder / "pairs.py").write_text(Path(pairs.__file__).read_text(encoding="utf-8"))
    return tiny


class PairsCommand(Command):
    """A run of the guide's recipe."""

    def __init__(  # custom recipes are passed by path
        self, tiny: Tiny, out: Path, launch: tuple[str, ...] = (), *overrides: str, config: str = "pairs.yaml"
    ) -> None:
        self.out = out
        recipe = [str(tiny.folder / "pairs.py"), "--config", str(tiny.folder / config)]
        arguments = [*tiny.overrides, f"output_dir={out}", *overrides]
        self.arguments = [sys.executable, "-m", "torchtune.cli", *launch, *recipe, "--override", *arguments]


@pytest.mark.parametrize("sharded", ["true", "false"])
def test_killed_two_rank_run_matches_an_uninterrupted_one(tiny: Tiny, tmp_path: Path, sharded: str) -> None:
    overrides = (f"enable_fsdp={sharded}", "checkpoints.every_n_steps=3")
    uninterrupted = PairsCommand(tiny, tmp_path / "uninterrupted", TWO_RANKS, *overrides)
    uninterrupted.run()
    killed = PairsCommand(tiny, tmp_path / "killed", TWO_RANKS, *overrides)
    for step in (5, 13):
        killed.kill_after(step)
    killed.run()
    results = killed.results()
    assert results == uninterrupted.results()
    assert uninterrupted.steps() > 15
    assert {"preference", "answer", "accuracy", "beta", "epoch"} <= results["lines"][1].keys()
    assert results["checkpoint"][2]["parts"]["scorer"]["average"] > 0


def test_validation_is_the_same_on_any_number_of_ranks(tiny: Tiny, tmp_path: Path) -> None:
    records = []
    for name, launch, batch_size in (("one", (), 4), ("two", TWO_RANKS, 2)):
        overrides = ("max_steps=1", "lr_scheduler=null", f"validation.batch_size={batch_size}")
        command = PairsCommand(tiny, tmp_path / name, launch, *overrides)
        command.run()
        records.append(read_metrics(command.out).lines[0])
    one, two = records
    assert one.keys() == two.keys() >= {"validation_preference", "validation_accuracy"}
    assert [two[name] for name in two] == pytest.approx([one[name] for name in one], rel=1e-5)


def test_config_can_be_a_function_and_a_wrong_item_type_is_reported_as_one_mistake(
    tiny: Tiny, tmp_path: Path
) -> None:
    base = PairsCommand(tiny, tmp_path / "base", (), "max_steps=1", "lr_scheduler=null")
    base.run()
    text = (tmp_path / "base" / "config.yaml").read_text()
    (tiny.folder / "runs_of_pairs.py").write_text(FUNCTION.format(text=text))
    run = PairsCommand(tiny, tmp_path / "function", (), config="runs_of_pairs.py:tiny_pairs")
    run.run()
    assert "beta: 0.3" in (tmp_path / "function" / "config.yaml").read_text()
    wrong = PairsCommand(
        tiny, tmp_path / "wrong", (), "dataset=torchtune.datasets.InstructDataset", "dataset.source=x.json"
    )
    last = wrong.run(status=2).strip().splitlines()[-1]
    assert last.endswith(
        "is a Dataset of Example | SkippedRow, but the recipe needs a Dataset of Pair | Sequence[Pair] | SkippedRow"
    )
