"""FLOPs of a training step, and the peak throughput of a device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchtune.data import Batch
from torchtune.modules import Decoder, active_fractions, hardware_of
from torchtune.training._published_peaks import published_peak


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """Return the published peak throughput of a device (FLOP/s), or None if unknown.

    Args:
        device: The device of this rank.
        dtype: The compute precision, a key of `DTYPES`.
    """
    return published_peak(hardware_of(device).name, dtype)


def tf32_peak_flops(device: torch.device) -> float | None:
    """Return the published peak throughput of TF32 products (FLOP/s), or None if unknown.

    NVIDIA's data sheets give half of the peak of bf16 for every GPU with TF32.
    """
    bf16_peak = peak_flops(device, "bf16")
    return None if bf16_peak is None else bf16_peak / 2


def step_flops(model: Decoder) -> Callable[[Sequence[Batch]], float]:
    """Return a function that counts the FLOPs of the forward and backward passes over batches.

    Each element of a weight matrix requires two FLOPs per token in the forward pass, two for the gradient of the input
    and, if it is trained, two for its own gradient. The output head is counted at every token; the embedding is not
    counted. Attention requires four FLOPs per query-key pair and head channel in the forward pass and eight in the
    backward pass; only pairs that the mask allows are counted. Padding and recomputation are not counted. These are
    model FLOPs as in PaLM (arXiv 2204.02311, appendix B), except that PaLM ignores the mask.

    Args:
        model: The model, with `requires_grad` set as in training. Weights that only some tokens use, such as experts,
            are counted for that fraction of tokens (`active_fractions`).
    """
    architecture = model.architecture
    head = model.head_weight
    fractions = active_fractions(model)
    named = model.named_parameters()
    matrices: list[tuple[Tensor, float]] = [(head, 1.0)]
    matrices += [(p, fractions[n]) for n, p in named if p.dim() >= 2 and "embed" not in n and p is not head]
    n_weights = sum(round(p.numel() * fraction) for p, fraction in matrices)
    n_trained = sum(round(p.numel() * fraction) for p, fraction in matrices if p.requires_grad)
    width = architecture.attention.query_width
    flops_per_token = 4 * n_weights + 2 * n_trained
    windows = [architecture.attention.window_of(i) for i in range(architecture.num_layers)]
    layers_per_window = {window: windows.count(window) for window in set(windows)}

    def count(batches: Sequence[Batch]) -> float:
        lengths = [length for batch in batches if not batch.is_filler for length in batch.lengths]
        n_pairs = sum(
            n * pairs(length, window) for window, n in layers_per_window.items() for length in lengths
        )
        return flops_per_token * sum(lengths) + 3 * 4 * n_pairs * width

    return count


def pairs(length: int, window: int | None) -> int:
    """Count the query-key pairs that a causal mask or a sliding window allows in a sequence."""
    if window is None or length <= window:
        return length * (length + 1) // 2
    return window * (window + 1) // 2 + (length - window) * window
