"""Load adapters from PEFT folders."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from torchtune.files import atomic_folder, write_json
from torchtune.formats._quantized import check_unquantized_tensors
from torchtune.formats._tensor_files import TensorSource, file_tensors
from torchtune.formats._tensor_writer import write_safetensors
from torchtune.formats.hf._weights import expected_shapes, iter_weights
from torchtune.formats.peft._config import ADAPTER_CONFIG, adapter_kind, layer_setting, read_peft_config
from torchtune.formats.peft._layers import (
    HEAD,
    PREFIX,
    TABLE,
    WEIGHTS,
    CheckpointAdapter,
    adapter_class,
    peft_layers,
    table_name,
    with_untied_head,
)
from torchtune.formats.peft._names import match_peft_tensors, unwrapped_peft_tensors
from torchtune.modules import (
    Adaptable,
    Adapter,
    AdapterKind,
    Decoder,
    Embedding,
    Linear,
    add_adapter,
    has_adapters,
)
from torchtune.tokenizers import GENERATION_CONFIG, TOKENIZER_FILES, copy_files


def load_peft_adapter(
    model: Decoder, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None
) -> None:
    """Add the adapters of a PEFT folder to a model, and load them and the modules that were trained in full.

    Where the checkpoint fuses several model layers, each model layer gets its rows of the adapter. The output head of a
    tied model is untied if the folder changes the head and the embedding table differently.

    Args:
        model: The base model, without adapters.
        folder: Contains adapter_config.json, and adapter_model.safetensors or adapter_model.bin.
        dtype: The dtype of the adapters' parameters. None: float32 or wider, for training and merging. The compute
            precision is faster, and rounds the adapters as training steps of that precision do.

    Raises:
        FileNotFoundError: One of the two files is missing.
        ValueError: A file is damaged, the adapter belongs to a different model, or it uses a feature of PEFT other than
            LoRA, rsLoRA and DoRA.
    """
    folder = Path(folder)
    dropout = read_peft_config(folder).get("lora_dropout", 0.0)
    if has_adapters(model):
        raise ValueError("the model already has LoRA adapters; merge them first (merge_lora)")
    adapter = read_peft_adapter(model, folder)
    if adapter.is_untied:
        model.untie()
    model.requires_grad_(requires_grad=False)
    for name, tensor in iter_weights(model, adapter.full_tensors):
        parameter = model.get_parameter(name)
        parameter.copy_(tensor)
        parameter.requires_grad_()
    for layer in adapter.layers.values():
        for name, tensors in layer.split_tensors().items():
            module = add_adapter(
                model,
                name,
                layer.kind,
                layer.rank,
                layer.alpha,
                dropout,
                rank_stabilized=layer.rank_stabilized,
            )
            assert not any(p.is_meta for p in module.parameters()), "load the model's weights first"
            module.load_state_dict(tensors)
            if dtype is not None:
                module.to(dtype)


@frozen(kw_only=True)
class LayerAdapter(CheckpointAdapter):
    """The adapter of one checkpoint layer, with the model layers that it adapts."""

    kind: AdapterKind
    layer_names: tuple[str, ...]
    """Names of the model layers, in the order of their rows."""
    row_counts: tuple[int, ...]
    """Number of rows of the checkpoint layer that belong to each model layer."""
    rank_stabilized: bool

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Split the rows of a tensor `[out, ...]` among the model layers."""
        return (tensor,) if len(self.layer_names) == 1 else torch.split(tensor, list(self.row_counts))

    def split_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the adapter tensors of each model layer: all of A, and the layer's rows of the other tensors."""
        by_layer = {name: {"lora_a": self.tensors["lora_a"]} for name in self.layer_names}
        for parameter in self.tensors.keys() - {"lora_a"}:
            for name, rows in zip(self.layer_names, self.split(self.tensors[parameter]), strict=True):
                by_layer[name][parameter] = rows
        return by_layer

    def adapters(self) -> dict[str, Adapter]:
        """Return the adapters of the model layers by layer name, not attached to the layers."""
        n_inputs = self.tensors["lora_a"].shape[1]
        adapters = {}
        for (name, tensors), n_rows in zip(self.split_tensors().items(), self.row_counts, strict=True):
            adapters[name] = _meta_adapter(
                self.kind, name, n_inputs, n_rows, self.rank, self.alpha, rank_stabilized=self.rank_stabilized
            )
            adapters[name].load_state_dict(tensors, assign=True)
        return adapters


