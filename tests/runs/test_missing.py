"""A missing folder of a model is answered by a similar folder, or by the command that fetches the model."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from torchtune import models
from torchtune.runs import locate_model, missing_model_hint
from torchtune.runs._missing import known_models

FETCH = "`tune download HuggingFaceTB/SmolLM2-135M-Instruct --output-dir {}` fetches it"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_known_models_are_those_that_the_builders_name() -> None:
    modules = [import_module(f"torchtune.models.{module.name}") for module in iter_modules(models.__path__)]
    builders = [
        value for module in modules for value in vars(module).values() if hasattr(value, "architecture")
    ]
    named = {
        name
        for builder in builders
        for name in builder.__doc__.partition(", with random")[0].removeprefix("Build ").split(" or ")
    }
    assert len(named) > 40
    assert set(known_models()) == named


@pytest.mark.parametrize(
    "path",
    [
        "models/SmolLM2-135M-Instruct",
        "runs/smollm2-135m-instruct",
        "checkpoints/SmolLM2-135M-Instruct",
        "./mine/SmolLM2-135M-Instruct",
        "../SmolLM2-135M-Instruct",
        "/nowhere/SmolLM2-135M-Instruct",
        "mine/SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct",
    ],
)
def test_the_last_name_of_a_local_path_tells_which_model_to_fetch(path: str, here: Path) -> None:
    (here / "mine").mkdir()
    assert missing_model_hint(path) == FETCH.format(path)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("SmolLM2-360M-Instruct", "HuggingFaceTB"),
        ("Qwen2.5-7B", "Qwen"),
        ("Qwen2-0.5B-Instruct", "Qwen"),
        ("gemma-3-1b-it", "google"),
        ("Llama-2-7b-chat-hf", "meta-llama"),
        ("Mistral-7B-Instruct-v0.3", "mistralai"),
    ],
)
def test_variants_of_a_size_have_its_owner(name: str, owner: str) -> None:
    command = f"`tune download {owner}/{name} --output-dir models/{name}`"
    assert missing_model_hint(f"models/{name}") == f"{command} fetches it"


def test_a_name_of_the_hub_is_one_whose_owner_is_no_folder_here(here: Path) -> None:
    command = "`tune download owner/name --output-dir models/name`"
    assert (
        missing_model_hint("owner/name") == f"if it is a model on the Hugging Face hub, {command} fetches it"
    )
    assert missing_model_hint("./owner/name") == missing_model_hint("models/name") == ""
    (here / "models/name").mkdir(parents=True)
    assert missing_model_hint("owner/name") == "did you mean models/name?"
    (here / "owner").mkdir()
    assert missing_model_hint("owner/name") == ""


def test_a_similar_folder_is_suggested_first(here: Path) -> None:
    (here / "models/SmolLM2").mkdir(parents=True)
    (here / "models/other").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        locate_model("models/SmolLM2-135M-Instruct")
    fetch = FETCH.format("models/SmolLM2-135M-Instruct")
    assert str(caught.value) == (
        f"there is no folder models/SmolLM2-135M-Instruct; did you mean models/SmolLM2? If not, {fetch}"
    )
    assert missing_model_hint("models/SmolLM") == missing_model_hint("modles/SmolLM2")
    assert missing_model_hint("modles/SmolLM2") == "did you mean models/SmolLM2?"
    assert missing_model_hint("models/gpt-j") == ""


def test_a_missing_base_of_an_adapter_is_answered_in_the_same_way(here: Path) -> None:
    (here / "models/SmolLM2").mkdir(parents=True)
    (here / "adapter").mkdir()
    (here / "adapter/adapter_config.json").write_text('{"base_model_name_or_path": "models/SmolLM"}')
    with pytest.raises(FileNotFoundError, match=r"did you mean models/SmolLM2\? Then name both, the base as"):
        locate_model("adapter")
    (here / "models/SmolLM2").rename(here / "models/mine")
    with pytest.raises(FileNotFoundError, match="no such folder; name both, the base as model_directory"):
        locate_model("adapter")
