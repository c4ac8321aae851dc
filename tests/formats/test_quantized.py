"""Quantized folders are rejected wherever a folder is read; their codes are never loaded as weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.tiny import tiny_smollm2, write
from torchtune.formats import convert, hf_decoder, load_hf_weights, save_hf_folder, save_peft_adapter
from torchtune.modules import Decoder, add_lora

LAYER = "model.layers.0.mlp.up_proj"
HINT = "use the unquantized model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_hf_folder(tiny_smollm2().float(), tmp_path / "base")
    return tmp_path / "base"


def set_config_keys(folder: Path, **keys: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    return write(folder, config__json=json.dumps({**config, **keys}))


def replace_weight(folder: Path, change: Callable[[Tensor], dict[str, Tensor]]) -> Path:
    """Replace a layer's weight by the tensors that `change` returns, keyed by name suffix."""
    tensors = load_file(folder / "model.safetensors")
    weight = tensors.pop(f"{LAYER}.weight")
    tensors |= {f"{LAYER}{end}": tensor for end, tensor in change(weight).items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "bitsandbytes 4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits"),
    "bitsandbytes 8": (
        {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True},
        "bitsandbytes, 8 bits",
    ),
    "bitsandbytes of 2023": ({"load_in_8bit": True}, "bitsandbytes, 8 bits"),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq, 4 bits"),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq, 4 bits"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8"),
    "mxfp4": ({"quant_method": "mxfp4", "modules_to_not_convert": []}, "mxfp4"),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        "compressed-tensors",
    ),
    "eetq": ({"quant_method": "eetq"}, "eetq"),
    "hqq": ({"quant_method": "hqq", "quant_config": {}}, "hqq"),
    "torchao": ({"quant_method": "torchao", "quant_type": {}}, "torchao"),
    "quanto": ({"quant_method": "quanto", "weights": "int8"}, "quanto"),
    "unknown method": ({"quant_method": "fp2"}, "fp2"),
    "nameless": ({"group_size": 64}, "an unknown method"),
}


@pytest.mark.parametrize(("settings", "method"), CONFIGS.values(), ids=CONFIGS)
def test_config_identifies_the_quantization_method_before_weights_are_read(
    folder: Path, settings: dict[str, Any], method: str
) -> None:
    set_config_keys(folder, quantization_config=settings)
    with pytest.raises(
        ValueError, match=rf"base contains a quantized model \({method}\), according to .*{HINT}"
    ):
        hf_decoder(str(folder))


@pytest.mark.parametrize(
    ("key", "settings", "method"),
    [
        ("quantization", {"group_size": 64, "bits": 4}, "an unknown method, 4 bits"),
        ("compression_config", {"quant_method": "sparseml"}, "sparseml"),
    ],
)
def test_other_config_keys_reveal_quantization(
    folder: Path, key: str, settings: dict[str, Any], method: str
) -> None:
    set_config_keys(folder, **{key: settings})
    with pytest.raises(
        ValueError, match=rf"quantized model \({method}\), according to {key} in its config.json"
    ):
        hf_decoder(str(folder))


@pytest.mark.parametrize(
    ("name", "settings", "method"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128}, "an unknown method, 4 bits"),
        ("quant_config.json", {"w_bit": 4, "zero_point": True}, "an unknown method, 4 bits"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4"}}, "NVFP4"),
    ],
)
def test_separate_quantization_files_reveal_quantization(
    folder: Path, name: str, settings: dict[str, Any], method: str
) -> None:
    (folder / name).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"quantized model \({method}\), according to its {name}"):
        load_hf_weights(tiny_smollm2(), folder)


@pytest.mark.parametrize(
    "settings", [None, {}, {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False}]
)
def test_config_with_quantization_disabled_is_accepted(folder: Path, settings: Any) -> None:
    model = hf_decoder(str(set_config_keys(folder, quantization_config=settings)))
    load_hf_weights(model, folder)


