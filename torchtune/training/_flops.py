"""FLOPs of a training step, and the peak of a device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchtune.data import Batch
from torchtune.modules import Decoder, active_shares
from torchtune.runs import published_peak


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """Return the published peak of a device (FLOP/s); None if it is not known.

    Args:
        device: The device of this rank.
        dtype: The precision of computing, a key of `DTYPES`.
    """
    if device.type != "cuda":
        return None
    return published_peak(torch.cuda.get_device_name(device), dtype)


def step_flops(model: Decoder) -> Callable[[Sequence[Batch]], float]:
    """Return a function that counts the FLOPs of a forward and a backward pass over batches.

    Each weight of a matrix takes two FLOPs per token in the forward pass, two for the gradient of its input, and two
    more for its gradient if it is trained; the output head counts at every token, the embedding does not. Attention
    takes four per pair of query and key and per channel of its heads, and twice that in the backward pass; only pairs
    that the mask admits count. This is what the plain algorithm needs for the useful tokens: recomputation and padding
    do not count (PaLM, arXiv 2204.02311, appendix B, which ignores the mask).

    Args:
        model: Its matrices, which of them are trained, and the share of tokens that use each (`active_shares`).
    """
    architecture = model.architecture
    head = model.head_weight
    shares = active_shares(model)
    named = model.named_parameters()
    matrices: list[tuple[Tensor, float]] = [(head, 1.0)]
    matrices += [(p, shares[n]) for n, p in named if p.dim() >= 2 and "embed" not in n and p is not head]
    every = sum(round(p.numel() * share) for p, share in matrices)
    trained = sum(round(p.numel() * share) for p, share in matrices if p.requires_grad)
    width = architecture.attention.pair_width
    a_token = 4 * every + 2 * trained
    layers = [architecture.attention.window_of(i) for i in range(architecture.num_layers)]
    kinds = {window: layers.count(window) for window in set(layers)}

    def count(batches: Sequence[Batch]) -> float:
        lengths = [length for batch in batches if not batch.is_filler for length in batch.lengths]
        seen = sum(n * pairs(length, window) for window, n in kinds.items() for length in lengths)
        return a_token * sum(lengths) + 3 * 4 * seen * width

    return count


def pairs(length: int, window: int | None) -> int:
    """Count the pairs of query and key that a causal mask, or a sliding window, admits in a sequence."""
    if window is None or length <= window:
        return length * (length + 1) // 2
    return window * (window + 1) // 2 + (length - window) * window
