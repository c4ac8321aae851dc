"""The two layouts of query and key weights for rotary embeddings: interleaved pairs and halves."""

from torch import Tensor


def deinterleave(weight: Tensor, head_dim: int) -> Tensor:
    """Convert the weight of q_proj or k_proj `[h * head_dim, in]` from the layout of Meta and GGUF to Hugging Face's.

    Meta and GGUF interleave the two channels that a rotary angle rotates. Hugging Face's layout, which our models use,
    has the first channels of all pairs, then the second channels.
    """
    pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])  # [h, head_dim / 2, 2, in]
    return pairs.transpose(1, 2).reshape(weight.shape)
