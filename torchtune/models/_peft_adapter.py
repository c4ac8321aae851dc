"""LoRA adapters as PEFT's folders hold them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from torchtune.models._families import FAMILIES
from torchtune.models._folders import written_whole
from torchtune.models._hf_folder import write_safetensors
from torchtune.models._hf_weights import hf_groups
from torchtune.models._json import write_json
from torchtune.models._peft_config import ADAPTER_CONFIG, PLAIN, of_pattern, read_peft_config
from torchtune.models._special_ids import GENERATION_CONFIG
from torchtune.models._tensor_files import one_file
from torchtune.models._tokenizer_files import TOKENIZER_FILES, copy_files
from torchtune.modules import Decoder, LoRALinear, lora_layers, lora_state

_PREFIX = "base_model.model."
_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
_WEIGHTS = "adapter_model.safetensors"


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
    state = lora_state(model) if state is None else state
    groups = _fused(model, state)
    config = _adapter_config(
        model, base_model, {name: tensors[0].shape[0] for name, tensors in groups.items()}
    )
    tensors = {}
    for name, (lora_a, lora_b) in groups.items():
        tensors[f"{_PREFIX}{name}.{_PARTS['lora_a']}"] = lora_a
        tensors[f"{_PREFIX}{name}.{_PARTS['lora_b']}"] = lora_b
    with written_whole(folder, overwrite=overwrite) as partial:
        write_json(partial / ADAPTER_CONFIG, config)
        write_safetensors(partial / _WEIGHTS, tensors)


def load_peft_adapter(model: Decoder, folder: str | os.PathLike[str]) -> None:
    """Adapt a model as a PEFT folder says, and load the adapters.

    Where the checkpoint holds several of our layers as one, each gets its rows of that one's adapter.

    Args:
        model: The base model, without adapters.
        folder: Holds adapter_config.json and adapter_model.safetensors, or adapter_model.bin.

    Raises:
        FileNotFoundError: one of the two is missing.
        ValueError: they are damaged, belong to another model, or use more of PEFT than plain LoRA.
    """
    folder = Path(folder)
    dropout = read_peft_config(folder).get("lora_dropout", 0.0)
    if next(lora_layers(model), None) is not None:
        raise ValueError("the model has LoRA adapters already; merge them first (merge_lora)")
    adapters = read_peft_adapter(model, folder)
    model.requires_grad_(requires_grad=False)
    for adapter in adapters.values():
        for name, lora_b in zip(adapter.ours, adapter.split(adapter.lora_b), strict=True):  # lora_b: [out, r]
            linear = _linear(model, name)
            assert not linear.weight.is_meta, "load the model's weights before its adapters"
            layer = LoRALinear(linear, adapter.lora_a.shape[0], adapter.alpha, dropout)
            with torch.no_grad():
                layer.lora_a.copy_(adapter.lora_a)
                layer.lora_b.copy_(lora_b)
            model.set_submodule(name, layer)


@frozen(kw_only=True)
class LayerAdapter:
    """The change of one layer of a checkpoint, `alpha / rank * B A`; the layer may hold several of ours."""

    ours: tuple[str, ...]
    """Our names of the layers, in their order."""
    rows: tuple[int, ...]
    """How many of the checkpoint's layer belong to each."""
    lora_a: Tensor
    """A `[r, in]`."""
    lora_b: Tensor
    """B `[out, r]`."""
    alpha: float

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return self.alpha / self.lora_a.shape[0]

    def split(self, matrix: Tensor) -> tuple[Tensor, ...]:
        """Split the rows of a matrix `[out, ...]` between our layers."""
        return torch.split(matrix, list(self.rows))


def read_peft_adapter(model: Decoder, folder: Path) -> dict[str, LayerAdapter]:
    """Read a PEFT folder's adapters, by the checkpoint's names of the layers.

    Args:
        model: The base model, without adapters; it may be on the meta device.
        folder: As in `load_peft_adapter`.

    Raises:
        FileNotFoundError: as in `load_peft_adapter`.
        ValueError: as in `load_peft_adapter`.
    """
    config, tensors = read_peft_config(folder), read_peft_tensors(folder)
    layers = _layers(model)
    return {
        theirs: LayerAdapter(
            ours=layers[theirs],
            rows=tuple(_linear(model, name).out_features for name in layers[theirs]),
            lora_a=tensors[f"{_PREFIX}{theirs}.{_PARTS['lora_a']}"],
            lora_b=tensors[f"{_PREFIX}{theirs}.{_PARTS['lora_b']}"],
            alpha=of_pattern(config, "alpha_pattern", theirs, config["lora_alpha"]),
        )
        for theirs in _check_tensors(model, layers, tensors, config, folder)
    }


def read_peft_tensors(folder: Path) -> dict[str, Tensor]:
    """Read a PEFT folder's tensors, by its names.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are damaged.
    """
    pickled = folder / "adapter_model.bin"  # what older releases of PEFT wrote
    path = folder / _WEIGHTS
    files = one_file(pickled if pickled.is_file() and not path.is_file() else path)
    return {name: files.read(name) for name in files.shapes}


