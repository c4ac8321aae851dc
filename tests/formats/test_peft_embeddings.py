"""Adapted and fully trained embeddings and output heads, tied or untied, are exchanged with PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.formats.test_peft_adapter import float64_logits, load_float64, load_transformers, write_base
from tests.models.tiny import random_tokens
from tests.modules.adapters import randomize_adapters
from tests.tolerance import FLOAT64, assert_near, bound
from torchtune.formats import (
    check_peft_adapter,
    check_same_adapters,
    convert,
    load_peft_adapter,
    load_same_adapters,
    save_peft_adapter,
)
from torchtune.modules import Decoder, add_lora, lora_state

pytestmark = [
    # PEFT reads an attribute that transformers 5.23 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT warns that it saves the base's embeddings with their adapters, and that merging tied embeddings may fail.
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True but the target:UserWarning"),
]

families = pytest.mark.parametrize("family", ["Llama", "Llama tied", "GPT2"])
CHANGES = {
    "adapters": {"targets": ["down_proj", "embed_tokens", "lm_head"]},
    "modules": {"targets": ["down_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    "both": {"targets": ["down_proj", "lm_head"], "modules_to_save": ["embed_tokens"]},
}


def write_family_base(family: str, folder: Path) -> Path:
    """Write a small model with tied embeddings, except for plain Llama."""
    return write_base(family.partition(" ")[0], folder, tie_word_embeddings=family != "Llama")


def adapted_model(base: Path, change: dict[str, Any]) -> Decoder:
    """Load a model, and randomize its adapters and trained modules, omitting `lm_head` from a tied model."""
    model = load_float64(base)
    if model.architecture.tied_embeddings:
        change = {key: [name for name in names if name != "lm_head"] for key, names in change.items()}
    add_lora(model, **change, rank=3, alpha=5.0)
    randomize_adapters(model, std=0.1)
    return model


@pytest.mark.quick_cases(5)
@families
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_peft_computes_the_same_logits(tmp_path: Path, family: str, change: dict[str, Any]) -> None:
    from peft import PeftModel

    base = write_family_base(family, tmp_path / "base")
    model, tokens = adapted_model(base, change), random_tokens(2, 9)
    plain = load_float64(base)(tokens)
    check_peft_adapter(model)
    save_peft_adapter(model, tmp_path / "adapter", base_model=str(base))
    peft_model = PeftModel.from_pretrained(load_transformers(base), tmp_path / "adapter")
    # PEFT stores the adapter factors and the trained modules in float32.
    assert_near(float64_logits(peft_model, tokens), model(tokens), bound(torch.float32, 2 * 4))
    assert (plain - model(tokens)).abs().max() > 0.01 * plain.abs().max()

    reloaded = load_float64(base)
    load_peft_adapter(reloaded, tmp_path / "adapter")
    assert torch.equal(reloaded(tokens), model(tokens))
    assert lora_state(reloaded).keys() == lora_state(model).keys()
    resumed = adapted_model(base, change)
    check_same_adapters(resumed, tmp_path / "adapter")
    load_same_adapters(resumed, tmp_path / "adapter")
    assert torch.equal(resumed(tokens), model(tokens))


def write_peft_adapter(base: Path, folder: Path, **settings: Any) -> Any:
    """Write an adapter with PEFT, with random trained weights; return PEFT's adapted model."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    peft_model: Any = get_peft_model(load_transformers(base), config).eval()
    torch.manual_seed(5)
    for name, parameter in peft_model.named_parameters():
        if "modules_to_save" in name or "lora_" in name:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    peft_model.save_pretrained(str(folder))
    return peft_model


