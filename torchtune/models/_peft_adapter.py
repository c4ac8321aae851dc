"""LoRA adapters as PEFT's folders hold them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchtune.models._folders import written_whole
from torchtune.models._hf_config import read_json
from torchtune.models._hf_folder import write_json, write_safetensors
from torchtune.models._hf_weights import hf_name, our_name, read_safetensors
from torchtune.modules import Decoder, add_lora, lora_layers, lora_state

_PREFIX = "base_model.model."
_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
_WEIGHTS = "adapter_model.safetensors"
_PLAIN = {
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "trainable_token_indices": None,
}
"""What plain LoRA leaves off; other values change what the tensors mean, or add some."""


def save_peft_adapter(
    model: Decoder,
    folder: str | os.PathLike[str],
    *,
    base_model: str | None,
    state: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a folder that `peft.PeftModel.from_pretrained` loads.

    Args:
        model: With LoRA adapters, all of one rank and scale.
        folder: Written beside and renamed once complete.
        base_model: Folder or hub name of the model that the adapters belong to, written down for those
            who load them.
        state: What to write in place of `lora_state(model)`, such as adapters gathered from shards.
        overwrite: Replace a folder that exists.

    Raises:
        FileExistsError: the folder has something in it and `overwrite` is False.
        ValueError: the model has no adapters.
    """
    config = _adapter_config(model, base_model)
    state = lora_state(model) if state is None else state
    with written_whole(folder, overwrite=overwrite) as partial:
        write_json(partial / "adapter_config.json", config)
        write_safetensors(partial / _WEIGHTS, {_peft_name(name): t for name, t in state.items()})


def load_peft_adapter(model: Decoder, folder: str | os.PathLike[str]) -> None:
    """Adapt a model as a PEFT folder says, and load the adapters.

    Args:
        model: The base model, without adapters.
        folder: Holds adapter_config.json and adapter_model.safetensors.

    Raises:
        FileNotFoundError: one of the two is missing.
        ValueError: they are damaged, belong to another model, or use more of PEFT than plain LoRA.
    """
    folder = Path(folder)
    config = _read_config(folder)
    tensors = {_our_name(name): t for name, t in read_safetensors(folder / _WEIGHTS).items()}
    targets = _check_tensors(model, tensors, config["r"], folder)
    add_lora(model, targets, config["r"], config["lora_alpha"], config.get("lora_dropout", 0.0))
    for name, parameter in lora_state(model).items():
        assert not parameter.is_meta, "load the model's weights before its adapters"
        parameter.copy_(tensors[name])


def _adapter_config(model: Decoder, base_model: str | None) -> dict[str, Any]:
    layers = dict(lora_layers(model))
    if not layers:
        raise ValueError("the model has no LoRA adapters to write; add_lora gives it some")
    first = next(iter(layers.values()))
    assert all((layer.rank, layer.alpha) == (first.rank, first.alpha) for layer in layers.values())
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout.p,
        "target_modules": _target_modules(model, set(layers)),
        "inference_mode": True,
        **_PLAIN,
    }


def _target_modules(model: Decoder, adapted: set[str]) -> list[str]:
    """Name the adapted layers as briefly as PEFT allows: by the last part, where all so called are."""
    leaves = {name.rpartition(".")[2] for name in adapted}
    alike = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in leaves}
    return sorted(leaves) if alike == adapted else sorted(hf_name(name) for name in adapted)


def _read_config(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json, refusing what would change the result and is not supported."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no adapter_config.json in {folder}; a PEFT adapter folder is expected")
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type is {config.get('peft_type')!r}, only 'LORA' is supported")
    for key, value in _PLAIN.items():
        if (config.get(key) or value) != value:
            raise ValueError(f"{path}: {key} is {config[key]!r}, only {value!r} is supported")
    if not config.get("r") or not config.get("lora_alpha"):
        raise ValueError(f"{path}: r and lora_alpha are to be numbers above 0")
    return config


def _check_tensors(model: Decoder, tensors: Mapping[str, Tensor], rank: int, folder: Path) -> list[str]:
    """Compare an adapter's tensors with the model's layers, and return the names of those it adapts."""
    linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    targets = sorted({name.rpartition(".")[0] for name in tensors})
    for name in sorted(tensors):
        layer, _, part = name.rpartition(".")
        if layer not in linears or part not in _PARTS:
            raise ValueError(
                f"the adapter in {folder} is another model's, or of another kind: there is no place for"
                f" {_peft_name(name) if part in _PARTS else name}"
            )
    expected = {}
    for name in targets:
        expected[f"{name}.lora_a"] = [rank, linears[name].in_features]
        expected[f"{name}.lora_b"] = [linears[name].out_features, rank]
    for name, shape in expected.items():
        found = list(tensors[name].shape) if name in tensors else "missing"
        if found != shape:
            raise ValueError(
                f"the adapter in {folder} is another model's: {_peft_name(name)} should be {shape},"
                f" it is {found}"
            )
    return targets


def _peft_name(name: str) -> str:
    layer, _, part = name.rpartition(".")
    return f"{_PREFIX}{hf_name(layer)}.{_PARTS.get(part, part)}"


def _our_name(name: str) -> str:
    for ours, theirs in _PARTS.items():
        if name.endswith(f".{theirs}"):
            return f"{our_name(name.removeprefix(_PREFIX).removesuffix(theirs))}{ours}"
    return name
