"""Adapters out of PEFT's folders."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from torchtune.files import atomic_folder, write_json
from torchtune.formats._quantised import check_unquantised_tensors
from torchtune.formats._tensor_files import TensorSource, one_file
from torchtune.formats.hf._save import write_safetensors
from torchtune.formats.hf._weights import expected_shapes, weights_of
from torchtune.formats.peft._config import ADAPTER_CONFIG, kind_of, of_pattern, read_peft_config
from torchtune.formats.peft._layers import (
    HEAD,
    PREFIX,
    TABLE,
    WEIGHTS,
    CheckpointAdapter,
    adapter_class,
    peft_layers,
    table_name,
    with_own_head,
)
from torchtune.formats.peft._names import peft_tensors_of, unwrapped_peft_tensors
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


def load_peft_adapter(model: Decoder, folder: str | os.PathLike[str]) -> None:
    """Adapt a model as a PEFT folder says, and load the adapters and the modules that were trained in full.

    Where the checkpoint holds several of our layers as one, each gets its rows of that one's adapter. A model whose
    output head is its embedding table gets a head of its own if the folder changes the two differently.

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
    adapter = read_peft_adapter(model, folder)
    if adapter.is_untied:
        model.untie()
    model.requires_grad_(requires_grad=False)
    for name, tensor in weights_of(model, adapter.in_full):
        parameter = model.get_parameter(name)
        parameter.copy_(tensor)
        parameter.requires_grad_()
    for layer in adapter.layers.values():
        for name, tensors in layer.shares().items():
            part = add_adapter(
                model,
                name,
                layer.kind,
                layer.rank,
                layer.alpha,
                dropout,
                rank_stabilized=layer.rank_stabilized,
            )
            assert not any(p.is_meta for p in part.parameters()), "load the model's weights first"
            part.load_state_dict(tensors)


@frozen(kw_only=True)
class LayerAdapter(CheckpointAdapter):
    """The adapter of one layer of a checkpoint, with those of our layers that it adapts."""

    kind: AdapterKind
    ours: tuple[str, ...]
    """Our names of the layers, in their order."""
    rows: tuple[int, ...]
    """How many of the checkpoint's layer belong to each."""
    rank_stabilized: bool

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Split the rows of a tensor `[out, ...]` between our layers."""
        return (tensor,) if len(self.ours) == 1 else torch.split(tensor, list(self.rows))

    def shares(self) -> dict[str, dict[str, Tensor]]:
        """Return the adapter of each of our layers, its tensors by our names: A is whole, the rest are its rows."""
        shares = {name: {"lora_a": self.tensors["lora_a"]} for name in self.ours}
        for part in self.tensors.keys() - {"lora_a"}:
            for name, rows in zip(self.ours, self.split(self.tensors[part]), strict=True):
                shares[name][part] = rows
        return shares

    def adapters(self) -> dict[str, Adapter]:
        """Return the adapters of our layers by name, on no layer."""
        n_inputs = self.tensors["lora_a"].shape[1]
        adapters = {}
        for (name, tensors), rows in zip(self.shares().items(), self.rows, strict=True):
            adapters[name] = _blank(
                self.kind, name, n_inputs, rows, self.rank, self.alpha, rank_stabilized=self.rank_stabilized
            )
            adapters[name].load_state_dict(tensors, assign=True)
        return adapters


@frozen(kw_only=True)
class PeftAdapter:
    """What a PEFT folder changes in a model."""

    layers: dict[str, LayerAdapter]
    """The adapters by the checkpoint's names of the layers."""
    in_full: TensorSource
    """Tensors that take the place of the base's, by the checkpoint's names: those of `modules_to_save`, and the base's
    own embeddings, which PEFT writes next to their adapters."""
    is_untied: bool
    """Whether the embedding table and the output head, which are one in the base, are changed differently."""