PEFT_SETTINGS: dict[str, dict[str, Any]] = {
    "adapters": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "modules": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "adapted table": {"target_modules": ["embed_tokens"]},
    "adapted head": {"target_modules": ["lm_head"]},
    "trained table": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "trained head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "adapters, tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "modules, tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
}


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("family", ["Llama", "Llama tied"])
@pytest.mark.parametrize("settings", PEFT_SETTINGS.values(), ids=PEFT_SETTINGS)
@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`:UserWarning")
def test_peft_adapters_are_loaded_and_merged(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    base = write_family_base(family, tmp_path / "base")
    peft_model = write_peft_adapter(base, tmp_path / "adapter", **settings)
    tokens = random_tokens(2, 9)
    expected = float64_logits(peft_model, tokens, copied=False)
    model = load_float64(base)
    load_peft_adapter(model, tmp_path / "adapter")
    assert_near(model(tokens), expected, FLOAT64)

    convert(tmp_path / "adapter", tmp_path / "merged", base=base)
    merged = load_float64(tmp_path / "merged")
    # Merged weights are rounded to float32 in each layer's products, in the embedding and in the head.
    assert_near(merged(tokens), expected, bound(torch.float32, 2 * 8 + 2))
    assert_near(
        load_transformers(tmp_path / "merged").double()(tokens).logits,
        merged(tokens),
        bound(torch.float32, 64),
    )
    stays_tied = family != "Llama" and settings.get("ensure_weight_tying", False)
    assert merged.architecture.tied_embeddings is stays_tied
    assert model.architecture.tied_embeddings is stays_tied
    if family != "Llama" and not stays_tied:
        other = load_float64(base)
        add_lora(other, ["q_proj"], rank=4, alpha=6.0)
        with pytest.raises(ValueError, match=r"changes the embedding table and the output head differently"):
            check_same_adapters(other, tmp_path / "adapter")


def test_error_for_a_resized_vocabulary_explains_resizing_the_base(tmp_path: Path) -> None:
    base = write_family_base("Llama", tmp_path / "base")
    save_peft_adapter(adapted_model(base, CHANGES["modules"]), tmp_path / "adapter", base_model=str(base))
    file = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if "embed_tokens" in name or "lm_head" in name]:
        tensors[name] = torch.cat([tensors[name], tensors[name][:2]])
    save_file(tensors, file)
    message = (
        r"lm_head.weight has shape \[302, 32\]; expected shape \[300, 32\]; the adapter's vocabulary was resized:"
        r" resize the base too"
    )
    with pytest.raises(ValueError, match=message):
        load_peft_adapter(load_float64(base), tmp_path / "adapter")


def test_resuming_with_different_trained_modules_is_rejected(tmp_path: Path) -> None:
    base = write_family_base("Llama", tmp_path / "base")
    save_peft_adapter(adapted_model(base, CHANGES["modules"]), tmp_path / "adapter", base_model=str(base))
    model = adapted_model(base, {"targets": ["down_proj"], "modules_to_save": ["embed_tokens"]})
    message = (
        r"lora.modules_to_save: .* trains different modules in full: lm_head.weight is only in the adapter"
    )
    with pytest.raises(ValueError, match=message):
        check_same_adapters(model, tmp_path / "adapter")


def test_training_only_part_of_a_fused_tensor_in_full_is_rejected(tmp_path: Path) -> None:
    model = load_float64(write_base("Phi3", tmp_path / "base"))
    add_lora(model, ["down_proj"], rank=3, alpha=5.0, modules_to_save=["q_proj"])
    message = (
        r"phi3 checkpoints store .*q_proj.weight.* as one tensor, model.layers.0.self_attn.qkv_proj.weight,"
        r" but .*k_proj"
    )
    with pytest.raises(ValueError, match=message):
        check_peft_adapter(model)


def test_saved_module_names_are_unambiguous(tmp_path: Path) -> None:
    base = write_family_base("Llama", tmp_path / "base")
    save_peft_adapter(adapted_model(base, CHANGES["modules"]), tmp_path / "adapter", base_model=str(base))
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["modules_to_save"] == ["lm_head", "model.embed_tokens", "model.norm"]