@frozen(kw_only=True)
class PeftAdapter:
    """The changes that a PEFT folder makes to a model."""

    layers: dict[str, LayerAdapter]
    """The adapters by the checkpoint names of the layers."""
    full_tensors: TensorSource
    """Tensors that replace tensors of the base, by checkpoint name: `modules_to_save`, and the base's embeddings, which
    PEFT writes along with an adapter for them."""
    is_untied: bool
    """Whether the embedding table and the output head are tied in the base but changed differently."""


def read_peft_adapter(model: Decoder, folder: Path) -> PeftAdapter:
    """Read a PEFT folder's adapters, and the modules that were trained in full.

    Args:
        model: The base model, without adapters; it may be on the meta device.
        folder: As in `load_peft_adapter`.

    Raises:
        FileNotFoundError: As in `load_peft_adapter`.
        ValueError: As in `load_peft_adapter`.
    """
    config, is_tied = read_peft_config(folder), model.architecture.tied_embeddings
    reader = _Reader(with_untied_head(model), folder, config)
    layers, full_tensors = reader.layers(), reader.full_tensors()
    table = table_name(model)
    if is_tied and reader.has_base_embeddings:  # one tensor, stored under one name or both
        shared = full_tensors.get(f"{table}.weight", full_tensors.get(f"{HEAD}.weight"))
        assert shared is not None
        full_tensors |= {f"{table}.weight": shared, f"{HEAD}.weight": shared}
    is_untied = is_tied and not _stays_tied(layers, full_tensors, table)
    if is_tied and not is_untied:
        layers.pop(HEAD, None)
        full_tensors.pop(f"{HEAD}.weight", None)
    source = TensorSource(
        shapes={name: list(t.shape) for name, t in full_tensors.items()},
        dtypes={name: t.dtype for name, t in full_tensors.items()},
        read=full_tensors.__getitem__,
    )
    return PeftAdapter(layers=layers, full_tensors=source, is_untied=is_untied)


def _stays_tied(layers: Mapping[str, LayerAdapter], full_tensors: Mapping[str, Tensor], table: str) -> bool:
    """Return whether the embedding table and the output head are still equal after a folder's changes."""
    tensors = full_tensors.get(f"{table}.weight"), full_tensors.get(f"{HEAD}.weight")
    adapters = layers.get(table), layers.get(HEAD)
    if (tensors[0] is None) != (tensors[1] is None) or (adapters[0] is None) != (adapters[1] is None):
        return False
    if tensors[0] is not None and tensors[1] is not None and not torch.equal(tensors[0], tensors[1]):
        return False
    if adapters[0] is None or adapters[1] is None:
        return True
    head, tied_head = adapters[1], adapters[0].transposed(adapters[1].peft_names)
    equal = [torch.equal(tensor, head.tensors[name]) for name, tensor in tied_head.tensors.items()]
    return head.alpha == tied_head.alpha and all(equal)


