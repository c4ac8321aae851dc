"""How much arithmetic a training step is, and how much a device can do."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchtune.data import Batch
from torchtune.modules import Decoder, active_shares

_TERA = 1e12

# Dense peaks in FLOP/s of bf16 and fp16 on tensor cores, and of fp32 outside of them, as TF32 is off: NVIDIA's data
# sheets of each card. The first name that is part of what CUDA calls the device counts, so special ones come first.
PEAKS: dict[str, tuple[float, float]] = {
    "B200": (2250 * _TERA, 80 * _TERA),
    "GH200": (989 * _TERA, 67 * _TERA),
    "H200": (989 * _TERA, 67 * _TERA),
    "H100 PCIe": (756 * _TERA, 51 * _TERA),
    "H100 NVL": (835 * _TERA, 60 * _TERA),
    "H100": (989 * _TERA, 67 * _TERA),
    "A100": (312 * _TERA, 19.5 * _TERA),
    "A800": (312 * _TERA, 19.5 * _TERA),
    "A40": (149.7 * _TERA, 37.4 * _TERA),
    "A30": (165 * _TERA, 10.3 * _TERA),
    "A10G": (70 * _TERA, 35 * _TERA),
    "A10": (125 * _TERA, 31.2 * _TERA),
    "L40S": (362 * _TERA, 91.6 * _TERA),
    "L4": (121 * _TERA, 30.3 * _TERA),
}


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """Return what a device can do at best (FLOP/s) as its maker publishes it; None where that is not known.

    Args:
        device: Where the run computes.
        dtype: What it computes in, a key of `DTYPES`.
    """
    if device.type != "cuda":
        return None
    return published_peak(torch.cuda.get_device_name(device), dtype)


def published_peak(name: str, dtype: str) -> float | None:
    """Return the published peak (FLOP/s) of a device by its name, such as "NVIDIA H100 80GB HBM3"; None: not known."""
    for known, (narrow, wide) in PEAKS.items():
        if known in name:
            return {"bf16": narrow, "fp16": narrow, "fp32": wide}.get(dtype)
    return None


def step_flops(model: Decoder) -> Callable[[Sequence[Batch]], float]:
    """Return a function that counts the operations of a forward and a backward pass over batches.

    A multiplication and an addition are two. Each weight of a matrix takes two operations a token forwards, two for
    the gradient of what it reads, and two more for its own gradient if it is trained; the output head is a matrix, at
    every token, and the embedding's table is none. Attention takes four a pair of query and key and a channel of
    its heads, and twice that backwards; only pairs that are seen count. So it is what the plain algorithm would do
    with the useful tokens: what is computed again, or spent on padding, does not count (PaLM, arXiv 2204.02311,
    appendix B, there without a mask).

    Args:
        model: Tells the matrices, which of them are trained, and how many tokens see each (`active_shares`).
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
        lengths = [length for batch in batches for length in batch.lengths]
        seen = sum(n * pairs(length, window) for window, n in kinds.items() for length in lengths)
        return a_token * sum(lengths) + 3 * 4 * seen * width

    return count


def pairs(length: int, window: int | None) -> int:
    """Count the pairs of a query and a key that it sees, in a text of some tokens under a causal mask."""
    if window is None or length <= window:
        return length * (length + 1) // 2
    return window * (window + 1) // 2 + (length - window) * window
