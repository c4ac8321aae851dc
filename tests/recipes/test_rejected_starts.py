"""Configs that are rejected before training starts."""

from pathlib import Path
from typing import Any

import pytest

from recipes import full_finetune, lora_finetune
from tests.cli.picky_optimizers import FailsOnVectors, RejectsVectors
from tests.recipes.parts import full_config, lora_config
from torchtune.config import ConfigError, lazy


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (RejectsVectors, "RuntimeError: matrices only"),
        (FailsOnVectors, "its first step fails: AssertionError"),
    ],
)
def test_an_optimizer_that_rejects_the_parameters_is_reported_as_one_mistake(
    tmp_path: Path, optimizer: type, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        full_finetune.main(full_config(tmp_path, optimizer=lazy(optimizer)))
    (mistake,) = caught.value.mistakes
    assert mistake.path == ("optimizer",)
    assert mistake.message == f"tests.cli.picky_optimizers.{optimizer.__name__}: {reason}"
    lora_finetune.main(lora_config(tmp_path, optimizer=lazy(optimizer), max_steps=1))


@pytest.mark.slow
def test_a_full_run_without_a_tokenizer_to_save_is_rejected_before_training(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (empty, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=r"tokenizer_directory: .*tokenizer"):
            full_finetune.main(full_config(tmp_path, tokenizer_directory=str(folder)))
    assert not (tmp_path / "full/metrics.jsonl").exists()
    lora_finetune.main(lora_config(tmp_path, tokenizer_directory=str(empty), max_steps=1))


@pytest.mark.slow
def test_extending_a_run_by_no_steps_raises_an_error(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"checkpoints.every_n_steps": 100}
    full_finetune.main(full_config(tmp_path, **changes, max_steps=2))
    with pytest.raises(
        ConfigError, match=r"max_steps=2 does not extend the finished run in .*; raise max_steps"
    ):
        full_finetune.main(full_config(tmp_path, **changes, max_steps=2, epochs=5), extend=True)
    with pytest.raises(ConfigError, match="which took 2 steps"):
        full_finetune.main(full_config(tmp_path, **changes, epochs=2, max_steps_per_epoch=1), extend=True)
    full_finetune.main(full_config(tmp_path, **changes, max_steps=3), extend=True)
    with pytest.raises(ValueError, match="the run was not extended beyond step 3"):
        full_finetune.main(full_config(tmp_path, **changes, gradient_accumulation_steps=1), extend=True)
