"""Detect checkpoints with quantized weights, whose tensors contain codes instead of floating-point values.

The names match the names that the libraries write: transformers' `quantizers`, bitsandbytes, AutoGPTQ, AutoAWQ,
compressed-tensors, EETQ, HQQ, AQLM, optimum-quanto, torchao, NVIDIA's ModelOpt and MLX.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torchtune.files import read_json
from torchtune.formats._tensor_files import TensorSource, first_names

_CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
"""Keys of config.json that describe a quantization; the last one is written by MLX."""

_CONFIG_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files in which AutoGPTQ, AutoAWQ and ModelOpt describe a quantization."""

_TENSORS = {
    r"\.SCB|\.weight_format": "bitsandbytes, 8 bits",
    r"\.(nested_)?(absmax|quant_map)|\.quant_state\..*": "bitsandbytes, 4 bits",
    r"\.weight_scale_inv": "fp8 with scales",
    r"\.(qweight|qzeros|g_idx)": "GPTQ or AWQ",
    r"\.weight_(packed|zero_point|shape|g_idx|global_scale)": "compressed-tensors",
    r"\.weight_scales": "EETQ",
    r"_(blocks|scales)": "MXFP4",
    r"\.W_q": "HQQ",
    r"\.(codes|codebooks)": "AQLM",
    r"\.(weight\._data|weight\._scale|weight_qdata|_weight_qdata|_weight_scale)": "quanto or torchao",
    r"\.(weight_scale|weight_scale_2|input_scale|output_scale)": "fp8 or int8 with scales",
    r"\.(scales|biases|zeros|zero_point)": "integers with scales",
}
"""Patterns of name suffixes that only tensors of quantized layers have, with the method that writes them."""

_HINT = (
    "quantized weights cannot be trained, merged or converted yet; use the unquantized model that they were"
    " created from"
)


def check_unquantized_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ValueError if a folder's configuration declares that its weights are quantized.

    Args:
        folder: A Hugging Face folder.
        config: The content of its config.json.

    Raises:
        ValueError: The weights are quantized; the message names the method.
    """
    for key in _CONFIG_KEYS:
        method = _method(config.get(key))
        if method:
            raise ValueError(
                f"{folder} contains a quantized model ({method}), according to {key} in its config.json; {_HINT}"
            )
    for name in _CONFIG_FILES:
        if (folder / name).is_file():
            method = _method(read_json(folder / name)) or "an unknown method"
            raise ValueError(
                f"{folder} contains a quantized model ({method}), according to its {name}; {_HINT}"
            )


def check_unquantized_tensors(path: Path, source: TensorSource, model_names: Collection[str]) -> None:
    """Raise ValueError if weights are quantized, judging by the names and the dtypes of their tensors.

    Args:
        path: The file or folder, for the message.
        source: The tensors; those that the model has are under the model's names.
        model_names: The tensor names of the model.

    Raises:
        ValueError: Some weights are quantized; the message names them.
    """
    unknown = [name for name in source.shapes if name not in model_names]
    for pattern, method in _TENSORS.items():
        names = [name for name in unknown if re.search(rf"({pattern})$", name)]
        if names:
            raise ValueError(
                f"{path} contains a quantized model ({method}), according to its tensors"
                f" {_source_names(source, names)}; {_HINT}"
            )
    codes = [
        name
        for name in source.shapes
        if name not in source.dtypes and (name in model_names or name.endswith("weight"))
    ]
    if codes:
        raise ValueError(
            f"{path} contains a quantized model, according to the dtype of {_source_names(source, codes)}"
            f" (expected float64, float32, float16 or bfloat16); {_HINT}"
        )


def _source_names(source: TensorSource, names: list[str]) -> str:
    return first_names(sorted(map(source.source_name, names)))


def _method(settings: Any) -> str | None:
    """Return the method and the number of bits as text; None if the settings disable quantization."""
    if not isinstance(settings, Mapping):
        return str(settings) if settings else None
    if not settings:
        return None
    inner = settings.get("quantization")  # ModelOpt's key
    if isinstance(inner, Mapping):
        settings = inner
    by_flag = [
        bits for bits in (4, 8) if settings.get(f"load_in_{bits}bit") or settings.get(f"_load_in_{bits}bit")
    ]
    is_flagged = any(key.startswith(("load_in_", "_load_in_")) for key in settings)
    if is_flagged and not by_flag:
        return None
    names = ("quant_method", "quant_algo", "format")
    method = next((str(settings[name]) for name in names if settings.get(name)), None)
    method = method or ("bitsandbytes" if by_flag else "an unknown method")
    bits = by_flag[0] if by_flag else next((settings[k] for k in ("bits", "w_bit") if settings.get(k)), None)
    return method if bits is None else f"{method}, {bits} bits"
