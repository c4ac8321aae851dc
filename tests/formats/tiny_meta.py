"""Tiny checkpoints in Meta's format for Llama models, and an independent implementation of the model.

Queries and keys are complex numbers, as in Meta's code: a rotary angle rotates each pair of adjacent values.
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sentencepiece import SentencePieceTrainer
from torch import Tensor

from tests.models.tiny import TEXT

State = dict[str, Tensor]

VOCAB = 320
LLAMA2 = {"dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 32, "norm_eps": 1e-5, "vocab_size": -1}
LLAMA2_70B = {**LLAMA2, "n_kv_heads": 2, "ffn_dim_multiplier": 1.3}
CODE_LLAMA = {**{k: v for k, v in LLAMA2.items() if k != "vocab_size"}, "rope_theta": 1_000_000}
LLAMA3 = {**LLAMA2_70B, "vocab_size": VOCAB, "rope_theta": 500_000.0}
LLAMA3_1 = {**LLAMA3, "use_scaled_rope": True}


def hidden_dim(params: dict[str, Any]) -> int:
    """Return the feed-forward width: 8/3 of the embedding width times the multiplier, rounded up to `multiple_of`."""
    hidden = int(params.get("ffn_dim_multiplier", 1.0) * int(8 * params["dim"] / 3))
    multiple: int = params["multiple_of"]
    return math.ceil(hidden / multiple) * multiple


def tiny_state(params: dict[str, Any], *, tied: bool = False, vocab_size: int = VOCAB) -> State:
    """Return random float64 weights under Meta's names."""
    torch.manual_seed(0)
    dim, hidden = params["dim"], hidden_dim(params)
    kv_dim = dim // params["n_heads"] * params.get("n_kv_heads", params["n_heads"])
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocab_size, dim)}
    for i in range(params["n_layers"]):
        for name, shape in {
            "attention.wq": (dim, dim),
            "attention.wk": (kv_dim, dim),
            "attention.wv": (kv_dim, dim),
            "attention.wo": (dim, dim),
            "feed_forward.w1": (hidden, dim),
            "feed_forward.w2": (dim, hidden),
            "feed_forward.w3": (hidden, dim),
            "attention_norm": (dim,),
            "ffn_norm": (dim,),
        }.items():
            shapes[f"layers.{i}.{name}.weight"] = shape
    shapes |= {"norm.weight": (dim,), "output.weight": (vocab_size, dim)}
    state = {name: torch.randn(shape, dtype=torch.float64) * 0.3 for name, shape in shapes.items()}
    if tied:
        state["output.weight"] = state["tok_embeddings.weight"]
    return state


def reference_logits(state: State, params: dict[str, Any], tokens: Tensor, factor: float = 8.0) -> Tensor:
    """Compute the logits `[b, s, v]`.

    Args:
        state: The weights, under Meta's names.
        params: The contents of params.json.
        tokens: `[b, s]`.
        factor: The divisor of low rotary frequencies, if they are scaled.
    """
    rotations = _rotations(params, tokens.shape[1], factor)  # [s, head_dim / 2]
    x = state["tok_embeddings.weight"][tokens]  # [b, s, d]
    for i in range(params["n_layers"]):
        w = {k.removeprefix(f"layers.{i}."): v for k, v in state.items() if k.startswith(f"layers.{i}.")}
        y = _norm(x, w["attention_norm.weight"], params)
        x = x + _attention(y, w, params, rotations)
        y = _norm(x, w["ffn_norm.weight"], params)
        gate = F.silu(y @ w["feed_forward.w1.weight"].T)
        x = x + (gate * (y @ w["feed_forward.w3.weight"].T)) @ w["feed_forward.w2.weight"].T
    return _norm(x, state["norm.weight"], params) @ state["output.weight"].T


