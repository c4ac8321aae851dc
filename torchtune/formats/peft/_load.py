"""Adapters out of PEFT's folders."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from torchtune.files import write_json, written_whole
from torchtune.formats._quantised import check_unquantised_tensors
from torchtune.formats._tensor_files import one_file
from torchtune.formats.hf._save import write_safetensors
from torchtune.formats.peft._config import ADAPTER_CONFIG, kind_of, of_pattern, read_peft_config
from torchtune.formats.peft._layers import PREFIX, WEIGHTS, CheckpointAdapter, peft_layers
from torchtune.formats.peft._names import peft_tensors_of
from torchtune.modules import Adapter, Decoder, Linear, adaptable, has_adapters
from torchtune.tokenizers import GENERATION_CONFIG, TOKENIZER_FILES, copy_files


def load_peft_adapter(model: Decoder, folder: str | os.PathLike[str]) -> None:
    """Adapt a model as a PEFT folder says, and load the adapters.

    Where the checkpoint holds several of our layers as one, each gets its rows of that one's adapter.

    Args:
        model: The base model, without adapters.
        folder: Holds adapter_config.json and adapter_model.safetensors, or adapter_model.bin.

    Raises:
        FileNotFoundError: one of the two is missing.
        ValueError: they are damaged, belong to another model, or use more of PEFT than LoRA, rsLoRA and DoRA.
    """
    folder = Path(folder)
    dropout = read_peft_config(folder).get("lora_dropout", 0.0)
    if has_adapters(model):
        raise ValueError("the model has LoRA adapters already; merge them first (merge_lora)")
    adapters = read_peft_adapter(model, folder)
    model.requires_grad_(requires_grad=False)
    for adapter in adapters.values():
        for name, tensors in adapter.shares().items():
            layer = adaptable(model, name)
            layer.adapter = adapter.kind(
                layer, adapter.rank, adapter.alpha, dropout, rank_stabilized=adapter.rank_stabilized
            )
            assert not any(p.is_meta for p in layer.adapter.parameters()), "load the model's weights first"
            layer.adapter.load_state_dict(tensors)


@frozen(kw_only=True)
class LayerAdapter(CheckpointAdapter):
    """The adapter of one layer of a checkpoint, with those of our layers that it adapts."""

    kind: type[Adapter]
    ours: tuple[str, ...]
    """Our names of the layers, in their order."""
    rows: tuple[int, ...]
    """How many of the checkpoint's layer belong to each."""
    rank_stabilized: bool

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Split the rows of a tensor `[out, ...]` between our layers."""
        return torch.split(tensor, list(self.rows))

    def shares(self) -> dict[str, dict[str, Tensor]]:
        """Return the adapter of each of our layers, its tensors by our names: A is whole, the rest are its rows."""
        shares = {name: {"lora_a": self.tensors["lora_a"]} for name in self.ours}
        for part in self.tensors.keys() - {"lora_a"}:
            for name, rows in zip(self.ours, self.split(self.tensors[part]), strict=True):
                shares[name][part] = rows
        return shares

    def adapters(self) -> dict[str, Adapter]:
        """Return the adapters of our layers by name, on no layer."""
        in_features = self.tensors["lora_a"].shape[1]
        adapters = {}
        for (name, tensors), rows in zip(self.shares().items(), self.rows, strict=True):
            layer = Linear(in_features, rows, device="meta")
            adapters[name] = self.kind(layer, self.rank, self.alpha, rank_stabilized=self.rank_stabilized)
            adapters[name].load_state_dict(tensors, assign=True)
        return adapters


def read_peft_adapter(model: Decoder, folder: Path) -> dict[str, LayerAdapter]:
    """Read a PEFT folder's adapters, by the checkpoint's names of the layers.

    Args:
        model: The base model, without adapters; it may be on the meta device.
        folder: As in `load_peft_adapter`.

    Raises:
        FileNotFoundError: as in `load_peft_adapter`.
        ValueError: as in `load_peft_adapter`.
    """
    config = read_peft_config(folder)
    layers, kind = peft_layers(model), kind_of(config)
    tensors = peft_tensors_of(read_peft_tensors(folder), layers, kind.peft_tensors.values())
    return {
        theirs: LayerAdapter(
            ours=layers[theirs],
            rows=tuple(_linear(model, name).out_features for name in layers[theirs]),
            kind=kind,
            tensors={
                part: tensors[f"{PREFIX}{theirs}.{of_peft}"] for part, of_peft in kind.peft_tensors.items()
            },
            alpha=of_pattern(config, "alpha_pattern", theirs, config["lora_alpha"]),
            rank_stabilized=bool(config.get("use_rslora")),
        )
        for theirs in _check_tensors(model, layers, tensors, config, folder)
    }


def read_peft_tensors(folder: Path) -> dict[str, Tensor]:
    """Read a PEFT folder's tensors, by its names.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are damaged, or quantised.
    """
    pickled = folder / "adapter_model.bin"  # what older releases of PEFT wrote
    path = folder / WEIGHTS
    files = one_file(pickled if pickled.is_file() and not path.is_file() else path)
    check_unquantised_tensors(folder, files, files.shapes.keys())
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
        write_safetensors(partial / WEIGHTS, {name: t.to(dtype or t.dtype) for name, t in tensors.items()})


def _linear(model: Decoder, name: str) -> nn.Linear:
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear


def _check_tensors(
    model: Decoder,
    layers: Mapping[str, tuple[str, ...]],
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    folder: Path,
) -> list[str]:
    """Compare an adapter's tensors with the model's layers, and return the checkpoint's names of those it adapts."""
    ends = [f".{of_peft}" for of_peft in kind_of(config).peft_tensors.values()]
    adapted: dict[str, None] = {}
    for name in sorted(tensors):
        end = next((e for e in ends if name.endswith(e)), "")
        layer = name.removeprefix(PREFIX).removesuffix(end)
        if not end or layer not in layers:
            raise ValueError(
                f"the adapter in {folder} is another model's, or of another kind: there is no place for {name}"
            )
        adapted[layer] = None
    for layer in adapted:
        for part, shape in _shapes([_linear(model, name) for name in layers[layer]], layer, config).items():
            name = f"{PREFIX}{layer}.{kind_of(config).peft_tensors[part]}"
            found = list(tensors[name].shape) if name in tensors else "missing"
            if found != shape:
                raise ValueError(
                    f"the adapter in {folder} is another model's: {name} should be {shape}, it is {found}"
                )
    return list(adapted)


def _shapes(linears: list[nn.Linear], layer: str, config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the shapes that the tensors of a checkpoint's layer have, by our names of them."""
    rank = of_pattern(config, "rank_pattern", layer, config["r"])
    out = sum(linear.out_features for linear in linears)
    adapter = kind_of(config)(Linear(linears[0].in_features, out, device="meta"), rank, alpha=1.0)
    return {part: list(parameter.shape) for part, parameter in adapter.named_parameters()}
