"""What devices can do at best, as their makers publish it."""

_TERA = 1e12

# Dense peaks in FLOP/s of bf16 and fp16 on tensor cores, and of fp32 outside of them, as TF32 is off: NVIDIA's data
# sheets of each card. The first name that is part of the CUDA device name counts, so longer names come first.
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


def published_peak(name: str, dtype: str) -> float | None:
    """Return the published peak (FLOP/s) of a device by its name, such as "NVIDIA H100 80GB HBM3"; None: not known."""
    for known, (narrow, wide) in PEAKS.items():
        if known in name:
            return {"bf16": narrow, "fp16": narrow, "fp32": wide}.get(dtype)
    return None
