"""How PEFT's folders name adapted layers, trained modules and their tensors."""

from collections.abc import Mapping

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from torchtune.formats.hf._weights import hf_groups, hf_name
from torchtune.modules import ADAPTERS, EMBEDDING_ADAPTERS, Adapter, AdapterKind, Decoder

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
TABLE, HEAD = "embed_tokens", "lm_head"
"""Our names of the embedding table and of the output head; the latter is also that of checkpoints."""


def peft_layers(model: Decoder) -> dict[str, tuple[str, ...]]:
    """Name every layer that may be adapted as checkpoints do, each with those of ours that it holds, in their order."""
    ours = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) or name == TABLE]
    groups = hf_groups(model.architecture, [f"{name}.weight" for name in ours])
    return {
        theirs.removesuffix(".weight"): tuple(name.removesuffix(".weight") for name in names)
        for theirs, names in groups.items()
    }


def table_name(model: Decoder) -> str:
    """Name the embedding table as checkpoints do."""
    return hf_name(f"{TABLE}.weight", model.architecture.family).removesuffix(".weight")


def with_own_head(model: Decoder) -> Decoder:
    """Return a model of the same sizes, on the meta device, whose output head is not its embedding table."""
    with torch.device("meta"):
        return Decoder(evolve(model.architecture, tied_embeddings=False))


def adapter_class(kind: AdapterKind, name: str) -> type[Adapter] | None:
    """Return what a kind adapts a layer with, by our name of the layer; None: it does not."""
    if name in (TABLE, HEAD) and kind not in EMBEDDING_ADAPTERS:
        return None
    return EMBEDDING_ADAPTERS[kind] if name == TABLE else ADAPTERS[kind]


@frozen(kw_only=True)
class CheckpointAdapter:
    """The adapter of one layer of a checkpoint, which may hold several of ours."""

    tensors: dict[str, Tensor]
    """By our names of its parameters: A `[r, in]`, B `[out, r]`, and what else its kind has."""
    alpha: float
    of_peft: Mapping[str, str]
    """PEFT's names of the parameters by ours."""

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.tensors["lora_a"].shape[0]

    def head(self, of_peft: Mapping[str, str]) -> "CheckpointAdapter":
        """Return the change that a tied output head sees of that of the embedding table: its transpose."""
        # Copies, as a file of safetensors holds no tensor twice.
        tensors = {"lora_a": self.tensors["lora_b"].T.clone(), "lora_b": self.tensors["lora_a"].T.clone()}
        return CheckpointAdapter(tensors=tensors, alpha=self.alpha, of_peft=of_peft)