def copy_peft_adapter(
    source: Path, folder: Path, *, base_model: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write a PEFT folder's adapters once more, with the tokenizer's files that stand beside them.

    Args:
        source: As in `load_peft_adapter`.
        folder: Written beside and renamed once complete.
        base_model: What they belong to. None: what the source says.
        dtype: Of the adapters. None: their own.

    Raises:
        FileExistsError: the folder has something in it.
        FileNotFoundError: as in `load_peft_adapter`.
        ValueError: as in `load_peft_adapter`.
    """
    config, tensors = read_peft_config(source), read_peft_tensors(source)
    if base_model is not None:
        config["base_model_name_or_path"] = base_model
    with written_whole(folder) as partial:
        copy_files(source, partial, [*TOKENIZER_FILES, GENERATION_CONFIG])
        write_json(partial / ADAPTER_CONFIG, config)
        write_safetensors(partial / _WEIGHTS, {name: t.to(dtype or t.dtype) for name, t in tensors.items()})


def _layers(model: Decoder) -> dict[str, tuple[str, ...]]:
    """Name every linear layer as checkpoints do, each with those of ours that it holds."""
    ours = [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, LoRALinear))]
    groups = hf_groups(model.architecture, [f"{name}.weight" for name in ours])
    return {
        theirs.removesuffix(".weight"): tuple(name.removesuffix(".weight") for name in names)
        for theirs, names in groups.items()
    }


def _linear(model: Decoder, name: str) -> nn.Linear:
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear


def _fused(model: Decoder, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the adapters, A `[r, in]` and B `[out, r]`, of the layers as checkpoints hold them.

    Several of ours become one of a larger rank: their A below each other, their B as the blocks of a matrix of zeros,
    so that each still changes its own rows alone.
    """
    found = {}
    for theirs, names in _layers(model).items():
        present = [name for name in names if f"{name}.lora_a" in state]
        if not present:
            continue
        lora_a = torch.cat([state[f"{name}.lora_a"] for name in present])
        rows = []
        for name in names:
            out = model.get_submodule(name).out_features
            block = lora_a.new_zeros(int(out), lora_a.shape[0])  # type: ignore[arg-type]  # a linear layer's
            if name in present:
                rank = state[f"{name}.lora_a"].shape[0]
                start = present.index(name) * rank
                block[:, start : start + rank] = state[f"{name}.lora_b"]
            rows.append(block)
        found[theirs] = lora_a, torch.cat(rows)
    return found


def _adapter_config(model: Decoder, base_model: str | None, ranks: Mapping[str, int]) -> dict[str, Any]:
    """Describe the adapters.

    Args:
        model: With them.
        base_model: What they belong to.
        ranks: The rank of each adapted layer, by the checkpoint's name.
    """
    layers = dict(lora_layers(model))
    if not layers:
        raise ValueError("the model has no LoRA adapters to write; add_lora gives it some")
    first = next(iter(layers.values()))
    assert all((layer.rank, layer.alpha) == (first.rank, first.alpha) for layer in layers.values())
    larger = {name: rank for name, rank in ranks.items() if rank != first.rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout.p,
        "target_modules": _target_modules(model, set(ranks)),
        "inference_mode": True,
        "fan_in_fan_out": bool(FAMILIES[model.architecture.family].transposed),
        "rank_pattern": larger,
        "alpha_pattern": {name: first.alpha * rank / first.rank for name, rank in larger.items()},
        **PLAIN,
    }


def _target_modules(model: Decoder, adapted: set[str]) -> list[str]:
    """Name the adapted layers as briefly as PEFT allows: by the last part, where all so called are."""
    leaves = {name.rpartition(".")[2] for name in adapted}
    alike = {name for name in _layers(model) if name.rpartition(".")[2] in leaves}
    return sorted(leaves) if alike == adapted else sorted(adapted)


def _check_tensors(
    model: Decoder,
    layers: Mapping[str, tuple[str, ...]],
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    folder: Path,
) -> list[str]:
    """Compare an adapter's tensors with the model's layers, and return the checkpoint's names of those it adapts."""
    ends = {f".{part}": part for part in _PARTS.values()}
    adapted: dict[str, None] = {}
    for name in sorted(tensors):
        end = next((e for e in ends if name.endswith(e)), "")
        layer = name.removeprefix(_PREFIX).removesuffix(end)
        if not end or layer not in layers:
            raise ValueError(
                f"the adapter in {folder} is another model's, or of another kind: there is no place for {name}"
            )
        adapted[layer] = None
    for layer in adapted:
        linears = [_linear(model, name) for name in layers[layer]]
        rank = of_pattern(config, "rank_pattern", layer, config["r"])
        shapes = {
            _PARTS["lora_a"]: [rank, linears[0].in_features],
            _PARTS["lora_b"]: [sum(linear.out_features for linear in linears), rank],
        }
        for part, shape in shapes.items():
            name = f"{_PREFIX}{layer}.{part}"
            found = list(tensors[name].shape) if name in tensors else "missing"
            if found != shape:
                raise ValueError(
                    f"the adapter in {folder} is another model's: {name} should be {shape}, it is {found}"
                )
    return list(adapted)
