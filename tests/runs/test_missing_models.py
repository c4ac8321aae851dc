"""The message for a missing model folder suggests a similar folder, or the command that downloads the model."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from torchtune import models
from torchtune.runs import locate_model, missing_model_hint
from torchtune.runs._missing_model import known_models

DOWNLOAD_HINT = "download it with `tune download HuggingFaceTB/SmolLM2-135M-Instruct --output-dir {}`"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_known_models_match_the_model_builders() -> None:
    modules = [import_module(f"torchtune.models.{module.name}") for module in iter_modules(models.__path__)]
    builders = [
        value for module in modules for value in vars(module).values() if hasattr(value, "architecture")
    ]
    names_in_docstrings = {
        name
        for builder in builders
        for name in builder.__doc__.partition(", with random")[0].removeprefix("Build ").split(" or ")
    }
    assert len(names_in_docstrings) > 40
    assert set(known_models()) == names_in_docstrings


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
def test_the_last_part_of_a_local_path_determines_the_model_to_download(
    path: str, working_folder: Path
) -> None:
    (working_folder / "mine").mkdir()
    assert missing_model_hint(path) == DOWNLOAD_HINT.format(path)


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
def test_model_variants_have_the_same_owner(name: str, owner: str) -> None:
    command = f"`tune download {owner}/{name} --output-dir models/{name}`"
    assert missing_model_hint(f"models/{name}") == f"download it with {command}"


def test_name_is_a_hub_id_only_if_its_owner_is_not_a_local_folder(working_folder: Path) -> None:
    command = "`tune download owner/name --output-dir models/name`"
    hint = f"if it is a model on the Hugging Face hub, download it with {command}"
    assert missing_model_hint("owner/name") == hint
    assert missing_model_hint("./owner/name") == missing_model_hint("models/name") == ""
    (working_folder / "models/name").mkdir(parents=True)
    assert missing_model_hint("owner/name") == "did you mean models/name?"
    (working_folder / "owner").mkdir()
    assert missing_model_hint("owner/name") == ""


def test_a_similar_folder_is_suggested_first(working_folder: Path) -> None:
    (working_folder / "models/SmolLM2").mkdir(parents=True)
    (working_folder / "models/other").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        locate_model("models/SmolLM2-135M-Instruct")
    download_hint = DOWNLOAD_HINT.format("models/SmolLM2-135M-Instruct")
    assert str(caught.value) == (
        f"folder models/SmolLM2-135M-Instruct does not exist; did you mean models/SmolLM2? If not, {download_hint}"
    )
    assert missing_model_hint("models/SmolLM") == missing_model_hint("modles/SmolLM2")
    assert missing_model_hint("modles/SmolLM2") == "did you mean models/SmolLM2?"
    assert missing_model_hint("models/gpt-j") == ""


def test_message_about_a_missing_adapter_base_has_the_same_hints(working_folder: Path) -> None:
    (working_folder / "models/SmolLM2").mkdir(parents=True)
    (working_folder / "adapter").mkdir()
    (working_folder / "adapter/adapter_config.json").write_text(
        '{"base_model_name_or_path": "models/SmolLM"}'
    )
    with pytest.raises(
        FileNotFoundError, match=r"did you mean models/SmolLM2\? If so, pass both: the base as"
    ):
        locate_model("adapter")
    (working_folder / "models/SmolLM2").rename(working_folder / "models/mine")
    with pytest.raises(FileNotFoundError, match="no such folder; pass both: the base as model_directory"):
        locate_model("adapter")
