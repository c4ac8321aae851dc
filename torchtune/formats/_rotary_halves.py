"""The two orders in which checkpoints hold what rotary embeddings turn."""

from torch import Tensor


def halves_apart(weight: Tensor, head_dim: int) -> Tensor:
    """Undo Meta's and GGUF's order of the rows of q_proj and k_proj `[h * head_dim, in]`.

    They put the two numbers that a rotary angle turns beside each other; Hugging Face and we have the
    first of all pairs, then the second of all.
    """
    pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])  # [h, head_dim / 2, 2, in]
    return pairs.transpose(1, 2).reshape(weight.shape)
