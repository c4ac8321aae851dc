"""Names of adapted layers and their tensors in PEFT folders."""

from collections.abc import Mapping

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from torchtune.formats.hf._weights import hf_groups, hf_name
from torchtune.modules import ADAPTERS, EMBEDDING_ADAPTERS, Adapter, AdapterKind, Decoder

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
TABLE, HEAD = "embed_tokens", "lm_head"
"""Names of the embedding table and the output head in our models; checkpoints use the same name for the head."""


def peft_layers(model: Decoder) -> dict[str, tuple[str, ...]]:
    """Map the checkpoint name of every adaptable layer to the names of the model layers that it fuses, in order."""
    layer_names = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) or name == TABLE]
    groups = hf_groups(model.architecture, [f"{name}.weight" for name in layer_names])
    return {
        checkpoint_name.removesuffix(".weight"): tuple(name.removesuffix(".weight") for name in names)
        for checkpoint_name, names in groups.items()
    }


def table_name(model: Decoder) -> str:
    """Return the checkpoint name of the embedding table."""
    return hf_name(f"{TABLE}.weight", model.architecture.family).removesuffix(".weight")


def with_untied_head(model: Decoder) -> Decoder:
    """Return a model of the same sizes with an untied output head, on the meta device."""
    with torch.device("meta"):
        return Decoder(evolve(model.architecture, tied_embeddings=False))


def adapter_class(kind: AdapterKind, name: str) -> type[Adapter] | None:
    """Return the adapter class of a kind for a model layer; None if the kind does not support the layer."""
    if name in (TABLE, HEAD) and kind not in EMBEDDING_ADAPTERS:
        return None
    return EMBEDDING_ADAPTERS[kind] if name == TABLE else ADAPTERS[kind]


@frozen(kw_only=True)
class CheckpointAdapter:
    """The adapter of one checkpoint layer, which may fuse several model layers."""

    tensors: dict[str, Tensor]
    """Tensors by parameter name in our models: A `[r, in]`, B `[out, r]`, and further parameters of the kind."""
    alpha: float
    peft_names: Mapping[str, str]
    """Maps parameter names in our models to their names in PEFT."""

    @property
    def rank(self) -> int:
        """The number of rows of A."""
        return self.tensors["lora_a"].shape[0]

    def transposed(self, peft_names: Mapping[str, str]) -> "CheckpointAdapter":
        """Return the transpose of an embedding table's adapter, which adapts the tied output head."""
        # Cloned, since a safetensors file cannot store a tensor twice.
        tensors = {"lora_a": self.tensors["lora_b"].T.clone(), "lora_b": self.tensors["lora_a"].T.clone()}
        return CheckpointAdapter(tensors=tensors, alpha=self.alpha, peft_names=peft_names)
