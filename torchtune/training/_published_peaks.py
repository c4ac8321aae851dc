"""Peak throughput of GPUs, as published by their manufacturers."""

import re

from attrs import frozen


@frozen
class Peak:
    """Dense peak of a GPU, in TFLOP/s."""

    half: float
    """Matrix products of float16 or bfloat16 with float32 sums, on tensor or matrix cores, without sparsity."""
    single: float
    """Matrix products of float32. On NVIDIA GPUs, these do not use tensor cores, because TF32 is off."""
    has_bf16: bool = True
    """Whether `half` is also the peak for bfloat16, which GPUs before Ampere do not support."""


PEAKS: dict[str, Peak] = {
    # NVIDIA Blackwell datasheet: GB200 NVL72 and HGX B200, "individual GPU". Blackwell Ultra: GB300 NVL72 and HGX B300,
    # divided by 72 and 8. Their 16-bit figures include sparsity and are halved here.
    "GB300": Peak(2500, 80),
    "GB200": Peak(2500, 80),
    "B300": Peak(2250, 75),
    "B200": Peak(2250, 75),
    # NVIDIA datasheets of H100, H200 and GH200 (figures with sparsity, halved here); H800 and H20 are versions for
    # China.
    "GH200": Peak(989, 67),
    "H200": Peak(989, 67),
    "H200 NVL": Peak(835, 60),
    "H100": Peak(989, 67),
    "H100 PCIe": Peak(756, 51),
    "H100 NVL": Peak(835, 60),
    "H800": Peak(989, 67),
    "H800 PCIe": Peak(756, 51),
    "H20": Peak(148, 44),
    # NVIDIA datasheets of each GPU.
    "A100": Peak(312, 19.5),
    "A100 PCIe": Peak(312, 19.5),
    "A800": Peak(312, 19.5),
    "A800 PCIe": Peak(312, 19.5),
    "A40": Peak(149.7, 37.4),
    "A30": Peak(165, 10.3),
    "A10": Peak(125, 31.2),
    "A10G": Peak(70, 35),
    "L40S": Peak(362, 91.6),
    "L40": Peak(181, 90.5),
    "L20": Peak(119.5, 59.8),
    "L4": Peak(121, 30.3),
    "V100 SXM2": Peak(125, 15.7, has_bf16=False),
    "V100 PCIe": Peak(112, 14, has_bf16=False),
    "V100S PCIe": Peak(130, 16.4, has_bf16=False),
    "T4": Peak(65, 8.1, has_bf16=False),
    # NVIDIA architecture whitepapers (GA102, Ada, RTX Blackwell), "with FP32 accumulate": half of the figures with FP16
    # accumulate on GeForce cards.
    "RTX 5090": Peak(209.5, 104.8),
    "RTX 4090": Peak(165.2, 82.6),
    "RTX 3090": Peak(71, 35.6),
    "RTX 6000 Ada Generation": Peak(364.2, 91.1),
    "RTX A6000": Peak(154.8, 38.7),
    # AMD Instinct datasheets; float32 uses matrix cores.
    "MI355X": Peak(2516.6, 157.3),
    "MI325X": Peak(1307.4, 163.4),
    "MI300X": Peak(1307.4, 163.4),
    "MI300A": Peak(980.6, 122.6),
}
"""Peaks by the words of a GPU's name that identify the product."""

_IRRELEVANT = re.compile(r"NVIDIA|TESLA|GEFORCE|AMD|INSTINCT|SXM[3-6]|OAM|HBM3E?|\d+GB?|AC")
"""Words that do not change the peak: makers, product lines, sockets, kinds and sizes of memory, cooling."""


def published_peak(name: str, dtype: str) -> float | None:
    """Return the published peak of a GPU (FLOP/s), or None if unknown.

    All words of the name are compared: an "RTX 4090 Laptop GPU" is a different chip from an "RTX 4090", and a "MIG"
    device is a part of a GPU.

    Args:
        name: The name that CUDA or ROCm reports, such as "NVIDIA H100 80GB HBM3".
        dtype: The precision of matrix products: "bf16", "fp16" or "fp32".
    """
    peak = _BY_WORDS.get(_words(name))
    if peak is None or (dtype == "bf16" and not peak.has_bf16):
        return None
    tera = {"bf16": peak.half, "fp16": peak.half, "fp32": peak.single}.get(dtype)
    return None if tera is None else tera * 1e12


def _words(name: str) -> tuple[str, ...]:
    """Return the words of a name that identify the product, in capitals."""
    return tuple(word for word in re.split(r"[\s-]+", name.upper()) if not _IRRELEVANT.fullmatch(word))


_BY_WORDS = {_words(name): peak for name, peak in PEAKS.items()}
