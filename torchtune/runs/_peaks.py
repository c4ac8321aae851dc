"""Peak performance of devices, as published by their manufacturers."""

_TERA = 1e12

# Dense peaks in FLOP/s: bf16 and fp16 on tensor cores, fp32 without them, because TF32 is off. Source: NVIDIA's data
# sheet of each card. The first name contained in the CUDA device name is used, so longer names come first.
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
    """Return the published peak (FLOP/s) of a device such as "NVIDIA H100 80GB HBM3"; None if unknown."""
    for device_name, (half_peak, float_peak) in PEAKS.items():
        if device_name in name:
            return {"bf16": half_peak, "fp16": half_peak, "fp32": float_peak}.get(dtype)
    return None
