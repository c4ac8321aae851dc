"""A copied recipe runs without changes, with the configs of the original recipe."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tune import Tune
from torchtune.config import Trust, only_trusting
from torchtune.runs import load_recipe


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("full_finetune", "smollm2_135m_full"),
        ("lora_finetune", "smollm2_135m_lora"),
        ("alpaca_generate", "smollm2_135m_generate"),
    ],
)
def test_copied_recipe_accepts_the_original_configs(
    recipe: str, name: str, tune: Tune, tmp_path: Path
) -> None:
    copy = tmp_path / f"my_{recipe}_copy.py"
    assert tune("cp", recipe, str(copy)).status == 0
    with only_trusting(Trust()):
        result = tune("validate", str(copy), "--config", name)
        assert result.out.startswith("ok"), result.err
        wrong = tune("validate", str(copy), "--config", name, "devise=cpu")
    assert "unknown field 'devise'; did you mean 'device'?" in wrong.err


def test_config_of_another_recipe_is_rejected(tune: Tune) -> None:
    result = tune("validate", "full_finetune", "--config", "smollm2_135m_lora")
    assert result.status == 2
    assert "returns a LoraFinetuneConfig; this recipe expects a FullFinetuneConfig" in result.err


RENAMED = [
    ("full_finetune", "FullFinetuneConfig", "smollm2_135m_full"),
    ("lora_finetune", "LoraFinetuneConfig", "smollm2_135m_lora"),
    ("alpaca_generate", "AlpacaGenerateConfig", "smollm2_135m_generate"),
]


@pytest.fixture
def copy_recipe(tune: Tune, tmp_path: Path) -> Callable[..., str]:
    """Return a function that copies a recipe, edits the copy, and returns its path."""

    def copy(recipe: str, file: str, *changes: tuple[str, str]) -> str:
        path = tmp_path / file
        assert tune("cp", recipe, str(path)).status == 0
        text = path.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
        return str(path)

    return copy


@pytest.mark.parametrize(("recipe", "cls", "name"), RENAMED)
def test_copy_with_a_renamed_class_accepts_the_original_configs_and_files_based_on_them(
    recipe: str, cls: str, name: str, tune: Tune, copy_recipe: Callable[..., str], tmp_path: Path
) -> None:
    copy = copy_recipe(recipe, f"renamed_{recipe}.py", (cls, "MyConfig"))
    (tmp_path / "over.yaml").write_text(f"_base_: {name}\nseed: 7\n")
    with only_trusting(Trust()):
        assert tune("export", copy, "--config", name).out == tune("export", recipe, "--config", name).out
        assert "seed: 7\n" in tune("export", copy, "--config", str(tmp_path / "over.yaml")).out
        origins = tune("show", copy, "--config", name, "--origins").out
        expected = tune("show", recipe, "--config", name, "--origins").out
    without_spaces = [" ".join(line.split()) for line in origins.splitlines()]
    assert without_spaces == [
        " ".join(line.split()) for line in expected.replace(cls, "MyConfig").splitlines()
    ]


CLASS = "class LoraFinetuneConfig(training.FinetuneConfig):"
CHANGED_DEFAULT = (
    "    optimizer: Annotated",
    "    epochs: int = 9\n    alpha: float = 0.5\n    optimizer: Annotated",
)


def test_unset_field_has_the_default_of_the_copied_class(tune: Tune, copy_recipe: Callable[..., str]) -> None:
    copy = copy_recipe(
        "lora_finetune",
        "changed_defaults.py",
        ("LoraFinetuneConfig", "MyConfig"),
        CHANGED_DEFAULT,
        ("lr=2e-4", "lr=7e-4"),
    )
    with only_trusting(Trust()):
        out = tune("export", copy, "--config", "smollm2_135m_lora").out
        generated = tune("export", copy, "--config", "alpaca_llama2_lora_finetune").out
    assert "epochs: 9\n" in out
    assert "alpha: 0.5\n" in out
    assert "lr: 0.001\n" in out  # set by the config
    assert "every_n_steps: 10\n" in out
    assert "epochs: 9\n" in generated


def test_subclass_of_a_config_class_accepts_its_configs(tune: Tune, copy_recipe: Callable[..., str]) -> None:
    derived = "from recipes.lora_finetune import LoraFinetuneConfig\n\n\nclass MyConfig(LoraFinetuneConfig):"
    decorated = f"@define(kw_only=True)\n{CLASS}"
    derived = derived.replace("\n\n\n", "\n\n\n@define(kw_only=True)\n")
    copy = copy_recipe(
        "lora_finetune",
        "derived_recipe.py",
        (decorated, derived),
        ("main(cfg: LoraFinetuneConfig)", "main(cfg: MyConfig)"),
    )
    with only_trusting(Trust()):
        result = tune("export", copy, "--config", "smollm2_135m_lora", "epochs=4")
    assert "epochs: 4\n" in result.out, result.err
    assert "rank: 16\n" in result.out


def test_config_with_a_field_missing_from_the_copied_class_is_rejected(
    tune: Tune, copy_recipe: Callable[..., str]
) -> None:
    copy = copy_recipe("full_finetune", "recipe_without_lora.py", ("FullFinetuneConfig", "MyConfig"))
    with only_trusting(Trust()):
        result = tune("validate", copy, "--config", "smollm2_135m_lora")
    assert result.status == 2
    reason = "returns a LoraFinetuneConfig; this recipe expects a MyConfig, which has no lora"
    assert f"smollm2_135m_lora {reason}" in result.err


def test_original_config_object_works_with_a_copied_recipe_in_python(copy_recipe: Callable[..., str]) -> None:
    from configs_py.smollm2 import smollm2_135m_lora

    copy = copy_recipe(
        "lora_finetune", "run_from_python.py", ("LoraFinetuneConfig", "MyConfig"), CHANGED_DEFAULT
    )
    with only_trusting(Trust()):
        config = load_recipe(copy).layers_of(smollm2_135m_lora()).build()
    assert type(config).__name__ == "MyConfig"
    assert (config.epochs, config.lora.rank) == (9, 16)
