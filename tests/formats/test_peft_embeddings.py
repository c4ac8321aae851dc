"""Adapted and fully trained embeddings and output heads go to PEFT and come back, tied or not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.formats.test_peft_adapter import base_of, logits_of, ours_of, theirs_of
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
    # PEFT asks transformers by an attribute that transformers 5.23 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # It writes the base's embeddings next to their adapters, and says so; and that merging tied ones may fail.
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


def folder_of(family: str, folder: Path) -> Path:
    """Write a small model, whose head is its table unless it is plain Llama's."""
    return base_of(family.partition(" ")[0], folder, tie_word_embeddings=family != "Llama")


def adapted_model(base: Path, change: dict[str, Any]) -> Decoder:
    """Adapt a folder's model, whose head is its table unless it is Llama's, and change what is trained."""
    model = ours_of(base)
    if model.architecture.tied_embeddings:
        change = {key: [name for name in names if name != "lm_head"] for key, names in change.items()}
    add_lora(model, **change, rank=3, alpha=5.0)
    randomize_adapters(model, std=0.1)
    return model


@families
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_peft_gets_our_logits(tmp_path: Path, family: str, change: dict[str, Any]) -> None:
    from peft import PeftModel

    base = folder_of(family, tmp_path / "base")
    model, tokens = adapted_model(base, change), random_tokens(2, 9)
    plain = ours_of(base)(tokens)
    check_peft_adapter(model)
    save_peft_adapter(model, tmp_path / "adapter", base_model=str(base))
    theirs = PeftModel.from_pretrained(theirs_of(base), tmp_path / "adapter")
    # PEFT holds the factors of the adapters, and the modules, in float32.
    assert_near(logits_of(theirs, tokens), model(tokens), bound(torch.float32, 2 * 4))
    assert (plain - model(tokens)).abs().max() > 0.01 * plain.abs().max()

    again = ours_of(base)
    load_peft_adapter(again, tmp_path / "adapter")
    assert torch.equal(again(tokens), model(tokens))
    assert lora_state(again).keys() == lora_state(model).keys()
    same = adapted_model(base, change)
    check_same_adapters(same, tmp_path / "adapter")
    load_same_adapters(same, tmp_path / "adapter")
    assert torch.equal(same(tokens), model(tokens))


def pefts_folder(base: Path, folder: Path, **settings: Any) -> Any:
    """Let PEFT write an adapter whose parts are all changed, and return the adapted model."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    theirs: Any = get_peft_model(theirs_of(base), config).eval()
    torch.manual_seed(5)
    for name, parameter in theirs.named_parameters():
        if "modules_to_save" in name or "lora_" in name:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(str(folder))
    return theirs


THEIRS: dict[str, dict[str, Any]] = {
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


@pytest.mark.parametrize("family", ["Llama", "Llama tied"])
@pytest.mark.parametrize("settings", THEIRS.values(), ids=THEIRS)
@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`:UserWarning")
def test_pefts_folders_are_loaded_and_merged(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    base = folder_of(family, tmp_path / "base")
    theirs = pefts_folder(base, tmp_path / "adapter", **settings)
    tokens = random_tokens(2, 9)
    expected = logits_of(theirs, tokens, copied=False)
    model = ours_of(base)
    load_peft_adapter(model, tmp_path / "adapter")
    assert_near(model(tokens), expected, FLOAT64)

    convert(tmp_path / "adapter", tmp_path / "merged", base=base)
    merged = ours_of(tmp_path / "merged")
    # Merged weights are rounded to float32, at each of the products of the two layers, and in embedding and head.
    assert_near(merged(tokens), expected, bound(torch.float32, 2 * 8 + 2))
    assert_near(
        theirs_of(tmp_path / "merged").double()(tokens).logits, merged(tokens), bound(torch.float32, 64)
    )
    stays_tied = family != "Llama" and settings.get("ensure_weight_tying", False)
    assert merged.architecture.tied_embeddings is stays_tied
    assert model.architecture.tied_embeddings is stays_tied
    if family != "Llama" and not stays_tied:
        same = ours_of(base)
        add_lora(same, ["q_proj"], rank=4, alpha=6.0)
        with pytest.raises(ValueError, match=r"changes the embedding table and the output head differently"):
            check_same_adapters(same, tmp_path / "adapter")


def test_an_adapter_of_a_resized_vocabulary_says_how_to_resize_its_base(tmp_path: Path) -> None:
    base = folder_of("Llama", tmp_path / "base")
    save_peft_adapter(adapted_model(base, CHANGES["modules"]), tmp_path / "adapter", base_model=str(base))
    file = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if "embed_tokens" in name or "lm_head" in name]:
        tensors[name] = torch.cat([tensors[name], tensors[name][:2]])
    save_file(tensors, file)
    message = (
        r"lm_head.weight should be \[300, 32\], it is \[302, 32\]; its vocabulary was resized: resize the"
    )
    with pytest.raises(ValueError, match=message):
        load_peft_adapter(ours_of(base), tmp_path / "adapter")


def test_other_modules_than_an_adapters_are_named_before_it_is_trained_further(tmp_path: Path) -> None:
    base = folder_of("Llama", tmp_path / "base")
    save_peft_adapter(adapted_model(base, CHANGES["modules"]), tmp_path / "adapter", base_model=str(base))
    model = adapted_model(base, {"targets": ["down_proj"], "modules_to_save": ["embed_tokens"]})
    message = r"lora.modules_to_save: .* is with other modules: lm_head.weight is one of that folder's alone"
    with pytest.raises(ValueError, match=message):
        check_same_adapters(model, tmp_path / "adapter")


def test_a_part_of_a_checkpoints_tensor_is_not_trained_in_full(tmp_path: Path) -> None:
    model = ours_of(base_of("Phi3", tmp_path / "base"))
    add_lora(model, ["down_proj"], rank=3, alpha=5.0, modules_to_save=["q_proj"])
    message = (
        r"phi3 hold .*q_proj.weight.* as one tensor, model.layers.0.self_attn.qkv_proj.weight, and .*k_proj"
    )
    with pytest.raises(ValueError, match=message):
        check_peft_adapter(model)


def test_modules_are_named_so_that_peft_finds_no_others(tmp_path: Path) -> None:
    base = folder_of("Llama", tmp_path / "base")
    save_peft_adapter(adapted_model(base, CHANGES["modules"]), tmp_path / "adapter", base_model=str(base))
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["modules_to_save"] == ["lm_head", "model.embed_tokens", "model.norm"]
