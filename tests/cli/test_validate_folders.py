"""Without reading weights, `tune validate` lists all folders and optimizers that a run would reject."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_run import Tiny, tiny_run
from tests.tune import Result, Tune
from torchtune.formats import hf_decoder, load_hf_weights, save_hf_folder, save_peft_adapter
from torchtune.modules import add_lora


@pytest.fixture
def tiny(tune: Tune, tmp_path: Path) -> Tiny:
    return tiny_run(tmp_path, lambda *args: tune(*args).status)


HF = ("model=torchtune.formats.hf_decoder", "model.path=${model_directory}")


def run_arguments(tiny: Tiny, recipe: str, args: tuple[str, ...]) -> list[str]:
    config = "smollm2_135m_full" if recipe == "full_finetune" else "smollm2_135m_lora"
    model = [arg for arg in tiny.overrides if not (HF[0] in args and arg.startswith(("model.", "model=")))]
    return [recipe, "--config", config, *model, *tiny.rows, "device=cpu", "validation.prompts=[]", *args]


def validate(tune: Tune, tiny: Tiny, *args: str, recipe: str = "full_finetune") -> Result:
    return tune("validate", *run_arguments(tiny, recipe, args))


def run(tune: Tune, tiny: Tiny, *args: str, recipe: str = "full_finetune") -> Result:
    return tune(*run_arguments(tiny, recipe, (*args, f"output_dir={tiny.folder / 'out'}", "max_steps=1")))


def save_adapter(tiny: Tiny, folder: Path, base: str | None = None) -> Path:
    model = hf_decoder(str(tiny.folder / "model"))
    load_hf_weights(model, tiny.folder / "model")
    add_lora(model, ["q_proj"], rank=2, alpha=4.0)
    save_peft_adapter(model, folder, base_model=base or str(tiny.folder / "model"))
    return folder


def edit_model_config(tiny: Tiny, **keys: Any) -> None:
    path = tiny.folder / "model/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def lines(result: Result) -> list[str]:
    return [line for line in result.err.splitlines() if line.startswith("  ")]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("recipe", ["full_finetune", "lora_finetune"])
@pytest.mark.parametrize("has_base", [True, False])
@pytest.mark.parametrize("args", [(), HF])
def test_an_adapter_as_model_directory_is_rejected_with_advice(
    tune: Tune, tiny: Tiny, recipe: str, args: tuple[str, ...], *, has_base: bool
) -> None:
    folder = save_adapter(tiny, tiny.folder / "adapter", None if has_base else "the/base")
    tokenizer = f"tokenizer_directory={tiny.folder / 'model'}"
    call = (f"model_directory={folder}", tokenizer, *args)
    result = validate(tune, tiny, *call, recipe=recipe)
    base = tiny.folder / "model" if has_base else "the/base"
    expected = (
        f"{folder} is an adapter, not a full model; merge it into its base (tune convert {folder}"
        f" NEW_FOLDER) and use that folder, or train the adapter further: lora_finetune"
        f" model_directory={base} lora.adapter_directory={folder}"
    )
    assert result.status == 2
    assert [line.partition("model_directory: ")[2] for line in lines(result)] == [expected]
    run_result = run(tune, tiny, *call, recipe=recipe)
    assert run_result.status == 2
    assert "Traceback" not in run_result.err
    if has_base or not args:
        assert f"tune: {expected}" in run_result.err


@pytest.mark.slow
def test_a_run_folder_as_model_directory_is_rejected_with_its_model_folders(tune: Tune, tiny: Tiny) -> None:
    folder = tiny.folder / "run"
    folder.mkdir()
    (folder / "config.yaml").touch()
    for name in ("final", "best"):
        shutil.copytree(tiny.folder / "model", folder / name)
    result = validate(tune, tiny, f"model_directory={folder}", f"tokenizer_directory={tiny.folder / 'model'}")
    assert result.status == 2
    assert f"is a run's folder; use the weights in it, {folder / 'final'} or {folder / 'best'}" in result.err
    assert validate(tune, tiny, f"model_directory={folder / 'best'}").status == 0


@pytest.mark.parametrize("command", [validate, run])
def test_the_folder_of_an_adapter_run_as_model_directory_is_rejected_with_advice(
    tune: Tune, tiny: Tiny, command: Any
) -> None:
    folder = tiny.folder / "run"
    final = save_adapter(tiny, folder / "final", "the/base")
    (folder / "config.yaml").touch()
    result = command(tune, tiny, f"model_directory={folder}", f"tokenizer_directory={tiny.folder / 'model'}")
    assert result.status == 2
    assert (
        f"{folder} is the folder of a run that trained an adapter, not a full model; merge it into its base"
        f" (tune convert {final} NEW_FOLDER) and use that folder, or train the adapter further:"
        f" lora_finetune model_directory=the/base lora.adapter_directory={final}"
    ) in result.err


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("args", [(), HF])
@pytest.mark.parametrize("command", [validate, run])
def test_a_quantized_folder_is_rejected(tune: Tune, tiny: Tiny, command: Any, args: tuple[str, ...]) -> None:
    edit_model_config(tiny, quantization_config={"quant_method": "awq", "bits": 4})
    result = command(tune, tiny, *args)
    assert result.status == 2
    assert result.err.count("contains a quantized model (awq, 4 bits)") == 1
    assert "use the unquantized model" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("command", [validate, run])
def test_integer_weights_are_rejected(tune: Tune, tiny: Tiny, command: Any) -> None:
    file = tiny.folder / "model/model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, file)
    result = command(tune, tiny)
    assert (
        result.status,
        "contains a quantized model, according to the dtype of model.layers.0.mlp" in result.err,
    ) == (
        2,
        True,
    )


def without_a_tensor(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    return "do not match the model: missing model.norm.weight"


def without_a_shard(folder: Path) -> str:
    model = hf_decoder(str(folder))
    load_hf_weights(model, folder)
    save_hf_folder(model, folder.parent / "sharded", shard_bytes=50_000, base=folder)
    (folder / "model.safetensors").unlink()
    for path in (folder.parent / "sharded").glob("*.safetensors*"):
        shutil.copy(path, folder)
    next(folder.glob("model-00002-*")).unlink()
    return "no model-00002-of-"


def with_a_wrong_shape(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, folder / "model.safetensors")
    return "model.norm.weight has shape [7], expected [64]"


def with_a_truncated_file(folder: Path) -> str:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return "is damaged or truncated"


def without_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "expected model.safetensors, model.safetensors.index.json"


def with_a_different_config(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    return "describes a different model: rope_base is 5.0, expected "


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        without_a_tensor,
        without_a_shard,
        with_a_wrong_shape,
        with_a_truncated_file,
        without_weights,
        with_a_different_config,
    ],
)
def test_weights_that_do_not_match_the_model_are_rejected(tune: Tune, tiny: Tiny, damage: Any) -> None:
    message = damage(tiny.folder / "model")
    for command in (validate, run):
        result = command(tune, tiny)
        assert result.status == 2, result.err
        assert message in result.err


@pytest.mark.slow
def test_prompts_that_are_too_long_are_rejected(tune: Tune, tiny: Tiny) -> None:
    prompts = "validation.prompts=[Who are you?]"
    assert validate(tune, tiny, prompts, "validation.max_new_tokens=2").status == 0
    result = validate(tune, tiny, prompts, "validation.max_new_tokens=60")
    assert result.status == 2
    assert "validation.prompts: 'Who are you?' has" in result.err


@pytest.mark.slow
def test_a_missing_tokenizer_is_rejected(tune: Tune, tiny: Tiny) -> None:
    (tiny.folder / "model/tokenizer.json").unlink()
    result = validate(tune, tiny)
    assert (result.status, ": tokenizer: " in result.err, "no tokenizer.json in" in result.err) == (
        2,
        True,
        True,
    )
    # The missing tokenizer is reported even if the rows are missing.
    later = [f"{name}.source=later.json" for name in ("dataset", "validation.dataset")]
    result = validate(tune, tiny, *later)
    assert (result.status, ": tokenizer: " in result.err, "no tokenizer.json in" in result.err) == (
        2,
        True,
        True,
    )


def test_all_mistakes_are_reported_in_one_list(tune: Tune, tiny: Tiny) -> None:
    without_a_tensor(tiny.folder / "model")
    (tiny.folder / "model/tokenizer.json").unlink()
    result = validate(tune, tiny, "optimizer=torch.optim.Muon", "optimizer.lr=0.1")
    assert result.err.splitlines()[-4].startswith("3 mistakes in the config of full_finetune")
    assert [": ".join(line.split(": ")[1:2]) for line in lines(result)] == [
        "model_directory",
        "tokenizer",
        "optimizer",
    ]


def test_an_optimizer_that_rejects_the_parameters_is_reported_in_one_line_with_one_location(
    tune: Tune, tiny: Tiny
) -> None:
    result = validate(tune, tiny, "optimizer=torch.optim.Muon", "optimizer.lr=0.1")
    (line,) = lines(result)
    origin = "--override optimizer=torch.optim.Muon"
    assert result.status == 2
    assert line.startswith(f"  {origin}: optimizer: torch.optim.Muon: Muon only supports 2D param")
    assert line.count(origin) == 1
    assert "torch.Size([" in line


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RejectsVectors", "RuntimeError: matrices only"),
        ("FailsOnVectors", "its step fails on the trained parameters: AssertionError"),
    ],
)
def test_a_third_party_optimizer_that_raises_is_reported_in_one_line(
    tune: Tune, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setenv("TUNE_ALLOW", "tests")
    path = f"tests.cli.picky_optimizers.{name}"
    result = validate(tune, tiny, f"optimizer={path}", "optimizer.lr=0.1")
    (line,) = lines(result)
    assert result.status == 2
    assert line.endswith(f": optimizer: {path}: {reason}")
    assert "Traceback" not in result.err
    lora = validate(tune, tiny, f"optimizer={path}", "optimizer.lr=0.1", recipe="lora_finetune")
    assert lora.status == 0, "all adapter parameters are matrices"


def test_memory_of_an_optimizer_that_reads_values_is_estimated_on_small_tensors(
    tune: Tune, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_ALLOW", "tests")
    args = ("optimizer.lr=0.1", "--json")
    plain = validate(tune, tiny, "optimizer=torch.optim.AdamW", *args)
    reading = validate(tune, tiny, "optimizer=tests.cli.picky_optimizers.ReadsValues", *args)
    assert reading.status == 0
    assert json.loads(reading.out)["needs"] == json.loads(plain.out)["needs"]


@pytest.mark.parametrize("has_adapter_directory", [True, False])
def test_an_adapter_of_a_different_model_is_rejected_before_generation(
    tune: Tune, tiny: Tiny, *, has_adapter_directory: bool
) -> None:
    folder = save_adapter(tiny, tiny.folder / "adapter")
    model = tiny.folder / "model"
    args = [f"model_directory={model}", f"adapter_directory={folder}"]
    if not has_adapter_directory:
        args = [f"model_directory={folder}", f"tokenizer_directory={model}"]
    call = ("validate", "alpaca_generate", "--config", "generate", "prompt=a", *args)
    assert tune(*call).status == 0
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name.replace("layers.0", "layers.9"): tensor for name, tensor in tensors.items()}, file)
    result = tune(*call)
    field = "adapter_directory" if has_adapter_directory else "model_directory"
    assert (
        result.status,
        f"{field}: the adapter in {folder} belongs to a different model" in result.err,
    ) == (
        2,
        True,
    )