def _norm(x: Tensor, weight: Tensor, params: dict[str, Any]) -> Tensor:
    eps: float = params["norm_eps"]
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def _rotations(params: dict[str, Any], length: int, factor: float) -> Tensor:
    head_dim = params["dim"] // params["n_heads"]
    frequencies = [params.get("rope_theta", 10_000.0) ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    if params.get("use_scaled_rope"):
        frequencies = [_scale_frequency(f, factor) for f in frequencies]
    angles = torch.outer(torch.arange(length).double(), torch.tensor(frequencies, dtype=torch.float64))
    return torch.exp(1j * angles)


def _scale_frequency(frequency: float, factor: float) -> float:
    n_rotations = 8192 * frequency / (2 * math.pi)  # rotations over the pre-training context
    if n_rotations < 1:
        return frequency / factor
    if n_rotations > 4:
        return frequency
    unscaled_fraction = (n_rotations - 1) / 3
    return (1 - unscaled_fraction) * frequency / factor + unscaled_fraction * frequency


def _attention(x: Tensor, w: State, params: dict[str, Any], rotations: Tensor) -> Tensor:
    b, s, d = x.shape
    heads = params["n_heads"]
    q, k, v = (
        (x @ w[f"attention.w{part}.weight"].T).view(b, s, -1, d // heads) for part in "qkv"
    )  # [b, s, h, head_dim]
    q, k = (
        torch.view_as_real(
            torch.view_as_complex(t.reshape(*t.shape[:3], -1, 2)) * rotations[:, None]
        ).flatten(3)
        for t in (q, k)
    )
    k, v = (t.repeat_interleave(heads // t.shape[2], dim=2) for t in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(d // heads)
    scores = scores.masked_fill(torch.ones(s, s).triu(1).bool(), -torch.inf)
    mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(b, s, d)
    return mixed @ w["attention.wo.weight"].T


def split_state(state: State, n: int, *, embedding_split_dim: int, kv_heads: int) -> list[State]:
    """Split a model into shards for n GPUs, as Meta does for tensor parallelism.

    Args:
        state: The weights of the full model.
        n: The number of shards.
        embedding_split_dim: The dimension along which the embeddings are split: 1 in Llama 2, 0 in Llama 3.
        kv_heads: The model's number of key-value heads. If it is less than `n`, adjacent shards share heads.
    """
    shards: list[State] = [{} for _ in range(n)]
    for name, tensor in state.items():
        if "norm" in name:
            pieces = [tensor] * n
        elif name == "tok_embeddings.weight":
            pieces = list(tensor.chunk(n, embedding_split_dim))
        elif name.endswith(("wo.weight", "w2.weight")):
            pieces = list(tensor.chunk(n, 1))
        elif name.endswith(("wk.weight", "wv.weight")) and kv_heads < n:
            pieces = [piece for piece in tensor.chunk(kv_heads, 0) for _ in range(n // kv_heads)]
        else:
            pieces = list(tensor.chunk(n, 0))
        for shard, piece in zip(shards, pieces, strict=True):
            shard[name] = piece.clone() if n > 1 else piece
    return shards


def write_meta(
    folder: Path,
    params: dict[str, Any],
    state: State | None = None,
    n: int = 1,
    *,
    embedding_split_dim: int = 1,
    tokenizer: bool = True,
) -> Path:
    """Write a folder as Meta does, including Llama 2's table of rotary frequencies; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    state = tiny_state(params) if state is None else state
    kv_heads = params.get("n_kv_heads") or params["n_heads"] or n
    shards = split_state(state, n, embedding_split_dim=embedding_split_dim, kv_heads=kv_heads)
    for i, shard in enumerate(shards):
        torch.save({**shard, "rope.freqs": torch.ones(8)}, folder / f"consolidated.{i:02}.pth")
    (folder / "params.json").write_text(json.dumps(params))
    if tokenizer:
        (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    return folder


def sentencepiece_model() -> bytes:
    """Train a model of 300 pieces with Llama 2's settings: BPE, byte fallback, split digits, spaces unchanged."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 10),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return model.getvalue()
