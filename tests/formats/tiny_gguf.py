"""A tiny GGUF file, written with the `gguf` package."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize
from torch import Tensor

from tests.models.tiny import SPECIAL, TEMPLATE, tiny_smollm2, tiny_tokenizer

NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}

KINDS = {"attn_q": "Q8_0", "attn_output": "F16", "ffn_up": "Q4_1", "ffn_down": "BF16", "token_embd": "Q8_0"}
"""The storage types of tensors; all others are F32."""


def write_gguf(path: Path, *, tied_embeddings: bool = True, **changes: Any) -> Path:
    """Write tiny_smollm2 and tiny_tokenizer as llama.cpp's converter would.

    Args:
        path: The file to write.
        tied_embeddings: Whether the output head shares the embedding table.
        changes: Metadata values that replace the defaults, by the name of the writer's `add_` method; None omits
            the key.
    """
    model = tiny_smollm2(tied_embeddings=tied_embeddings)
    writer = GGUFWriter(path, arch="llama")
    a = SimpleNamespace(**model.architecture.flat())
    tokenizer = tiny_tokenizer()
    model_json = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model_json["vocab"], key=model_json["vocab"].get)
    metadata: dict[str, Any] = {
        "block_count": a.num_layers,
        "context_length": a.max_seq_len,
        "embedding_length": a.embed_dim,
        "feed_forward_length": a.ffn_dim,
        "head_count": a.num_heads,
        "head_count_kv": a.num_kv_heads,
        "rope_freq_base": a.rope_base,
        "layer_norm_rms_eps": a.norm_eps,
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "smollm",
        "token_list": tokens,
        "token_types": [TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token in tokens],
        "token_merges": [" ".join(pair) for pair in model_json["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "chat_template": TEMPLATE,
    }
    for key, value in {**metadata, **changes}.items():
        if value is not None:
            getattr(writer, f"add_{key}")(value)
    for name, weight in model.state_dict().items():
        add_tensor(writer, name, weight, a.head_dim)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tensor(writer: GGUFWriter, name: str, weight: Tensor, head_dim: int) -> None:
    """Add one tensor as llama.cpp's converter would: in q and k, the two halves of each head are interleaved."""
    parts = name.split(".")
    name = NAMES[parts[-2]]
    array = weight.float().numpy()
    if name in {"attn_q", "attn_k"}:
        heads = array.reshape(-1, head_dim, array.shape[1])
        rows = [row for i in range(head_dim // 2) for row in (i, i + head_dim // 2)]
        array = np.ascontiguousarray(heads[:, rows]).reshape(array.shape)
    kind = GGMLQuantizationType[KINDS.get(name, "F32")]
    prefix = f"blk.{parts[1]}." if parts[0] == "layers" else ""
    writer.add_tensor(f"{prefix}{name}.weight", quantize(array, kind), raw_dtype=kind)
