"""How PEFT's folders name adapted layers and their tensors."""

from attrs import frozen
from torch import Tensor, nn

from torchtune.formats.hf._weights import hf_groups
from torchtune.modules import Decoder

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"


def peft_layers(model: Decoder) -> dict[str, tuple[str, ...]]:
    """Name every linear layer as checkpoints do, each with those of ours that it holds, in their order."""
    ours = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    groups = hf_groups(model.architecture, [f"{name}.weight" for name in ours])
    return {
        theirs.removesuffix(".weight"): tuple(name.removesuffix(".weight") for name in names)
        for theirs, names in groups.items()
    }


@frozen(kw_only=True)
class CheckpointAdapter:
    """The adapter of one layer of a checkpoint, which may hold several of ours."""

    tensors: dict[str, Tensor]
    """By our names of its parameters: A `[r, in]`, B `[out, r]`, and what else its kind has."""
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.tensors["lora_a"].shape[0]
