"""A model can be specified by a folder of weights, an adapter with its base, or a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.models.tiny import tiny_smollm2, tiny_tokenizer, tokenizer_config, write
from torchtune.formats import hf_decoder, save_hf_folder, save_peft_adapter
from torchtune.modules import add_lora
from torchtune.runs import ModelFolders, locate_model, weights_note
from torchtune.tokenizers import HFTokenizer, auto_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that contains a model and its tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    config = json.dumps(tokenizer_config())
    tokenizer_folder = write(
        folder / "words", tokenizer__json=tiny_tokenizer().to_str(), tokenizer_config__json=config
    )
    save_hf_folder(tiny_smollm2(), folder / "base", tokenizer_directory=tokenizer_folder)
    return folder / "base"


def adapter(folder: Path, base_model: str | None) -> Path:
    model = tiny_smollm2()
    add_lora(model, "all-linear", rank=2, alpha=4.0)
    save_peft_adapter(model, folder, base_model=base_model)
    return folder


def write_run(run_folder: Path, **record: Any) -> Path:
    return write(run_folder, config__yaml="seed: 1\n", run__json=json.dumps(record))


def test_a_hugging_face_folder_is_returned_unchanged(base: Path) -> None:
    assert locate_model(base) == locate_model(str(base)) == ModelFolders(base)


def test_base_of_an_adapter_is_read_from_the_adapter_config(base: Path, tmp_path: Path) -> None:
    adapter_folder = adapter(tmp_path / "adapter", str(base))
    assert locate_model(adapter_folder) == ModelFolders(base, adapter_folder)
    assert hf_decoder(str(adapter_folder)).architecture == hf_decoder(str(base)).architecture


def test_relative_base_is_resolved_in_the_current_folder_or_where_the_run_was_started(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "runs/lora", folder=str(base.parent))
    final = adapter(run / "final", "base")
    assert locate_model(run) == ModelFolders(base, final)
    (run / "run.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="names the base model 'base', but there is no such folder"):
        locate_model(run)
    monkeypatch.chdir(base.parent)
    assert locate_model(run) == ModelFolders(Path("base"), final)


def test_run_folder_resolves_to_its_best_model_or_else_its_final_model(base: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", command=["tune", "lora_finetune", "--config", "my config"])
    with pytest.raises(ValueError, match="has no weights yet") as caught:
        locate_model(run)
    assert "to resume it, run `tune lora_finetune --config 'my config'`" in str(caught.value)
    for call in (hf_decoder, auto_tokenizer):
        with pytest.raises(ValueError, match="has no weights yet"):
            call(str(run))
    final = adapter(run / "final", str(base))
    assert locate_model(run) == ModelFolders(base, final)
    assert weights_note(run) is None
    save_hf_folder(tiny_smollm2(), run / "best")
    assert locate_model(run) == ModelFolders(run / "best")
    assert weights_note(run) == (
        f"using {run / 'best'}, the model with the lowest validation loss; {final} is the model of the last step"
    )
    assert locate_model(final) == ModelFolders(base, final)
    assert weights_note(final) is weights_note(run / "best") is weights_note(base) is None
    shutil.rmtree(final)
    assert locate_model(run) == locate_model(run / "best") == ModelFolders(run / "best")
    assert str(weights_note(run)).endswith("so far; the run has not finished")


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_either_file_identifies_a_run_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("[damaged")
    with pytest.raises(ValueError, match="to resume it, run the same command"):
        locate_model(tmp_path)


def test_adapter_and_base_can_both_be_specified(base: Path, tmp_path: Path) -> None:
    final = adapter(tmp_path / "adapter", "its/own")
    assert locate_model(base, final) == ModelFolders(base, final)
    run = write_run(tmp_path / "run")
    final.rename(run / "final")
    assert locate_model(base, run) == ModelFolders(base, run / "final")
    with pytest.raises(ValueError, match=r"are both adapters; pass the base model instead"):
        locate_model(run, run / "final")
    with pytest.raises(FileNotFoundError, match=r"is not an adapter: there is no adapter_config\.json in"):
        locate_model(base, base)


def test_message_about_a_missing_base_explains_how_to_download_and_specify_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        locate_model(adapter(tmp_path / "adapter", "HuggingFaceTB/SmolLM2-135M"))
    message = str(caught.value)
    assert "names the base model 'HuggingFaceTB/SmolLM2-135M', but there is no such folder" in message
    assert (
        "(tune download HuggingFaceTB/SmolLM2-135M --output-dir models/SmolLM2-135M) and pass both" in message
    )
    with pytest.raises(ValueError, match=r"does not name the base model; pass both: .* model_directory"):
        locate_model(adapter(tmp_path / "other", None))


def test_base_can_be_a_run(base: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    save_hf_folder(tiny_smollm2(), run / "final")
    adapter_folder = adapter(tmp_path / "adapter", str(run))
    assert locate_model(adapter_folder) == ModelFolders(run / "final", adapter_folder)


def test_a_folder_without_a_model_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere does not exist \(relative"):
        hf_decoder(str(tmp_path / "nowhere"))
    with pytest.raises(
        FileNotFoundError, match=r"no config\.json in .*; expected the folder of a Hugging Face"
    ):
        hf_decoder(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in .*: expected tokenizer\.json, "):
        auto_tokenizer(str(tmp_path))


def test_tokenizer_of_an_adapter_takes_precedence_over_its_bases_tokenizer(
    base: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    final = adapter(run / "final", str(base))
    for folder in (final, run):
        tokenizer = auto_tokenizer(str(folder))
        assert isinstance(tokenizer, HFTokenizer)
        assert tokenizer.chat_template is not None
    settings = json.dumps({**tokenizer_config(), "chat_template": None})
    write(final, tokenizer__json=tiny_tokenizer().to_str(), tokenizer_config__json=settings)
    assert auto_tokenizer(str(run)).chat_template is None
