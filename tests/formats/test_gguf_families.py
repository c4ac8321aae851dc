"""GGUF files of every supported family convert to the original model, and match the model that transformers reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType, TokenType, get_tensor_name_map
from safetensors.torch import load_file
from torch import Tensor

from tests.models.test_families import FAMILIES, LLAMA3, SMALL
from tests.models.tiny import SPECIAL, tiny_tokenizer
from tests.tolerance import assert_near, bound
from torchtune.formats import architecture_from_hf, convert

# Keys of FAMILIES, mapped to the names of the architectures in GGUF.
ARCHITECTURES = {
    "llama2": "llama",
    "llama3_1": "llama",
    "linear": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "olmo2": "olmo2",
    "gpt2": "gpt2",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
}
NOT_READ_BY_TRANSFORMERS = {"olmo2", "gemma", "llama3_1", "linear", "gpt2", "qwen3", "phi3"}
"""Families whose GGUF files transformers cannot read, or reads without rotary scaling (llama3_1, linear), with
an untied head (gpt2), with the default head width (qwen3), or with a padding token outside the vocabulary (phi3)."""


def build_model(family: str) -> Any:
    """Build a transformers model with the vocabulary of the tiny tokenizer."""
    import transformers

    name, changes = FAMILIES[family]
    settings = {**(changes if name == "GPT2" else {**SMALL, **changes}), "vocab_size": 300}
    if family == "llama3_1":  # GGUF does not store this value, which is the same in all published models
        settings["rope_parameters"] = {**LLAMA3, "original_max_position_embeddings": 8192}
    if name.startswith("Gemma") and "query_pre_attn_scalar" in settings:
        settings["query_pre_attn_scalar"] = settings["head_dim"]
    settings = {key: value for key, value in settings.items() if value is not ...}
    torch.manual_seed(0)
    auto: Any = transformers.AutoModelForCausalLM  # only partly typed
    model = auto.from_config(getattr(transformers, f"{name}Config")(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def write_gguf(path: Path, family: str, model: Any) -> None:
    """Write a model as llama.cpp's converter would."""
    arch, config = ARCHITECTURES[family], model.config
    writer = GGUFWriter(path, arch=arch)
    vocabulary = json.loads(tiny_tokenizer().to_str())["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    heads = config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.n_inner if arch == "gpt2" else config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", heads))
    writer.add_key_length(getattr(config, "head_dim", None) or config.hidden_size // heads)
    if arch == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        rope = config.rope_parameters
        writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if family == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if t in SPECIAL else TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, array in gguf_tensors(family, model).items():
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_tensors(family: str, model: Any) -> dict[str, Any]:
    """Return the tensors with the names and layouts of llama.cpp's converter."""
    arch, config = ARCHITECTURES[family], model.config
    names = get_tensor_name_map(MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    arrays: dict[Any, Any] = {}
    for name, weight in model_weights(model).items():
        array = weight.numpy()
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            halves = array.reshape(-1, 2, config.head_dim // 2, array.shape[1])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        if arch == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            array = array.T
        arrays[names.get_name(name, try_suffixes=(".weight", ".bias"))] = array
    if family == "llama3_1":
        arrays["rope_freqs.weight"] = rope_freqs(config)
    return arrays


def rope_freqs(config: Any) -> Any:
    """Return the divisors of Llama 3.1's rotary frequencies that llama.cpp stores, computed with transformers."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    plain = config.rope_parameters["rope_theta"] ** (-torch.arange(0, 8, 2) / 8)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    return (plain / scaled).numpy()


def model_weights(model: Any) -> dict[str, Tensor]:
    weights = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    return weights


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_file_converts_to_the_original_model(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = build_model(family)
    write_gguf(tmp_path / "tiny.gguf", family, model)
    convert(tmp_path / "tiny.gguf", tmp_path / "converted")
    weights = load_file(tmp_path / "converted/model.safetensors")
    # GGUF stores Gemma's norms plus one in float32; undoing this may change the last of bfloat16's 8 bits.
    rtol, atol = (2**-7, bound(torch.float32, 2)) if family.startswith("gemma") else (0, 0)
    expected = {name: weight.bfloat16() for name, weight in model_weights(model).items()}
    torch.testing.assert_close(weights, expected, rtol=rtol, atol=atol)
    model.save_pretrained(tmp_path / "original")
    configs = [
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("converted", "original")
    ]
    assert architecture_from_hf(configs[0]) == architecture_from_hf(configs[1])
    if family not in NOT_READ_BY_TRANSFORMERS:
        transformers_model = AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file="tiny.gguf", dtype=torch.float32
        )
        assert_near(model_weights(transformers_model), model_weights(model), bound(torch.float32, 2))
