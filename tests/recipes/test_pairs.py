"""The recipe in `docs/custom_recipe.md`, which has two loss terms with different counts and uses `Scorer.prepare`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.optim import AdamW
from torch.utils.data import Dataset

from recipes import full_finetune
from scripts.code_lines import count_code
from tests.recipes import pairs
from tests.recipes.parts import InterruptOnce, common_fields, full_config, metrics
from tests.tolerance import FLOAT64
from tests.tune import Tune
from torchtune.config import lazy
from torchtune.datasets import InstructDataset, PreferenceDataset
from torchtune.training import Lora, Packing, Validation
from torchtune.utils.metric_logging import read_metrics

ROWS = [
    {
        "prompt": f"What is {i} plus {i}?",
        "chosen": f"It is {2 * i}.",
        "rejected": "Who knows?" + "!" * (i % 3),
    }
    for i in range(7)
]


def config(folder: Path, name: str, **changes: Any) -> pairs.PairsConfig:
    fields: dict[str, Any] = {
        "dataset_class": PreferenceDataset,
        "lora": Lora(targets=["all-linear"], rank=4, dropout=0.1),
        "optimizer": lazy(AdamW, lr=1e-2),
    }
    return pairs.PairsConfig(**common_fields(folder, name, rows=ROWS, **(fields | changes)))


def test_recipe_has_the_length_stated_in_the_guide() -> None:
    text = Path(pairs.__file__).read_text(encoding="utf-8")
    imports, _, _ = text.partition("@define")
    assert count_code(text) - count_code(imports) == 80


@pytest.mark.slow
def test_preferences_are_learned_and_an_interrupted_run_matches_an_uninterrupted_one(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "epochs": 24,
        "loading.packing": Packing(length=250),
        "checkpoints.every_n_steps": 2,
        "validation": Validation(fraction=0.4, every_n_steps=4),
    }
    pairs.main(config(tmp_path, "uninterrupted", **changes))
    interrupted = changes | {"metric_logger": lazy(InterruptOnce, step=5, marker=str(tmp_path / "marker"))}
    with pytest.raises(KeyboardInterrupt):
        pairs.main(config(tmp_path, "interrupted", **interrupted))
    pairs.main(config(tmp_path, "interrupted", **interrupted))
    assert metrics(tmp_path, "interrupted") == metrics(tmp_path, "uninterrupted")
    assert metrics(tmp_path, "interrupted")[-1]["step"] > 5
    table = read_metrics(tmp_path / "interrupted")
    validations, accuracies = table.series("validation_preference"), table.series("accuracy")
    assert validations[0][1] == pytest.approx(-logsigmoid(torch.zeros(())).item())
    assert validations[-1][1] < 0.9 * validations[0][1]
    assert (accuracies[0][1], accuracies[-1][1]) == (0, 1)
    assert {name for line in metrics(tmp_path, "interrupted") for name in line} >= {"beta", "answer", "epoch"}
    (file,) = (tmp_path / "interrupted" / "final").glob("*.safetensors")
    assert file.read_bytes() == (tmp_path / "uninterrupted" / "final" / file.name).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("fp32_is_float64")
def test_metrics_do_not_depend_on_the_micro_batch_size(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"lora": Lora(targets=["all-linear"], rank=4), "epochs": 3, "shuffle": False}
    pairs.main(config(tmp_path, "unsplit", **changes, batch_size=4))
    pairs.main(config(tmp_path, "split", **changes, batch_size=1, gradient_accumulation_steps=4))
    unsplit, split = (metrics(tmp_path, name) for name in ("unsplit", "split"))
    assert len(unsplit) == len(split) > 3
    for name in ("loss", "preference", "answer", "accuracy", "beta", "grad_norm"):
        assert [line[name] for line in split] == pytest.approx([line[name] for line in unsplit], rel=FLOAT64)


@pytest.mark.slow
def test_beta_depends_on_the_margin_unless_sensitivity_is_zero(tmp_path: Path) -> None:
    section = pairs.Preference(beta=0.5, sensitivity=0.0)
    pairs.main(config(tmp_path, "constant", preference=section, epochs=3))
    assert [line["beta"] for line in metrics(tmp_path, "constant")] == pytest.approx([0.5] * 12)
    pairs.main(config(tmp_path, "variable", preference=pairs.Preference(beta=0.5), epochs=3))
    betas = [line["beta"] for line in metrics(tmp_path, "variable")]
    assert betas[0] == pytest.approx(0.5), "the model equals the reference before the first step"
    assert max(betas) > 0.55


class UntypedRows:
    """A dataset that does not declare its item type."""

    def __init__(self, tokenizer: Any, kind: str, source: str) -> None:
        self._rows: Any = {"pairs": PreferenceDataset, "examples": InstructDataset}[kind](
            tokenizer, source=source
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]


class UntypedDataset(UntypedRows, Dataset):  # type: ignore[type-arg]  # deliberately untyped
    """`UntypedRows` as a subclass of `Dataset`, for use as a component."""


@pytest.mark.slow
def test_items_of_the_wrong_type_raise_an_error_before_the_first_step(tmp_path: Path) -> None:
    plain = [{"instruction": row["prompt"], "input": "", "output": row["chosen"]} for row in ROWS]
    (tmp_path / "pair_rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "plain.json").write_text(json.dumps(plain), encoding="utf-8")
    examples = lazy(UntypedDataset, kind="examples", source=str(tmp_path / "plain.json"))
    with pytest.raises(
        ValueError, match=r"^dataset: .*UntypedDataset yields Example, but the recipe needs a Dat"
    ):
        pairs.main(config(tmp_path, "examples", dataset=examples))
    held_out = Validation(dataset=examples)
    with pytest.raises(
        ValueError, match=r"^validation.dataset: .*UntypedDataset yields Example, but the recipe"
    ):
        pairs.main(config(tmp_path, "held_out", validation=held_out))
    untyped = lazy(UntypedDataset, kind="pairs", source=str(tmp_path / "pair_rows.json"))
    with pytest.raises(ValueError, match=r"yields Pair, but the recipe needs a Dataset of Example"):
        full_finetune.main(full_config(tmp_path, "full", dataset=untyped))
    pairs.main(config(tmp_path, "pairs", dataset=untyped))
    assert len(metrics(tmp_path, "pairs")) == 4


@pytest.mark.parametrize(
    "args",
    [
        ("full_finetune", "--config", "smollm2_135m_full", "dataset=torchtune.datasets.PreferenceDataset"),
        (pairs.__file__, "--config", "smollm2_135m_lora"),
    ],
)
def test_validate_rejects_a_dataset_with_items_of_the_wrong_type(args: tuple[str, ...], tune: Tune) -> None:
    result = tune("validate", *args)
    assert result.status == 2
    (mistake,) = re.findall(r": dataset: torchtune.datasets.(.*)", result.err.partition("mistake")[2])
    kinds = {"InstructDataset": ("Example", "Pair"), "PreferenceDataset": ("Pair", "Example")}
    name, _, reason = mistake.partition(" ")
    item, needed = kinds[name]
    assert reason == (
        f"is a Dataset of {item} | SkippedRow, but the recipe needs a Dataset of"
        f" {needed} | Sequence[{needed}] | SkippedRow"
    )
