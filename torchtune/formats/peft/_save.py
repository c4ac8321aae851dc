"""A model's adapters as a folder of PEFT's."""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchtune.files import atomic_folder, write_json
from torchtune.formats.hf._save import write_safetensors
from torchtune.formats.hf._weights import hf_groups, hf_tensor
from torchtune.formats.peft._config import ADAPTER_CONFIG, KIND_SETTINGS, PLAIN
from torchtune.formats.peft._layers import HEAD, PREFIX, WEIGHTS, CheckpointAdapter, peft_layers, table_name
from torchtune.models import FAMILIES
from torchtune.modules import (
    ADAPTERS,
    Adapter,
    Decoder,
    adapted_layers,
    kind_of_adapter,
    lora_state,
    fully_trained_parameters,
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

    Modules that are trained in full are written whole, as PEFT's `modules_to_save`. What changes an embedding table
    that is the output head as well is written twice, since PEFT treats the two as separate modules.

    Args:
        model: With LoRA adapters; ranks and scales may differ from layer to layer.
        folder: Written beside and renamed once complete.
        base_model: Folder or hub name of the model that the adapters belong to, written down for those
            who load them.
        tokenizer_directory: The tokenizer's files in it are copied, so that the folder is loaded by itself. None: none.
        state: What to write in place of `lora_state(model)`, such as parameters gathered from shards.
        overwrite: Replace a folder that exists.

    Raises:
        FileExistsError: the folder has something in it and `overwrite` is False.
        ValueError: the model has no adapters, or those that PEFT has no place for (`check_peft_adapter`).
    """
    check_peft_adapter(model)
    state = lora_state(model) if state is None else state
    adapters, in_full = _checkpoint_adapters(model, state), _in_full(model, state)
    tensors = {
        f"{PREFIX}{name}.{adapter.of_peft[part]}": tensor
        for name, adapter in adapters.items()
        for part, tensor in adapter.tensors.items()
    }
    tensors |= {f"{PREFIX}{name}": tensor for name, tensor in in_full.items()}
    with atomic_folder(folder, overwrite=overwrite) as partial:
        if tokenizer_directory is not None:
            copy_files(Path(tokenizer_directory), partial, TOKENIZER_FILES)
        write_json(partial / ADAPTER_CONFIG, _adapter_config(model, base_model, adapters, in_full))
        write_safetensors(partial / WEIGHTS, tensors)


def check_peft_adapter(model: Decoder) -> None:
    """Refuse adapters that a folder of PEFT's cannot hold; the model may be on the meta device.

    Raises:
        ValueError: there are none; they are of several kinds, or of one that PEFT does not have; or a kind with a
            number for each row, such as DoRA, adapts a part of what is one layer in the family's checkpoints, whose
            other rows would then need such numbers too; or a part of such a layer is trained in full.
    """
    adapters = _adapters(model)
    if not adapters:
        raise ValueError("the model has no LoRA adapters to write; add_lora gives it some")
    if len({(_linear_kind(adapter), adapter.rank_stabilized) for adapter in adapters.values()}) > 1:
        raise ValueError(
            "PEFT's folders hold adapters of one kind, and the model has several; let all of its layers have the same"
            " kind, and all or none rank_stabilized"
        )
    kind = _kind(model)
    if not kind.peft_tensors:
        raise ValueError(f"PEFT has no adapters like {kind.__name__}; choose another kind")
    _check_modules(model)
    per_row = _per_row(kind)
    if not per_row:
        return
    for theirs, names in peft_layers(model).items():
        without = [name for name in names if name not in adapters]
        if 0 < len(without) < len(names):
            parts = ", ".join(name.rpartition(".")[2] for name in names)
            raise ValueError(
                f"checkpoints of {model.architecture.family} hold {parts} as one layer, {theirs}, each row of which has"
                f" a {per_row[0]} in {kind.__name__}, and {' and '.join(without)} would have none; adapt all of"
                f" {parts}, or none"
            )


def _adapters(model: Decoder) -> dict[str, Adapter]:
    """Return the adapters by their layers' names."""
    return {name: adapter for name, _, adapter in adapted_layers(model)}


def _kind(model: Decoder) -> type[Adapter]:
    """Return the kind of a model's adapters, which have one."""
    return _linear_kind(next(iter(_adapters(model).values())))


def _linear_kind(adapter: Adapter) -> type[Adapter]:
    """Return the kind of an adapter, which is that of linear layers for one of an embedding table."""
    name = kind_of_adapter(adapter)
    return type(adapter) if name is None else ADAPTERS[name]


def _check_modules(model: Decoder) -> None:
    """Check that checkpoints hold the parameters that are trained in full as tensors of their own.

    Raises:
        ValueError: One is a part of a checkpoint's tensor, whose other parts are not trained.
    """
    in_full = fully_trained_parameters(model)
    for theirs, names in hf_groups(model.architecture, in_full).items():
        without = [name for name in names if name not in in_full]
        if without:
            raise ValueError(
                f"checkpoints of {model.architecture.family} hold {', '.join(names)} as one tensor, {theirs}, and"
                f" {' and '.join(without)} would not be trained; name all of them in modules_to_save, or none"
            )


def _in_full(model: Decoder, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that are trained in full as checkpoints hold them, with those of a tied output head."""
    a, in_full = model.architecture, fully_trained_parameters(model)
    tensors = {theirs: hf_tensor(a, state, theirs, names) for theirs, names in hf_groups(a, in_full).items()}
    table = tensors.get(f"{table_name(model)}.weight")
    if a.tied_embeddings and table is not None:
        tensors[f"{HEAD}.weight"] = table.clone()  # a file of safetensors holds no tensor twice
    return tensors


def _per_row(kind: type[Adapter]) -> list[str]:
    """Name the parameters that have a row for each output, besides B."""
    return [part for part in kind.peft_tensors if part not in {"lora_a", "lora_b"}]


def _checkpoint_adapters(model: Decoder, state: Mapping[str, Tensor]) -> dict[str, CheckpointAdapter]:
    """Return the adapters of the layers as checkpoints hold them, by the checkpoint's names."""
    ours = _adapters(model)
    adapters = {}
    for theirs, names in peft_layers(model).items():
        adapted = [ours[name] for name in names if name in ours]
        if not adapted:
            continue
        tensors = _joined(model, ours, names, state)
        growth = tensors["lora_a"].shape[0] / adapted[0].rank
        alpha = adapted[0].alpha * (math.sqrt(growth) if adapted[0].rank_stabilized else growth)
        adapters[theirs] = CheckpointAdapter(tensors=tensors, alpha=alpha, of_peft=adapted[0].peft_tensors)
    table = adapters.get(table_name(model))
    if model.architecture.tied_embeddings and table is not None:
        adapters[HEAD] = table.head(_kind(model).peft_tensors)
    return adapters


def _joined(
    model: Decoder, ours: Mapping[str, Adapter], names: tuple[str, ...], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Join the adapters of what is one layer in checkpoints, with the scale of the first.

    They become one of a larger rank: their A below each other, their B as the blocks of a matrix of zeros, so that
    each still changes its own rows alone. Those that came from one adapter, and still have its A, become it again.
    """
    adapted = [name for name in names if name in ours]
    all_a = [state[f"{name}.adapter.lora_a"] for name in adapted]
    blocks = []
    for name in names:
        if name in ours:
            ratio = ours[name].scale / ours[adapted[0]].scale
            block = state[f"{name}.adapter.lora_b"]
            blocks.append(block if ratio == 1 else block * ratio)
        else:
            linear = model.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            blocks.append(all_a[0].new_zeros(linear.out_features, 0))
    is_one = len(adapted) == len(names) and all(torch.equal(a, all_a[0]) for a in all_a)
    tensors = {
        "lora_a": all_a[0] if is_one else torch.cat(all_a),
        "lora_b": torch.cat(blocks) if is_one else torch.block_diag(*blocks),  # type: ignore[no-untyped-call]  # torch's
    }
    for part in _per_row(type(ours[adapted[0]])):
        tensors[part] = torch.cat([state[f"{name}.adapter.{part}"] for name in names])
    return tensors


def _adapter_config(
    model: Decoder,
    base_model: str | None,
    adapters: Mapping[str, CheckpointAdapter],
    in_full: Iterable[str],
) -> dict[str, Any]:
    """Describe the adapters of a model, given by the checkpoint's names of the layers and of whole tensors."""
    first = next(iter(_adapters(model).values()))
    modules = {name.rpartition(".")[0] for name in in_full}
    every = [*peft_layers(model), HEAD]
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
        "target_modules": _briefly({*adapters}, every),
        "modules_to_save": _briefly(modules, [*every, *parents]) or None,
        # Read by newer releases of PEFT alone; for others both names are among the modules.
        "ensure_weight_tying": model.architecture.tied_embeddings and HEAD in {*modules, *adapters},
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


def _briefly(modules: set[str], every: Iterable[str]) -> list[str]:
    """Name modules as briefly as PEFT allows: by the last part, where all modules whose names end so are meant.

    Args:
        modules: The checkpoint's names of some modules.
        every: Those of all modules.
    """
    leaves = {name.rpartition(".")[2] for name in modules}
    alike = {name for name in every if name.endswith(tuple(leaves))}
    return sorted(leaves) if alike == modules else sorted(modules)
