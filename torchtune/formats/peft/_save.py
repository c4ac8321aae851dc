"""A model's adapters as a folder of PEFT's."""

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchtune.files import write_json, written_whole
from torchtune.formats.hf._save import write_safetensors
from torchtune.formats.peft._config import ADAPTER_CONFIG, PLAIN
from torchtune.formats.peft._layers import PARTS, PREFIX, WEIGHTS, CheckpointAdapter, peft_layers
from torchtune.models import FAMILIES
from torchtune.modules import Decoder, DoRALinear, LoRALinear, lora_layers, lora_state


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
        model: With LoRA adapters; ranks and scales may differ from layer to layer.
        folder: Written beside and renamed once complete.
        base_model: Folder or hub name of the model that the adapters belong to, written down for those
            who load them.
        state: What to write in place of `lora_state(model)`, such as adapters gathered from shards.
        overwrite: Replace a folder that exists.

    Raises:
        FileExistsError: the folder has something in it and `overwrite` is False.
        ValueError: the model has no adapters, or those that PEFT has no place for (`check_peft_adapter`).
    """
    check_peft_adapter(model)
    state = lora_state(model) if state is None else state
    adapters = _checkpoint_adapters(model, state)
    tensors = {
        f"{PREFIX}{name}.{PARTS[part]}": tensor
        for name, adapter in adapters.items()
        for part, tensor in adapter.tensors.items()
    }
    with written_whole(folder, overwrite=overwrite) as partial:
        write_json(partial / ADAPTER_CONFIG, _adapter_config(model, base_model, adapters))
        write_safetensors(partial / WEIGHTS, tensors)


def check_peft_adapter(model: Decoder) -> None:
    """Refuse adapters that a folder of PEFT's cannot hold; the model may be on the meta device.

    Raises:
        ValueError: there are none; they are of several kinds; or DoRA adapts a part of what is one layer in the
            family's checkpoints, whose other rows would then need magnitudes too.
    """
    layers = dict(lora_layers(model))
    if not layers:
        raise ValueError("the model has no LoRA adapters to write; add_lora gives it some")
    if len({(type(layer), layer.rank_stabilized) for layer in layers.values()}) > 1:
        raise ValueError(
            "PEFT's folders hold adapters of one kind, and the model has several; let all or none of its layers have"
            " dora, and all or none rank_stabilized"
        )
    if not _has_dora(layers):
        return
    for theirs, names in peft_layers(model).items():
        without = [name for name in names if name not in layers]
        if 0 < len(without) < len(names):
            parts = ", ".join(name.rpartition(".")[2] for name in names)
            raise ValueError(
                f"checkpoints of {model.architecture.family} hold {parts} as one layer, {theirs}, each row of which has"
                f" a magnitude of DoRA's, and {' and '.join(without)} would have none; adapt all of {parts}, or none"
            )


def _has_dora(layers: Mapping[str, LoRALinear]) -> bool:
    return isinstance(next(iter(layers.values())), DoRALinear)


def _checkpoint_adapters(model: Decoder, state: Mapping[str, Tensor]) -> dict[str, CheckpointAdapter]:
    """Return the adapters of the layers as checkpoints hold them, by the checkpoint's names."""
    ours = dict(lora_layers(model))
    found = {}
    for theirs, names in peft_layers(model).items():
        adapted = [ours[name] for name in names if name in ours]
        if not adapted:
            continue
        tensors = _joined(model, ours, names, state)
        growth = tensors["lora_a"].shape[0] / adapted[0].rank
        alpha = adapted[0].alpha * (math.sqrt(growth) if adapted[0].rank_stabilized else growth)
        found[theirs] = CheckpointAdapter(tensors=tensors, alpha=alpha)
    return found


def _joined(
    model: Decoder, ours: Mapping[str, LoRALinear], names: tuple[str, ...], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Join the adapters of what is one layer in checkpoints, with the scale of the first.

    They become one of a larger rank: their A below each other, their B as the blocks of a matrix of zeros, so that
    each still changes its own rows alone. Those that came from one adapter, and still have its A, become it again.
    """
    adapted = [name for name in names if name in ours]
    all_a = [state[f"{name}.lora_a"] for name in adapted]
    blocks = []
    for name in names:
        if name in ours:
            ratio = ours[name].scale / ours[adapted[0]].scale
            blocks.append(state[f"{name}.lora_b"] if ratio == 1 else state[f"{name}.lora_b"] * ratio)
        else:
            blocks.append(all_a[0].new_zeros(model.get_parameter(f"{name}.weight").shape[0], 0))
    is_one = len(adapted) == len(names) and all(torch.equal(a, all_a[0]) for a in all_a)
    tensors = {
        "lora_a": all_a[0] if is_one else torch.cat(all_a),
        "lora_b": torch.cat(blocks) if is_one else torch.block_diag(*blocks),  # type: ignore[no-untyped-call]  # torch's
    }
    if _has_dora(ours):
        tensors["lora_magnitude"] = torch.cat([state[f"{name}.lora_magnitude"] for name in names])
    return tensors


def _adapter_config(
    model: Decoder, base_model: str | None, adapters: Mapping[str, CheckpointAdapter]
) -> dict[str, Any]:
    """Describe the adapters of a model, given by the checkpoint's names of the layers."""
    layers = dict(lora_layers(model))
    first = next(iter(layers.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout.p,
        "use_rslora": first.rank_stabilized,
        "use_dora": _has_dora(layers),
        "target_modules": _target_modules(model, set(adapters)),
        "inference_mode": True,
        "fan_in_fan_out": bool(FAMILIES[model.architecture.family].transposed),
        "rank_pattern": _pattern({name: a.rank for name, a in adapters.items()}, first.rank),
        "alpha_pattern": _pattern({name: a.alpha for name, a in adapters.items()}, first.alpha),
        **PLAIN,
    }


def _pattern(values: Mapping[str, float], otherwise: float) -> dict[str, float]:
    """Name the layers whose value is another one: by the last part, where all so called have the same."""
    by_leaf: dict[str, set[float]] = {}
    for name, value in values.items():
        by_leaf.setdefault(name.rpartition(".")[2], set()).add(value)
    found = {}
    for name, value in values.items():
        leaf = name.rpartition(".")[2]
        if value != otherwise:
            found[leaf if len(by_leaf[leaf]) == 1 else name] = value
    return found


def _target_modules(model: Decoder, adapted: set[str]) -> list[str]:
    """Name the adapted layers as briefly as PEFT allows: by the last part, where all so called are."""
    leaves = {name.rpartition(".")[2] for name in adapted}
    alike = {name for name in peft_layers(model) if name.rpartition(".")[2] in leaves}
    return sorted(leaves) if alike == adapted else sorted(adapted)
