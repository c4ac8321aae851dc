"""A copied recipe runs at once, with the configs of the one that it was copied from."""

from pathlib import Path

import pytest

from tests.tune import Tune
from torchtune.config import Trust, only_trusting


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("full_finetune", "smollm2_135m_full"),
        ("lora_finetune", "smollm2_135m_lora"),
        ("alpaca_generate", "smollm2_135m_generate"),
    ],
)
def test_copied_recipe_takes_the_configs_of_the_original(
    recipe: str, name: str, tune: Tune, tmp_path: Path
) -> None:
    copy = tmp_path / f"my_{recipe}_copy.py"
    assert tune("cp", recipe, str(copy)).status == 0
    with only_trusting(Trust()):
        result = tune("validate", str(copy), "--config", name)
        assert result.out.startswith("ok"), result.err
        wrong = tune("validate", str(copy), "--config", name, "devise=cpu")
    assert "no 'devise'; did you mean 'device'?" in wrong.err


def test_config_of_another_recipe_is_refused(tune: Tune) -> None:
    result = tune("validate", "full_finetune", "--config", "smollm2_135m_lora")
    assert result.status == 2
    assert "returns a LoraFinetuneConfig; this recipe takes a FullFinetuneConfig" in result.err
