"""Adapter folders saved by torchtune or PEFT produce the same logits in both."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.formats.float64 import float64_transformers
from tests.models.tiny import random_tokens, tiny_smollm2, write
from tests.modules.adapters import KINDS, adapt_linear, randomize_adapters
from tests.tolerance import FLOAT64, assert_near, bound
from torchtune.formats import (
    check_peft_adapter,
    convert,
    hf_decoder,
    load_hf_weights,
    load_peft_adapter,
    save_hf_folder,
    save_peft_adapter,
)
from torchtune.modules import AdapterKind, Decoder, adapted_layers, add_lora, has_adapters, lora_state

# PEFT reads an attribute that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": LLAMA_LIKE,
    "Phi3": {**LLAMA_LIKE, "original_max_position_embeddings": 64},  # stores fused weights
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},  # stores transposed weights
}
TARGETS = {
    "Llama": ["q_proj", "v_proj", "down_proj"],
    "Phi3": ["qkv_proj", "gate_up_proj", "down_proj"],
    "GPT2": ["c_attn", "c_proj"],
}
families = pytest.mark.parametrize("family", FAMILIES)


def write_base(family: str, folder: Path, **settings: Any) -> Path:
    """Write a small transformers model; return its folder."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **FAMILIES[family], **settings, vocab_size=300, pad_token_id=0
    )
    build_model: Any = transformers.AutoModelForCausalLM.from_config
    model = build_model(config)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(1.0 if "norm" in name or ".ln_" in name else 0.0, 0.3)
    model.save_pretrained(folder)
    return folder


def load_transformers(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return model.eval()


def load_float64(folder: Path) -> Decoder:
    """Load the model of a folder in float64."""
    model = hf_decoder(str(folder)).double()
    load_hf_weights(model, folder)
    return model


def lora_config(family: str, kind: dict[str, Any], **settings: Any) -> Any:
    """Return the PEFT config that corresponds to `add_lora(**kind)`, with random weights in both factors."""
    from peft import LoraConfig

    return LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=TARGETS[family],
        fan_in_fan_out=family == "GPT2",
        init_lora_weights=False,
        use_rslora=kind.get("rank_stabilized", False),
        use_dora=kind.get("kind") == "dora",
        **settings,
    )


def write_peft_adapter(base: Path, folder: Path, config: Any) -> Any:
    """Write a random adapter with PEFT; return PEFT's adapted model."""
    from peft import get_peft_model

    peft_model: Any = get_peft_model(load_transformers(base), config).eval()
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
        if "magnitude" in name:
            parameter.data.mul_(torch.empty_like(parameter).uniform_(0.7, 1.3))
    peft_model.save_pretrained(str(folder))
    return peft_model


def float64_logits(peft_model: Any, tokens: Tensor, *, copied: bool = True) -> Tensor:
    """Return the logits of PEFT's model, or of a copy, entirely in float64, including rotary frequencies."""
    from transformers import AutoModelForCausalLM

    model = (copy.deepcopy(peft_model) if copied else peft_model).double()
    build_model: Any = AutoModelForCausalLM.from_config
    with float64_transformers():
        constants = dict(build_model(model.config).named_buffers())
        for name, buffer in model.get_base_model().named_buffers():
            buffer.data = constants[name]
        logits: Tensor = model(tokens).logits
    return logits


