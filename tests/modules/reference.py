"""A reference decoder in NumPy and float64 that computes one token and one head at a time."""

from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from torchtune.modules import Architecture, Decoder

Array = npt.NDArray[np.float64]

TINY = Architecture.from_values(
    vocab_size=29,
    num_layers=2,
    embed_dim=12,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    ffn_dim=20,
    max_seq_len=16,
    rope_base=100.0,
    norm_eps=1e-3,
    tied_embeddings=False,
)
"""A small architecture; all sizes differ, and constants are large enough to affect the result."""


def reference_logits(model: Decoder, tokens: list[int]) -> Array:
    """Compute the logits `[s, v]` of one sequence from the formulas of the papers."""
    a = SimpleNamespace(**model.architecture.flat())
    weights = {name: t.detach().double().numpy() for name, t in model.state_dict().items()}

    def norm(x: Array, name: str) -> Array:
        return np.asarray(weights[f"{name}.weight"] * x / np.sqrt(np.mean(x**2) + a.norm_eps))

    def rotate(x: Array, position: int) -> Array:
        half = a.head_dim // 2
        pairs = x[:half] + 1j * x[half:]
        rotated = pairs * np.exp(1j * position / a.rope_base ** (np.arange(half) / half))
        return np.concatenate([rotated.real, rotated.imag])

    def attention(xs: list[Array], prefix: str) -> list[Array]:
        q, k, v = (
            [(weights[f"{prefix}.{name}_proj.weight"] @ x).reshape(-1, a.head_dim) for x in xs]
            for name in "qkv"
        )
        outputs = []
        for i in range(len(xs)):
            heads = []
            for h in range(a.num_heads):
                g = h * a.num_kv_heads // a.num_heads  # the key-value head of this query head
                scores = np.array([rotate(q[i][h], i) @ rotate(k[j][g], j) for j in range(i + 1)])
                exp_scores = np.exp(scores / np.sqrt(a.head_dim))
                heads.append(sum(s * v[j][g] for j, s in enumerate(exp_scores)) / exp_scores.sum())
            outputs.append(weights[f"{prefix}.o_proj.weight"] @ np.concatenate(heads))
        return outputs

    def feed_forward(x: Array, prefix: str) -> Array:
        gate, up = weights[f"{prefix}.gate_proj.weight"] @ x, weights[f"{prefix}.up_proj.weight"] @ x
        return np.asarray(weights[f"{prefix}.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * up))

    xs = [weights["embed_tokens.weight"][token] for token in tokens]
    for i in range(a.num_layers):
        layer = f"layers.{i}"
        attended = attention([norm(x, f"{layer}.input_layernorm") for x in xs], f"{layer}.self_attn")
        xs = [x + y for x, y in zip(xs, attended, strict=True)]
        xs = [x + feed_forward(norm(x, f"{layer}.post_attention_layernorm"), f"{layer}.mlp") for x in xs]
    head = weights["embed_tokens.weight" if a.tied_embeddings else "lm_head.weight"]
    return np.array([head @ norm(x, "norm") for x in xs])
