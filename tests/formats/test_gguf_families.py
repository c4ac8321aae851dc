"""GGUF files of every family that llama.cpp has become the model they were made of, and the one transformers reads."""

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

# The row of FAMILIES, and the architecture's name in GGUF.
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
UNREAD = {"olmo2", "gemma", "llama3_1", "linear", "gpt2", "qwen3", "phi3"}
"""What transformers reads not at all, or otherwise than it was: without scaling (llama3_1, linear), with its head apart
(gpt2), with heads of the usual width (qwen3), or with a padding token that this vocabulary has not (phi3)."""


def tiny(row: str) -> Any:
    """Make a model of transformers whose vocabulary is that of the tiny tokenizer."""
    import transformers

    name, change = FAMILIES[row]
    whole = {**(change if name == "GPT2" else {**SMALL, **change}), "vocab_size": 300}
    if row == "llama3_1":  # what GGUF does not record is the same in all of them
        whole["rope_parameters"] = {**LLAMA3, "original_max_position_embeddings": 8192}
    if name.startswith("Gemma") and "query_pre_attn_scalar" in whole:
        whole["query_pre_attn_scalar"] = whole["head_dim"]
    given = {key: value for key, value in whole.items() if value is not ...}
    torch.manual_seed(0)
    auto: Any = transformers.AutoModelForCausalLM  # half typed
    model = auto.from_config(getattr(transformers, f"{name}Config")(**given))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def write(path: Path, row: str, model: Any) -> None:
    """Write a model as llama.cpp's converter would."""
    arch, config = ARCHITECTURES[row], model.config
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
    if row == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if t in SPECIAL else TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, array in tensors(row, model).items():
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(row: str, model: Any) -> dict[str, Any]:
    """Return the tensors as llama.cpp's converter names and orders them."""
    arch, config = ARCHITECTURES[row], model.config
    names = get_tensor_name_map(MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    found: dict[Any, Any] = {}
    for name, weight in state(model).items():
        array = weight.numpy()
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            halves = array.reshape(-1, 2, config.head_dim // 2, array.shape[1])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        if arch == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            array = array.T
        found[names.get_name(name, try_suffixes=(".weight", ".bias"))] = array
    if row == "llama3_1":
        found["rope_freqs.weight"] = rope_freqs(config)
    return found


def rope_freqs(config: Any) -> Any:
    """Return what llama.cpp divides Llama 3.1's rotary frequencies by, as transformers computes them."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    plain = config.rope_parameters["rope_theta"] ** (-torch.arange(0, 8, 2) / 8)
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    return (plain / stretched).numpy()


def state(model: Any) -> dict[str, Tensor]:
    found = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del found["lm_head.weight"]
    return found


@pytest.mark.parametrize("row", ARCHITECTURES)
def test_file_becomes_the_model_it_was_made_of(row: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny(row)
    write(tmp_path / "tiny.gguf", row, model)
    convert(tmp_path / "tiny.gguf", tmp_path / "ours")
    ours = load_file(tmp_path / "ours/model.safetensors")
    # Gemma's norms go through a sum with one in float32 and back, which may turn the last of bfloat16's 8 bits.
    rtol, atol = (2**-7, bound(torch.float32, 2)) if row.startswith("gemma") else (0, 0)
    expected = {name: weight.bfloat16() for name, weight in state(model).items()}
    torch.testing.assert_close(ours, expected, rtol=rtol, atol=atol)
    model.save_pretrained(tmp_path / "theirs")
    configs = [json.loads((tmp_path / whose / "config.json").read_text()) for whose in ("ours", "theirs")]
    assert architecture_from_hf(configs[0]) == architecture_from_hf(configs[1])
    if row not in UNREAD:
        read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
        assert_near(state(read), state(model), bound(torch.float32, 2))