def adapted_smollm2(targets: str | list[str] = "all-linear") -> Decoder:
    """Build a tiny model with random adapters."""
    model = tiny_smollm2()
    add_lora(model, targets, rank=3, alpha=5.0, dropout=0.1)
    randomize_adapters(model, std=0.1)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write an adapter for q_proj and v_proj."""
    save_peft_adapter(adapted_smollm2(["q_proj", "v_proj"]), tmp_path / "adapter", base_model="the/base")
    return tmp_path / "adapter"


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["layers.1.self_attn.q_proj"]])
def test_peft_computes_the_same_logits_from_a_saved_adapter(tmp_path: Path, targets: str | list[str]) -> None:
    from peft import PeftModel

    model, tokens = adapted_smollm2(targets), random_tokens(2, 9)
    save_hf_folder(tiny_smollm2(), tmp_path / "base")
    save_peft_adapter(model, tmp_path / "adapter", base_model=str(tmp_path / "base"))
    peft_model = PeftModel.from_pretrained(load_transformers(tmp_path / "base"), tmp_path / "adapter")
    assert_near(float64_logits(peft_model, tokens), model(tokens), FLOAT64)
    assert (tiny_smollm2()(tokens) - model(tokens)).abs().max() > 0.01
    assert peft_model.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")
    assert read_config(tmp_path / "adapter")["lora_dropout"] == 0.1


@pytest.mark.quick_cases(3)
@families
@kinds
def test_peft_loads_every_kind_of_adapter(tmp_path: Path, family: str, kind: dict[str, Any]) -> None:
    from peft import PeftModel

    base = write_base(family, tmp_path / "base")
    model, tokens = load_float64(base), random_tokens(2, 9)
    plain = model(tokens)
    add_lora(model, "all-linear", rank=3, alpha=5.0, **kind)
    randomize_adapters(model, std=0.1)
    save_peft_adapter(model, tmp_path / "adapter", base_model=str(base))
    peft_model = PeftModel.from_pretrained(load_transformers(base), tmp_path / "adapter")
    # PEFT stores both factors of the seven adapters in each of the two layers in float32.
    assert_near(float64_logits(peft_model, tokens), model(tokens), bound(torch.float32, 2 * 7 * 2))
    assert (plain - model(tokens)).abs().max() > 0.01 * plain.abs().max()
    reloaded = load_float64(base)
    load_peft_adapter(reloaded, tmp_path / "adapter")
    assert_near(reloaded(tokens), model(tokens), FLOAT64)


PATTERNS: dict[str, dict[str, Any]] = {
    "Llama": {
        "rank_pattern": {"v_proj": 5},
        "alpha_pattern": {"v_proj|q_proj": 7, "layers.1.mlp.down_proj": 2},
    },
    "Phi3": {
        "rank_pattern": {"qkv_proj": 5},
        "alpha_pattern": {"qkv_proj": 7, "layers.1.mlp.gate_up_proj": 2},
    },
    "GPT2": {"rank_pattern": {"attn.c_proj": 5}, "alpha_pattern": {"h.1.attn.c_attn": 2}},
}


@pytest.mark.quick_cases(2)
@families
@kinds
@pytest.mark.parametrize("has_patterns", [False, True])
def test_every_kind_of_peft_adapter_is_loaded_merged_and_saved(
    tmp_path: Path, family: str, kind: dict[str, Any], has_patterns: bool
) -> None:
    base, patterns = write_base(family, tmp_path / "base"), PATTERNS[family] if has_patterns else {}
    peft_model = write_peft_adapter(base, tmp_path / "adapter", lora_config(family, kind, **patterns))
    model, tokens = load_float64(base), random_tokens(2, 9)
    plain = model(tokens)
    load_peft_adapter(model, tmp_path / "adapter")
    assert_near(model(tokens), float64_logits(peft_model, tokens), FLOAT64)
    assert (plain - model(tokens)).abs().max() > 0.01 * plain.abs().max()

    save_peft_adapter(model, tmp_path / "resaved", base_model=str(base))
    resaved = load_file(tmp_path / "resaved/adapter_model.safetensors")
    expected = load_file(tmp_path / "adapter/adapter_model.safetensors")
    torch.testing.assert_close(
        {name: tensor.float() for name, tensor in resaved.items()}, expected, rtol=0, atol=0
    )
    reloaded = load_float64(base)
    load_peft_adapter(reloaded, tmp_path / "resaved")
    assert torch.equal(reloaded(tokens), model(tokens))

    convert(tmp_path / "adapter", tmp_path / "adapter_only", base=base, keep_adapter=True)
    weights = load_file(tmp_path / "adapter_only/adapter_model.safetensors")
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)
    convert(tmp_path / "adapter", tmp_path / "merged", base=base)
    merged = load_file(tmp_path / "merged/model.safetensors")
    merged_by_peft = peft_model.merge_and_unload().state_dict()
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}
    # Products sum over a rank of up to 5, are scaled and added to the weight; DoRA's norms sum over up to 96 values.
    assert_near(merged, {name: merged_by_peft[name] for name in merged}, bound(torch.float32, 96 + 5 + 2))


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_parts_of_a_fused_layer_may_differ_in_rank_and_scale(
    tmp_path: Path, *, rank_stabilized: bool
) -> None:
    from peft import PeftModel

    base = write_base("Phi3", tmp_path / "base")
    model, tokens = load_float64(base).requires_grad_(requires_grad=False), random_tokens(2, 9)
    for i, name in enumerate(
        ["layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj", "layers.1.mlp.up_proj"]
    ):
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        layer = adapt_linear(linear, rank=2 + i, alpha=3.0 + 2 * i, rank_stabilized=rank_stabilized)
        model.set_submodule(name, layer)
    randomize_adapters(model, std=0.1)
    save_peft_adapter(model, tmp_path / "adapter", base_model=str(base))
    peft_model = PeftModel.from_pretrained(load_transformers(base), tmp_path / "adapter")
    # PEFT stores both factors of each adapter in float32.
    assert_near(float64_logits(peft_model, tokens), model(tokens), bound(torch.float32, 3 * 2))


def test_rank_and_alpha_patterns_are_as_short_as_possible(tmp_path: Path) -> None:
    base = write_base("Phi3", tmp_path / "base")
    model = load_float64(base)
    add_lora(model, ["q_proj", "k_proj", "v_proj", "o_proj", "layers.1.mlp.gate_proj"], rank=4, alpha=6.0)
    save_peft_adapter(model, tmp_path / "adapter", base_model=str(base))
    config = read_config(tmp_path / "adapter")
    assert (config["r"], config["lora_alpha"]) == (4, 6.0)
    assert config["rank_pattern"] == {"qkv_proj": 12}
    assert config["alpha_pattern"] == {"qkv_proj": 18.0}
    assert "model.layers.1.mlp.gate_up_proj" in config["target_modules"]


def test_dora_on_part_of_a_fused_layer_is_rejected(tmp_path: Path) -> None:
    model = load_float64(write_base("Phi3", tmp_path / "base"))
    add_lora(model, ["q_proj", "v_proj"], rank=4, alpha=6.0, kind="dora")
    message = (
        r"phi3 checkpoints store q_proj, k_proj, v_proj as one layer, model.layers.0.self_attn.qkv_proj, .* but"
        r" layers.0.self_attn.k_proj would have none; adapt all of q_proj, k_proj, v_proj, or none"
    )
    with pytest.raises(ValueError, match=message):
        check_peft_adapter(model)
    with pytest.raises(ValueError, match=message):
        save_peft_adapter(model, tmp_path / "adapter", base_model=None)


def test_mixed_adapter_kinds_are_rejected(tmp_path: Path) -> None:
    model = tiny_smollm2()
    kinds: list[tuple[str, AdapterKind]] = [
        ("layers.0.mlp.up_proj", "lora"),
        ("layers.1.mlp.up_proj", "dora"),
    ]
    for name, kind in kinds:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        model.set_submodule(name, adapt_linear(linear, kind, rank=2, alpha=4.0))
    with pytest.raises(ValueError, match="can contain only one kind of adapter, but the model has several"):
        save_peft_adapter(model, tmp_path / "adapter", base_model=None)


def test_saved_adapter_loads_bit_for_bit(folder: Path) -> None:
    model, expected = tiny_smollm2(), adapted_smollm2(["q_proj", "v_proj"])
    load_peft_adapter(model, folder)
    torch.testing.assert_close(lora_state(model), lora_state(expected), rtol=0, atol=0)
    assert [adapter.dropout.p for _, _, adapter in adapted_layers(model)] == [0.1] * 4
    assert_near(model.eval()(random_tokens(1, 5)), expected(random_tokens(1, 5)), FLOAT64)


def test_target_modules_are_as_short_as_possible(tmp_path: Path, folder: Path) -> None:
    assert read_config(folder)["target_modules"] == ["q_proj", "v_proj"]
    save_peft_adapter(adapted_smollm2(["layers.1.mlp.up_proj"]), tmp_path / "one", base_model=None)
    assert read_config(tmp_path / "one")["target_modules"] == ["model.layers.1.mlp.up_proj"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only 'LORA' is supported"),
        ({"use_dora": "yes"}, "use_dora is 'yes'; expected true or false"),
        ({"use_rslora": 1}, "use_rslora is 1; expected true or false"),
        ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head'; expected a list of module names"),
        ({"ensure_weight_tying": "yes"}, "ensure_weight_tying is 'yes'; expected true or false"),
        ({"use_qalora": True}, "use_qalora is True; only False is supported"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication is"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights is 'pissa_niter_4', which changes the base weights",
        ),
        ({"r": None}, "r is None; expected a whole number above 0; download it again"),
        ({"r": "3"}, "r is '3'; expected a whole number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan; expected a number above 0"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf; expected a number"),
        ({"lora_alpha": True}, "lora_alpha is True; expected a number"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0; expected a number from 0 to 1"),
        ({"lora_dropout": None}, "lora_dropout is None"),
        (
            {"rank_pattern": ["q_proj"]},
            r"rank_pattern is \['q_proj'\]; expected an object that maps layers to numbers",
        ),
        (
            {"rank_pattern": {"q_proj": 2.5}},
            "rank_pattern of 'q_proj' is 2.5; expected a whole number above 0",
        ),
        ({"alpha_pattern": {"q_proj": "2"}}, "alpha_pattern of 'q_proj' is '2'; expected a number above 0"),
        ({"alpha_pattern": {"(": 2}}, r"alpha_pattern contains an invalid regular expression, '\('"),
        (
            {"base_model_name_or_path": 5},
            "base_model_name_or_path is 5; expected a folder or the name of a model",
        ),
    ],
)
def test_unsupported_and_invalid_settings_are_rejected(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    write(folder, adapter_config__json=json.dumps({**read_config(folder), **change}))
    with pytest.raises(ValueError, match=f"adapter_config.json: {message}"):
        load_peft_adapter(tiny_smollm2(), folder)


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            f"{LAYER}.lora_A.weight",
            torch.zeros(3, 65),
            r"q_proj.lora_A.weight has shape \[3, 65\]; expected shape \[3, 64\]",
        ),
        (f"{LAYER}.lora_B.weight", None, r"q_proj.lora_B.weight is missing; expected shape \[64, 3\]"),
        (
            f"{LAYER}.lora_magnitude_vector",
            torch.zeros(64),
            r"unexpected tensor base_model.*lora_magnitude_vector",
        ),
        (
            "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight",
            torch.zeros(3, 64),
            r"unexpected tensor base_model.model.model.layers.7.mlp.up_proj.lora_A.weight",
        ),
    ],
)
def test_adapter_of_a_different_model_is_rejected(
    folder: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, folder / "adapter_model.safetensors")
    model = tiny_smollm2()
    with pytest.raises(ValueError, match=f"the adapter in .* belongs to a different model.*: .*{message}"):
        load_peft_adapter(model, folder)
    assert not has_adapters(model)


@pytest.mark.parametrize(
    ("tensor", "problem"), [(None, "is missing"), (torch.ones(64, 1), r"has shape \[64, 1\]")]
)
def test_missing_or_wrongly_shaped_dora_magnitude_is_rejected(
    tmp_path: Path, tensor: Tensor | None, problem: str
) -> None:
    model = tiny_smollm2()
    add_lora(model, ["q_proj"], rank=3, alpha=5.0, kind="dora")
    save_peft_adapter(model, tmp_path / "adapter", base_model=None)
    file = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[f"{LAYER}.lora_magnitude_vector"]
    save_file(tensors if tensor is None else {**tensors, f"{LAYER}.lora_magnitude_vector": tensor}, file)
    with pytest.raises(ValueError, match=rf"{LAYER}.lora_magnitude_vector {problem}; expected shape \[64\]"):
        load_peft_adapter(tiny_smollm2(), tmp_path / "adapter")


def test_missing_files_are_reported(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no adapter_model.safetensors in"):
        load_peft_adapter(tiny_smollm2(), folder)
    with pytest.raises(
        FileNotFoundError, match=r"no adapter_config.json in .*; expected a PEFT adapter folder"
    ):
        load_peft_adapter(tiny_smollm2(), folder.parent)
    with pytest.raises(ValueError, match="the model has no LoRA adapters to save"):
        save_peft_adapter(tiny_smollm2(), folder.parent / "new", base_model=None)
