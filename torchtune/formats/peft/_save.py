"""Save a model's adapters as a PEFT folder."""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchtune.files import atomic_folder, write_json
from torchtune.formats._tensor_writer import write_safetensors
from torchtune.formats.hf._weights import hf_groups, hf_tensor
from torchtune.formats.peft._config import ADAPTER_CONFIG, KIND_SETTINGS, PLAIN
from torchtune.formats.peft._layers import HEAD, PREFIX, WEIGHTS, CheckpointAdapter, peft_layers, table_name
from torchtune.models import FAMILIES
from torchtune.modules import (
    ADAPTERS,
    Adapter,
    Decoder,
    adapted_layers,
    fully_trained_parameters,
    kind_of_adapter,
    lora_state,
)
from torchtune.tokenizers import TOKENIZER_FILES, copy_files


def save_peft_adapter(
    model: Decoder,
    folder: str | os.PathLike[str],
    *,
    base_model: str | None,
    tokenizer_directory: str | os.PathLike[str] | None = None,
    state: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a folder that `peft.PeftModel.from_pretrained` loads.

    Fully trained modules are written as PEFT's `modules_to_save`. Changes to a tied embedding table are written twice,
    since PEFT treats the embedding table and the output head as separate modules.

    Args:
        model: A model with LoRA adapters; ranks and scales may differ from layer to layer.
        folder: The folder to write; it appears only once it is complete.
        base_model: Folder or hub name of the base model, for adapter_config.json.
        tokenizer_directory: Folder whose tokenizer files are copied, so that the adapter folder is self-contained.
            None: no tokenizer is written.
        state: Tensors to write instead of `lora_state(model)`, such as parameters gathered from shards.
        overwrite: Replace an existing folder.

    Raises:
        FileExistsError: The folder is not empty and `overwrite` is False.
        ValueError: The model has no adapters, or adapters that PEFT does not support (`check_peft_adapter`).
    """
    check_peft_adapter(model)
    state = lora_state(model) if state is None else state
    adapters, full_tensors = _checkpoint_adapters(model, state), _full_tensors(model, state)
    tensors = {
        f"{PREFIX}{name}.{adapter.peft_names[parameter]}": tensor
        for name, adapter in adapters.items()
        for parameter, tensor in adapter.tensors.items()
    }
    tensors |= {f"{PREFIX}{name}": tensor for name, tensor in full_tensors.items()}
    with atomic_folder(folder, overwrite=overwrite) as partial:
        if tokenizer_directory is not None:
            copy_files(Path(tokenizer_directory), partial, TOKENIZER_FILES)
        write_json(partial / ADAPTER_CONFIG, _adapter_config(model, base_model, adapters, full_tensors))
        write_safetensors(partial / WEIGHTS, tensors)


def check_peft_adapter(model: Decoder) -> None:
    """Check that a PEFT folder can store the adapters of a model, which may be on the meta device.

    Raises:
        ValueError: The model has no adapters, adapters of several kinds, or adapters of a kind that PEFT does not
            support; or only a part of a fused checkpoint layer is trained in full, or is adapted by a kind with a value
            per row, such as DoRA.
    """
    adapters = _adapters(model)
    if not adapters:
        raise ValueError("the model has no LoRA adapters to save; add them first (add_lora)")
    if len({(_linear_kind(adapter), adapter.rank_stabilized) for adapter in adapters.values()}) > 1:
        raise ValueError(
            "a PEFT folder can contain only one kind of adapter, but the model has several; use the same kind, and"
            " the same rank_stabilized, for all layers"
        )
    kind = _kind(model)
    if not kind.peft_tensors:
        raise ValueError(f"PEFT does not support {kind.__name__} adapters; choose a different kind")
    _check_modules(model)
    per_row = _per_row_parameters(kind)
    if not per_row:
        return
    for checkpoint_name, names in peft_layers(model).items():
        unadapted = [name for name in names if name not in adapters]
        if 0 < len(unadapted) < len(names):
            parts = ", ".join(name.rpartition(".")[2] for name in names)
            raise ValueError(
                f"{model.architecture.family} checkpoints store {parts} as one layer, {checkpoint_name}, and"
                f" {kind.__name__} needs a {per_row[0]} for all of its rows, but {' and '.join(unadapted)} would have"
                f" none; adapt all of {parts}, or none"
            )


def _adapters(model: Decoder) -> dict[str, Adapter]:
    """Return the adapters by layer name."""
    return {name: adapter for name, _, adapter in adapted_layers(model)}


def _kind(model: Decoder) -> type[Adapter]:
    """Return the kind of a model's adapters, which all have the same kind."""
    return _linear_kind(next(iter(_adapters(model).values())))


def _linear_kind(adapter: Adapter) -> type[Adapter]:
    """Return the class of an adapter; for an embedding adapter, the class of the same kind for linear layers."""
    name = kind_of_adapter(adapter)
    return type(adapter) if name is None else ADAPTERS[name]


def _check_modules(model: Decoder) -> None:
    """Check that fully trained parameters form complete checkpoint tensors.

    Raises:
        ValueError: A parameter is a part of a fused checkpoint tensor whose other parts are not trained.
    """
    fully_trained = fully_trained_parameters(model)
    for checkpoint_name, names in hf_groups(model.architecture, fully_trained).items():
        untrained = [name for name in names if name not in fully_trained]
        if untrained:
            raise ValueError(
                f"{model.architecture.family} checkpoints store {', '.join(names)} as one tensor, {checkpoint_name},"
                f" but {' and '.join(untrained)} would not be trained; list all of them in modules_to_save, or none"
            )


def _full_tensors(model: Decoder, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the fully trained checkpoint tensors, including a tied output head."""
    a = model.architecture
    groups = hf_groups(a, fully_trained_parameters(model))
    tensors = {name: hf_tensor(a, state, name, parts) for name, parts in groups.items()}
    table = tensors.get(f"{table_name(model)}.weight")
    if a.tied_embeddings and table is not None:
        tensors[f"{HEAD}.weight"] = table.clone()  # a safetensors file cannot store a tensor twice
    return tensors


def _per_row_parameters(kind: type[Adapter]) -> list[str]:
    """List the parameters other than B that have a row for each output."""
    return [parameter for parameter in kind.peft_tensors if parameter not in {"lora_a", "lora_b"}]


def _checkpoint_adapters(model: Decoder, state: Mapping[str, Tensor]) -> dict[str, CheckpointAdapter]:
    """Return the adapters of checkpoint layers, by checkpoint name."""
    layer_adapters = _adapters(model)
    adapters = {}
    for checkpoint_name, names in peft_layers(model).items():
        adapted = [layer_adapters[name] for name in names if name in layer_adapters]
        if not adapted:
            continue
        tensors = _joined(model, layer_adapters, names, state)
        rank_ratio = tensors["lora_a"].shape[0] / adapted[0].rank
        alpha = adapted[0].alpha * (math.sqrt(rank_ratio) if adapted[0].rank_stabilized else rank_ratio)
        adapters[checkpoint_name] = CheckpointAdapter(
            tensors=tensors, alpha=alpha, peft_names=adapted[0].peft_tensors
        )
    table = adapters.get(table_name(model))
    if model.architecture.tied_embeddings and table is not None:
        adapters[HEAD] = table.transposed(_kind(model).peft_tensors)
    return adapters


def _joined(
    model: Decoder,
    adapters: Mapping[str, Adapter],
    names: tuple[str, ...],
    state: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Join the adapters of the layers that a checkpoint layer fuses; the result has the scale of the first adapter.

    The result has a larger rank: the A matrices are stacked, and the B matrices become the blocks of a block-diagonal
    matrix, so that each adapter still changes only its rows. Adapters that share one A, such as adapters that were
    split from one adapter, are joined without a larger rank.
    """
    adapted = [name for name in names if name in adapters]
    all_a = [state[f"{name}.adapter.lora_a"] for name in adapted]
    blocks = []
    for name in names:
        if name in adapters:
            ratio = adapters[name].scale / adapters[adapted[0]].scale
            block = state[f"{name}.adapter.lora_b"]
            blocks.append(block if ratio == 1 else block * ratio)
        else:
            linear = model.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            blocks.append(all_a[0].new_zeros(linear.out_features, 0))
    shares_a = len(adapted) == len(names) and all(torch.equal(a, all_a[0]) for a in all_a)
    tensors = {
        "lora_a": all_a[0] if shares_a else torch.cat(all_a),
        "lora_b": torch.cat(blocks) if shares_a else torch.block_diag(*blocks),  # type: ignore[no-untyped-call]  # torch's
    }
    for parameter in _per_row_parameters(type(adapters[adapted[0]])):
        tensors[parameter] = torch.cat([state[f"{name}.adapter.{parameter}"] for name in names])
    return tensors


def _adapter_config(
    model: Decoder,
    base_model: str | None,
    adapters: Mapping[str, CheckpointAdapter],
    full_tensors: Iterable[str],
) -> dict[str, Any]:
    """Return the adapter_config.json for adapters and fully trained tensors, both by checkpoint name."""
    first = next(iter(_adapters(model).values()))
    modules = {name.rpartition(".")[0] for name in full_tensors}
    layer_names = [*peft_layers(model), HEAD]
    parents = [
        name.rpartition(".")[0] for name in hf_groups(model.architecture, dict(model.named_parameters()))
    ]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout.p,
        "use_rslora": first.rank_stabilized,
        **dict.fromkeys(KIND_SETTINGS, False),
        **_kind(model).peft_settings,
        "target_modules": _short_names({*adapters}, layer_names),
        "modules_to_save": _short_names(modules, [*layer_names, *parents]) or None,
        # Only newer releases of PEFT read this; for older releases, the lists above contain both modules.
        "ensure_weight_tying": model.architecture.tied_embeddings and HEAD in {*modules, *adapters},
        "inference_mode": True,
        "fan_in_fan_out": bool(FAMILIES[model.architecture.family].transposed),
        "rank_pattern": _pattern({name: a.rank for name, a in adapters.items()}, first.rank),
        "alpha_pattern": _pattern({name: a.alpha for name, a in adapters.items()}, first.alpha),
        **PLAIN,
    }


def _pattern(values: Mapping[str, float], default: float) -> dict[str, float]:
    """Map layers to non-default values, by the last part of their names if all layers with that part agree."""
    by_leaf: dict[str, set[float]] = {}
    for name, value in values.items():
        by_leaf.setdefault(name.rpartition(".")[2], set()).add(value)
    pattern = {}
    for name, value in values.items():
        leaf = name.rpartition(".")[2]
        if value != default:
            pattern[leaf if len(by_leaf[leaf]) == 1 else name] = value
    return pattern


def _short_names(modules: set[str], all_modules: Iterable[str]) -> list[str]:
    """Return the last parts of module names, or the full names if the last parts also match other modules.

    Args:
        modules: Checkpoint names of some modules.
        all_modules: Checkpoint names of all modules.
    """
    leaves = {name.rpartition(".")[2] for name in modules}
    matches = {name for name in all_modules if name.endswith(tuple(leaves))}
    return sorted(leaves) if matches == modules else sorted(modules)
