"""Adapter folders go to PEFT and come back, with the same logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.tiny import random_tokens, tiny_smollm2, write
from torchtune.models import load_peft_adapter, save_hf_folder, save_peft_adapter
from torchtune.modules import Decoder, add_lora, lora_layers, lora_state

# PEFT asks transformers by an attribute that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def adapted_smollm2(targets: str | list[str] = "all-linear") -> Decoder:
    """Build a tiny model with adapters that change something."""
    model = tiny_smollm2()
    add_lora(model, targets, rank=3, alpha=5.0, dropout=0.1)
    for parameter in lora_state(model).values():
        parameter.normal_(std=0.1)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the adapters of q_proj and v_proj."""
    save_peft_adapter(adapted_smollm2(["q_proj", "v_proj"]), tmp_path / "adapter", base_model="the/base")
    return tmp_path / "adapter"


def read(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["layers.1.self_attn.q_proj"]])
def test_peft_gets_our_logits_from_our_folder(tmp_path: Path, targets: str | list[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, tokens = adapted_smollm2(targets), random_tokens(2, 9)
    save_hf_folder(tiny_smollm2(), tmp_path / "base")
    save_peft_adapter(model, tmp_path / "adapter", base_model=str(tmp_path / "base"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    plain = base(tokens).logits
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")
    # transformers computes norms and angles in float32 also in a double model, hence 1e-5.
    torch.testing.assert_close(theirs(tokens).logits, model(tokens), rtol=1e-5, atol=1e-5)
    assert (plain - model(tokens)).abs().max() > 0.01
    assert theirs.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")
    assert read(tmp_path / "adapter")["lora_dropout"] == 0.1


@pytest.mark.parametrize(
    "patterns",
    [{}, {"rank_pattern": {"o_proj": 5}, "alpha_pattern": {"o_proj": 7, "layers.1.mlp.gate_proj": 2}}],
)
def test_we_get_pefts_logits_from_pefts_folder(tmp_path: Path, patterns: dict[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model, tokens = tiny_smollm2(), random_tokens(2, 9)
    save_hf_folder(model, tmp_path / "base")
    targets = ["o_proj", "gate_proj"]
    config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False, **patterns)
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config).double()
    theirs.save_pretrained(str(tmp_path / "adapter"))
    load_peft_adapter(model, tmp_path / "adapter")
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)
    assert len(dict(lora_layers(model))) == 2 * 2


def test_a_saved_adapter_loads_to_the_bit(folder: Path) -> None:
    model, expected = tiny_smollm2(), adapted_smollm2(["q_proj", "v_proj"])
    load_peft_adapter(model, folder)
    torch.testing.assert_close(lora_state(model), lora_state(expected), rtol=0, atol=0)
    assert [layer.dropout.p for _, layer in lora_layers(model)] == [0.1] * 4
    torch.testing.assert_close(model.eval()(random_tokens(1, 5)), expected(random_tokens(1, 5)))


def test_targets_are_named_as_briefly_as_they_can_be(tmp_path: Path, folder: Path) -> None:
    assert read(folder)["target_modules"] == ["q_proj", "v_proj"]
    save_peft_adapter(adapted_smollm2(["layers.1.mlp.up_proj"]), tmp_path / "one", base_model=None)
    assert read(tmp_path / "one")["target_modules"] == ["model.layers.1.mlp.up_proj"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', only 'LORA' is supported"),
        ({"use_dora": True}, "use_dora is True, only False is supported"),
        ({"use_rslora": True}, "use_rslora is True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"r": None}, "r is None, a whole number above 0 is expected; fetch it again"),
        ({"r": "3"}, "r is '3', a whole number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan, a number above 0 is expected"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf, a number"),
        ({"lora_alpha": True}, "lora_alpha is True, a number"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0, a number from 0 to 1 is expected"),
        ({"lora_dropout": None}, "lora_dropout is None"),
        (
            {"rank_pattern": ["q_proj"]},
            r"rank_pattern is \['q_proj'\], an object of numbers by layers is expected",
        ),
        ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern of 'q_proj' is 2.5, a whole number above 0"),
        ({"alpha_pattern": {"q_proj": "2"}}, "alpha_pattern of 'q_proj' is '2', a number above 0"),
        ({"alpha_pattern": {"(": 2}}, r"alpha_pattern has '\(', which is no regular expression"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path is 5, a folder, or the hub's name of a"),
    ],
)
def test_more_than_plain_lora_and_wrong_values_are_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    write(folder, adapter_config__json=json.dumps({**read(folder), **change}))
    with pytest.raises(ValueError, match=f"adapter_config.json: {message}"):
        load_peft_adapter(tiny_smollm2(), folder)


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            f"{LAYER}.lora_A.weight",
            torch.zeros(3, 65),
            r"q_proj.lora_A.weight should be \[3, 64\], it is \[3, 65\]",
        ),
        (f"{LAYER}.lora_B.weight", None, r"q_proj.lora_B.weight should be \[64, 3\], it is missing"),
        (
            f"{LAYER}.lora_magnitude_vector",
            torch.zeros(64),
            r"no place for base_model.*lora_magnitude_vector",
        ),
        (
            "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight",
            torch.zeros(3, 64),
            r"no place for base_model.model.model.layers.7.mlp.up_proj.lora_A.weight",
        ),
    ],
)
def test_another_models_adapter_is_refused(
    folder: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, folder / "adapter_model.safetensors")
    model = tiny_smollm2()
    with pytest.raises(ValueError, match=f"the adapter in .* is another model's.*: .*{message}"):
        load_peft_adapter(model, folder)
    assert not list(lora_layers(model))


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no adapter_model.safetensors in"):
        load_peft_adapter(tiny_smollm2(), folder)
    with pytest.raises(FileNotFoundError, match=r"no adapter_config.json in .*; a PEFT adapter folder"):
        load_peft_adapter(tiny_smollm2(), folder.parent)
    with pytest.raises(ValueError, match="the model has no LoRA adapters to write"):
        save_peft_adapter(tiny_smollm2(), folder.parent / "new", base_model=None)