def read_peft_adapter(model: Decoder, folder: Path) -> PeftAdapter:
    """Read a PEFT folder's adapters, and the modules that were trained in full.

    Args:
        model: The base model, without adapters; it may be on the meta device.
        folder: As in `load_peft_adapter`.

    Raises:
        FileNotFoundError: as in `load_peft_adapter`.
        ValueError: as in `load_peft_adapter`.
    """
    config, is_tied = read_peft_config(folder), model.architecture.tied_embeddings
    whole = with_own_head(model)
    reader = _Reader(whole, folder, config)
    layers, in_full = reader.layers(), reader.in_full()
    table = table_name(model)
    if is_tied and reader.has_base_embeddings:  # a single tensor under one name or two
        shared = in_full.get(f"{table}.weight", in_full.get(f"{HEAD}.weight"))
        assert shared is not None
        in_full |= {f"{table}.weight": shared, f"{HEAD}.weight": shared}
    is_untied = is_tied and not _changes_both_alike(layers, in_full, table)
    if is_tied and not is_untied:
        layers.pop(HEAD, None)
        in_full.pop(f"{HEAD}.weight", None)
    source = TensorSource(
        shapes={name: list(t.shape) for name, t in in_full.items()},
        dtypes={name: t.dtype for name, t in in_full.items()},
        read=in_full.__getitem__,
    )
    return PeftAdapter(layers=layers, in_full=source, is_untied=is_untied)


def _changes_both_alike(
    layers: Mapping[str, LayerAdapter], in_full: Mapping[str, Tensor], table: str
) -> bool:
    """Tell whether the embedding table and the output head are still one after what a folder changes."""
    tensors = in_full.get(f"{table}.weight"), in_full.get(f"{HEAD}.weight")
    adapters = layers.get(table), layers.get(HEAD)
    if (tensors[0] is None) != (tensors[1] is None) or (adapters[0] is None) != (adapters[1] is None):
        return False
    if tensors[0] is not None and tensors[1] is not None and not torch.equal(tensors[0], tensors[1]):
        return False
    if adapters[0] is None or adapters[1] is None:
        return True
    head, tied_head = adapters[1], adapters[0].head(adapters[1].of_peft)
    equal = [torch.equal(tensor, head.tensors[part]) for part, tensor in tied_head.tensors.items()]
    return head.alpha == tied_head.alpha and all(equal)