class _Reader:
    """Reads a PEFT folder.

    Args:
        model: The base model, untied and on the meta device.
        folder: The PEFT folder.
        config: The content of its adapter_config.json.
    """

    def __init__(self, model: Decoder, folder: Path, config: Mapping[str, Any]) -> None:
        self.model, self.folder, self.config = model, folder, config
        self.kind = adapter_kind(config)
        self.by_layer = peft_layers(model)
        self.parameters = expected_shapes(model)
        # Maps PEFT's names of all possible adapter tensors to checkpoint layers and parameter names in our models.
        self.parts: dict[str, tuple[str, str]] = {}
        for layer, names in self.by_layer.items():
            adapter = adapter_class(self.kind, names[0])
            for parameter, peft_name in ({} if adapter is None else adapter.peft_tensors).items():
                self.parts[f"{PREFIX}{layer}.{peft_name}"] = layer, parameter
        raw = read_peft_tensors(folder)
        self.has_base_embeddings = any(".base_layer." in name for name in raw)
        self.tensors = match_peft_tensors(
            raw, [*self.parts, *(f"{PREFIX}{name}" for name in self.parameters)]
        )
        self._check_names()

    def layers(self) -> dict[str, LayerAdapter]:
        """Return the adapters by the checkpoint names of the layers."""
        adapted = dict.fromkeys(self.parts[name][0] for name in sorted(self.tensors) if name in self.parts)
        return {layer: self._layer(layer) for layer in adapted}

    def full_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that replace tensors of the base, by checkpoint name."""
        tensors = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in self.tensors.items()
            if name not in self.parts
        }
        for name, tensor in tensors.items():
            expected, shape = self.parameters[name], list(tensor.shape)
            if shape != expected:
                is_resized = shape[1:] == expected[1:] and expected[0] == self.model.architecture.vocab_size
                message = self._mismatch(f"{PREFIX}{name}", expected, shape)
                if is_resized:
                    message += (
                        "; the adapter's vocabulary was resized: resize the base too (tune convert <base>"
                        f" <folder> --vocab-size {shape[0]}), then use the resized base"
                    )
                raise ValueError(message)
        return tensors

    def _layer(self, checkpoint_name: str) -> LayerAdapter:
        names, config = self.by_layer[checkpoint_name], self.config
        layers = [self.model.get_submodule(name) for name in names]
        sizes = [layer.adapter_sizes for layer in layers if isinstance(layer, Adaptable)]
        row_counts = tuple(n_outputs for _, n_outputs in sizes)
        rank = layer_setting(config, "rank_pattern", checkpoint_name, config["r"])
        alpha = layer_setting(config, "alpha_pattern", checkpoint_name, config["lora_alpha"])
        peft_names = {
            parameter: name for name, (layer, parameter) in self.parts.items() if layer == checkpoint_name
        }
        adapter = _meta_adapter(self.kind, names[0], sizes[0][0], sum(row_counts), rank, alpha)
        for name, parameter in adapter.named_parameters():
            tensor, expected = self.tensors.get(peft_names[name]), list(parameter.shape)
            shape = None if tensor is None else list(tensor.shape)
            if shape != expected:
                raise ValueError(self._mismatch(peft_names[name], expected, shape))
        return LayerAdapter(
            layer_names=names,
            row_counts=row_counts,
            kind=self.kind,
            tensors={parameter: self.tensors[name] for parameter, name in peft_names.items()},
            peft_names={
                parameter: name.removeprefix(f"{PREFIX}{checkpoint_name}.")
                for parameter, name in peft_names.items()
            },
            alpha=alpha,
            rank_stabilized=bool(config.get("use_rslora")),
        )

    def _check_names(self) -> None:
        known_names = {*self.parts, *(f"{PREFIX}{name}" for name in self.parameters)}
        for name in sorted(self.tensors.keys() - known_names):
            raise ValueError(
                f"the adapter in {self.folder} belongs to a different model or has a different kind:"
                f" unexpected tensor {name}"
            )

    def _mismatch(self, name: str, expected: list[int], shape: list[int] | None) -> str:
        problem = "is missing" if shape is None else f"has shape {shape}"
        return f"the adapter in {self.folder} belongs to a different model: {name} {problem}; expected shape {expected}"


def _meta_adapter(
    kind: AdapterKind,
    name: str,
    n_inputs: int,
    n_outputs: int,
    rank: int,
    alpha: float,
    *,
    rank_stabilized: bool = False,
) -> Adapter:
    """Return an adapter on the meta device for a layer with the given name and widths."""
    build_adapter = adapter_class(kind, name)
    assert build_adapter is not None
    layer = Embedding if name == TABLE else Linear
    return build_adapter(
        layer(n_inputs, n_outputs, device="meta"), rank, alpha, rank_stabilized=rank_stabilized
    )


def read_peft_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a PEFT folder, under the names in its file.

    Raises:
        FileNotFoundError: The folder has no weights.
        ValueError: The weights are damaged or quantized.
    """
    pickled = folder / "adapter_model.bin"  # written by older releases of PEFT
    path = folder / WEIGHTS
    files = file_tensors(pickled if pickled.is_file() and not path.is_file() else path)
    check_unquantized_tensors(folder, files, files.shapes.keys())
    return {name: files.read(name) for name in files.shapes}


def copy_peft_adapter(
    source: Path,
    folder: Path,
    *,
    base_model: str | None = None,
    model: Decoder | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Copy a PEFT folder: its adapter and its tokenizer files.

    Segments that wrappers such as torch.compile add to tensor names are removed.

    Args:
        source: As in `load_peft_adapter`.
        folder: The folder to write; it appears only once it is complete.
        base_model: Folder or hub name of the base model, for adapter_config.json. None: as in the source.
        model: The base model on the meta device; None if it is unknown.
        dtype: The dtype to write. None: the dtype of each tensor.

    Raises:
        FileExistsError: The folder exists and is not empty.
        FileNotFoundError: As in `load_peft_adapter`.
        ValueError: As in `load_peft_adapter`.
    """
    config = read_peft_config(source)
    if model is None:
        tensors = unwrapped_peft_tensors(read_peft_tensors(source))
    else:
        tensors = _Reader(with_untied_head(model), source, config).tensors
    if base_model is not None:
        config["base_model_name_or_path"] = base_model
    with atomic_folder(folder) as partial:
        copy_files(source, partial, [*TOKENIZER_FILES, GENERATION_CONFIG])
        write_json(partial / ADAPTER_CONFIG, config)
        write_safetensors(partial / WEIGHTS, {name: t.to(dtype or t.dtype) for name, t in tensors.items()})
