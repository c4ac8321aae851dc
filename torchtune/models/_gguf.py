"""GGUF files to Hugging Face folders."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchtune.models._folders import written_whole
from torchtune.models._gguf_file import GGUFFile, read_gguf
from torchtune.models._gguf_tokenizer import gguf_tokenizer
from torchtune.models._hf_folder import write_json, write_model
from torchtune.modules import Architecture, Decoder

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

_OUTSIDE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""GGUF's names of our modules; inside a layer they begin with `blk.<number>.`."""

_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "eot": "eot"}
"""GGUF's names of special tokens, in `tokenizer.ggml.<name>_token_id`."""


def convert_gguf(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> None:
    """Turn a GGUF file of a Llama into a Hugging Face folder.

    The folder holds config.json, generation_config.json, tokenizer.json, tokenizer_config.json with the
    chat template, and model.safetensors in bfloat16, whatever the file's own precision.

    Args:
        source: A GGUF file with a byte-level BPE tokenizer; quantised ones are taken as they are.
        folder: Written beside and renamed once complete.
        progress: Called after each tensor with the number done and the number of all.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: the folder has something in it.
        OSError: there is no room for the folder.
        ValueError: the file is damaged, cut short, or of a model or tokenizer that is not supported.
    """
    file = read_gguf(source)
    try:
        with torch.device("meta"):
            model = Decoder(_architecture(file))
        tokenizer = gguf_tokenizer(file.metadata)
        tokenizer_config = _tokenizer_config(file.metadata)
        special_ids = _special_ids(file.metadata)
    except KeyError as error:
        raise ValueError(f"{file.path} has no {error.args[0]!r} in its metadata") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{file.path} cannot be converted: {error}") from error
    with written_whole(folder) as partial:
        model.load_state_dict(_weights(file, model, progress), assign=True)
        (partial / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        write_json(partial / "tokenizer_config.json", tokenizer_config)
        write_json(partial / "generation_config.json", special_ids)
        write_model(model, partial, special_ids)


def _architecture(file: GGUFFile) -> Architecture:
    about = {key.removeprefix("llama."): value for key, value in file.metadata.items()}
    family = about["general.architecture"]
    if family != "llama":
        raise ValueError(f"its architecture is {family!r}, only 'llama' is supported")
    if about.get("rope.scaling.type", "none") != "none" or about.get("expert_count", 0):
        raise ValueError("scaled rotary embeddings and mixtures of experts are not supported")
    if about["block_count"] > len(file.tensors):
        raise ValueError(f"it speaks of {about['block_count']} layers and has {len(file.tensors)} tensors")
    embed_dim, heads = about["embedding_length"], about["attention.head_count"]
    return Architecture(
        family=family,
        vocab_size=len(about["tokenizer.ggml.tokens"]),
        num_layers=about["block_count"],
        embed_dim=embed_dim,
        num_heads=heads,
        num_kv_heads=about.get("attention.head_count_kv", heads),
        head_dim=about.get("attention.key_length", embed_dim // heads),
        ffn_dim=about["feed_forward_length"],
        max_seq_len=about["context_length"],
        rope_base=about.get("rope.freq_base", 10_000.0),
        # The file holds a float32; its shortest spelling is the number that was meant (1e-5).
        norm_eps=float(str(np.float32(about["attention.layer_norm_rms_epsilon"]))),
        tied_embeddings="output.weight" not in file.tensors,
    )


def _weights(file: GGUFFile, model: Decoder, progress: Progress | None) -> dict[str, Tensor]:
    """Read all weights, under our names and in bfloat16."""
    expected = {_gguf_name(name): (name, list(p.shape)) for name, p in model.state_dict().items()}
    missing, unknown = expected.keys() - file.tensors.keys(), file.tensors.keys() - expected.keys()
    if missing or unknown:
        names = ", ".join(sorted(missing or unknown)[:3])
        what = "lacks" if missing else "has tensors that a Llama has not:"
        raise ValueError(f"{file.path} {what} {names}")
    state = {}
    for done, (theirs, (ours, shape)) in enumerate(expected.items(), start=1):
        found = list(file.tensors[theirs].shape)
        if found != shape:
            raise ValueError(
                f"{file.path} cannot be converted: {theirs} is {found}, its metadata make it {shape}"
            )
        weight = torch.from_numpy(file.read(theirs))
        if ours.endswith(("q_proj.weight", "k_proj.weight")):
            weight = _halves_apart(weight, model.architecture.head_dim)
        state[ours] = weight.bfloat16()
        if progress is not None:
            progress(done, len(expected))
    return state


def _halves_apart(weight: Tensor, head_dim: int) -> Tensor:
    """Undo GGUF's order of the rows of q_proj and k_proj `[h * head_dim, in]`.

    It puts the two numbers that a rotary angle turns beside each other; Hugging Face and we have the
    first of all pairs, then the second of all.
    """
    pairs = weight.view(-1, head_dim // 2, 2, weight.shape[1])  # [h, head_dim / 2, 2, in]
    return pairs.transpose(1, 2).reshape(weight.shape)


def _gguf_name(name: str) -> str:
    """Name a decoder's parameter as GGUF does."""
    path = name.removesuffix(".weight")
    if path in _OUTSIDE:
        return f"{_OUTSIDE[path]}.weight"
    _, number, module = path.split(".", 2)
    return f"blk.{number}.{_INSIDE[module]}.weight"


def _special_tokens(metadata: dict[str, Any]) -> dict[str, int]:
    """Find the ids of the special tokens that the file names."""
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}
    if ids["eos"] is None:
        raise ValueError("it names no end-of-sequence token")
    n = len(metadata["tokenizer.ggml.tokens"])
    for name, i in ids.items():
        if i is not None and not 0 <= i < n:
            raise ValueError(f"its {name} token is number {i} of {n}, counted from 0")
    return {name: i for name, i in ids.items() if i is not None}


def _special_ids(metadata: dict[str, Any]) -> dict[str, int | list[int]]:
    """Say where texts begin and end as config.json and generation_config.json do."""
    ids = _special_tokens(metadata)
    ends = sorted({ids["eos"], ids.get("eot", ids["eos"])})
    begin_and_pad = {f"{name}_token_id": ids[name] for name in ("bos", "pad") if name in ids}
    return {**begin_and_pad, "eos_token_id": ends if len(ends) > 1 else ends[0]}


def _tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    tokens, ids = metadata["tokenizer.ggml.tokens"], _special_tokens(metadata)
    template = metadata.get("tokenizer.chat_template")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": tokens[i] for name, i in ids.items() if name != "eot"},
        "add_bos_token": metadata.get("tokenizer.ggml.add_bos_token", False),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
        **({} if template is None else {"chat_template": template}),
    }