class _Reader:
    """Looks into a PEFT folder.

    Args:
        model: On the meta device, with an output head of its own.
        folder: The folder.
        config: Its adapter_config.json.
    """

    def __init__(self, model: Decoder, folder: Path, config: Mapping[str, Any]) -> None:
        self.model, self.folder, self.config = model, folder, config
        self.kind = kind_of(config)
        self.by_layer = peft_layers(model)
        self.parameters = expected_shapes(model)
        # PEFT's name of each tensor that there may be: of an adapter's parameter, as (layer, ours); else a whole one.
        self.parts: dict[str, tuple[str, str]] = {}
        for layer, names in self.by_layer.items():
            kind = adapter_class(self.kind, names[0])
            for ours, theirs in ({} if kind is None else kind.peft_tensors).items():
                self.parts[f"{PREFIX}{layer}.{theirs}"] = layer, ours
        raw = read_peft_tensors(folder)
        self.has_base_embeddings = any(".base_layer." in name for name in raw)
        self.tensors = peft_tensors_of(raw, [*self.parts, *(f"{PREFIX}{name}" for name in self.parameters)])
        self._check_names()

    def layers(self) -> dict[str, LayerAdapter]:
        """Return the adapters by the checkpoint's names of the layers."""
        adapted = dict.fromkeys(self.parts[name][0] for name in sorted(self.tensors) if name in self.parts)
        return {theirs: self._layer(theirs) for theirs in adapted}

    def in_full(self) -> dict[str, Tensor]:
        """Return the tensors that take the place of the base's, by the checkpoint's names."""
        tensors = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in self.tensors.items()
            if name not in self.parts
        }
        for name, tensor in tensors.items():
            expected, shape = self.parameters[name], list(tensor.shape)
            if shape != expected:
                is_resized = shape[1:] == expected[1:] and expected[0] == self.model.architecture.vocab_size
                mistake = self._not_of_model(f"{PREFIX}{name}", expected, shape)
                if is_resized:
                    mistake += (
                        "; its vocabulary was resized: resize the base's as well (tune convert <base> <folder>"
                        f" --vocab-size {shape[0]}), and name that base"
                    )
                raise ValueError(mistake)
        return tensors

    def _layer(self, theirs: str) -> LayerAdapter:
        names, config = self.by_layer[theirs], self.config
        layers = [self.model.get_submodule(name) for name in names]
        sizes = [layer.adapter_sizes for layer in layers if isinstance(layer, Adaptable)]
        rows = tuple(n_outputs for _, n_outputs in sizes)
        rank = of_pattern(config, "rank_pattern", theirs, config["r"])
        alpha = of_pattern(config, "alpha_pattern", theirs, config["lora_alpha"])
        of_peft = {ours: name for name, (layer, ours) in self.parts.items() if layer == theirs}
        blank = _blank(self.kind, names[0], sizes[0][0], sum(rows), rank, alpha)
        for ours, parameter in blank.named_parameters():
            tensor, expected = self.tensors.get(of_peft[ours]), list(parameter.shape)
            shape = "missing" if tensor is None else list(tensor.shape)
            if shape != expected:
                raise ValueError(self._not_of_model(of_peft[ours], expected, shape))
        return LayerAdapter(
            ours=names,
            rows=rows,
            kind=self.kind,
            tensors={ours: self.tensors[name] for ours, name in of_peft.items()},
            of_peft={ours: name.removeprefix(f"{PREFIX}{theirs}.") for ours, name in of_peft.items()},
            alpha=alpha,
            rank_stabilized=bool(config.get("use_rslora")),
        )

    def _check_names(self) -> None:
        known = {*self.parts, *(f"{PREFIX}{name}" for name in self.parameters)}
        for name in sorted(self.tensors.keys() - known):
            raise ValueError(
                f"the adapter in {self.folder} is another model's, or of another kind: there is no place for {name}"
            )

    def _not_of_model(self, name: str, expected: list[int], shape: list[int] | str) -> str:
        return f"the adapter in {self.folder} is another model's: {name} should be {expected}, it is {shape}"


def _blank(
    kind: AdapterKind,
    name: str,
    n_inputs: int,
    n_outputs: int,
    rank: int,
    alpha: float,
    *,
    rank_stabilized: bool = False,
) -> Adapter:
    """Return an adapter on the meta device, for a layer of this name and these widths."""
    adapter = adapter_class(kind, name)
    assert adapter is not None
    layer = Embedding if name == TABLE else Linear
    return adapter(layer(n_inputs, n_outputs, device="meta"), rank, alpha, rank_stabilized=rank_stabilized)


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
    source: Path,
    folder: Path,
    *,
    base_model: str | None = None,
    model: Decoder | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a PEFT folder's adapters once more, with the tokenizer's files that stand beside them.

    Names of tensors lose what wrappers such as torch.compile put into them.

    Args:
        source: As in `load_peft_adapter`.
        folder: Written beside and renamed once complete.
        base_model: What they belong to. None: what the source says.
        model: The same, on the meta device; None if it is not known.
        dtype: Of the adapters. None: their own.

    Raises:
        FileExistsError: the folder has something in it.
        FileNotFoundError: as in `load_peft_adapter`.
        ValueError: as in `load_peft_adapter`.
    """
    config = read_peft_config(source)
    if model is None:
        tensors = unwrapped_peft_tensors(read_peft_tensors(source))
    else:
        tensors = _Reader(with_own_head(model), source, config).tensors
    if base_model is not None:
        config["base_model_name_or_path"] = base_model
    with atomic_folder(folder) as partial:
        copy_files(source, partial, [*TOKENIZER_FILES, GENERATION_CONFIG])
        write_json(partial / ADAPTER_CONFIG, config)
        write_safetensors(partial / WEIGHTS, {name: t.to(dtype or t.dtype) for name, t in tensors.items()})