TENSORS: dict[str, tuple[Callable[[Tensor], dict[str, Tensor]], str]] = {
    "bitsandbytes 8": (
        lambda w: {".weight": w.to(torch.int8), ".SCB": torch.ones(96), ".weight_format": torch.zeros(1)},
        "bitsandbytes, 8 bits",
    ),
    "bitsandbytes 4": (
        lambda _: {
            ".weight": torch.zeros(96 * 32, 1, dtype=torch.uint8),
            ".weight.absmax": torch.ones(96),
            ".weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
        },
        "bitsandbytes, 4 bits",
    ),
    "gptq": (
        lambda _: {
            ".qweight": torch.zeros(8, 96, dtype=torch.int32),
            ".qzeros": torch.zeros(1, 12, dtype=torch.int32),
            ".scales": torch.ones(1, 96),
            ".g_idx": torch.zeros(64, dtype=torch.int32),
        },
        "GPTQ or AWQ",
    ),
    "fp8 with scales": (
        lambda w: {".weight": w.to(torch.float8_e4m3fn), ".weight_scale_inv": torch.ones(1, 1)},
        "fp8 with scales",
    ),
    "compressed-tensors": (
        lambda _: {
            ".weight_packed": torch.zeros(96, 8, dtype=torch.int32),
            ".weight_scale": torch.ones(96, 1),
        },
        "compressed-tensors",
    ),
    "eetq": (lambda w: {".weight": w.to(torch.int8), ".weight_scales": torch.ones(96)}, "EETQ"),
    "hqq": (lambda _: {".W_q": torch.zeros(96, 64, dtype=torch.uint8), ".scale": torch.ones(96)}, "HQQ"),
    "mxfp4": (
        lambda _: {"_blocks": torch.zeros(96, 32, dtype=torch.uint8), "_scales": torch.zeros(96, 2)},
        "MXFP4",
    ),
    "aqlm": (lambda _: {".codes": torch.zeros(96, 8, 1), ".codebooks": torch.zeros(1, 2, 1, 8)}, "AQLM"),
    "floats with a scale": (lambda w: {".weight": w, ".weight_scale": torch.ones(1)}, "fp8 or int8 with"),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(("change", "method"), TENSORS.values(), ids=TENSORS)
def test_tensor_names_reveal_quantization_without_a_config(
    folder: Path, change: Callable[[Tensor], dict[str, Tensor]], method: str, prefix: str
) -> None:
    replace_weight(folder, change)
    tensors = load_file(folder / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    model = Decoder(tiny_smollm2().architecture)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=rf"quantized model \({method}.*tensors {prefix}{LAYER}.*{HINT}"
    ) as caught:
        load_hf_weights(model, folder)
    assert "do not match" not in str(caught.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64]
)
@pytest.mark.parametrize("is_pickle", [False, True])
def test_quantized_codes_are_never_loaded_as_weights(
    folder: Path, dtype: torch.dtype, *, is_pickle: bool
) -> None:
    replace_weight(folder, lambda weight: {".weight": weight.to(dtype)})
    if is_pickle:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    message = rf"quantized model, according to the dtype of {LAYER}.weight .*{HINT}"
    with pytest.raises(ValueError, match=message):
        load_hf_weights(tiny_smollm2(), folder)
    with pytest.raises(ValueError, match=message):
        convert(folder, folder.parent / "converted")
    assert not (folder.parent / "converted").exists()


def test_merging_into_a_quantized_base_is_rejected(folder: Path) -> None:
    set_config_keys(folder, quantization_config=CONFIGS["gptq"][0])
    model = tiny_smollm2()
    add_lora(model, "all-linear", rank=2, alpha=4.0)
    adapter = folder.parent / "adapter"
    save_peft_adapter(model, adapter, base_model=str(folder))
    with pytest.raises(ValueError, match=rf"base contains a quantized model \(gptq, 4 bits\).*{HINT}"):
        convert(adapter, folder.parent / "merged")


def test_unsupported_family_is_reported_before_its_quantization(folder: Path) -> None:
    set_config_keys(folder, model_type="gpt_oss", quantization_config=CONFIGS["mxfp4"][0])
    with pytest.raises(ValueError, match="model_type 'gpt_oss' is not supported"):
        hf_decoder(str(folder))
