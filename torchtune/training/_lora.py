"""The section of a config for low-rank adapters."""

from attrs import asdict, define, field

from torchtune.config import above, not_empty, share
from torchtune.formats import check_peft_adapter
from torchtune.modules import AdapterKind, Decoder, add_lora


@define(kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) next to frozen weights."""

    targets: list[str] = field(factory=lambda: ["q_proj", "v_proj"], validator=not_empty())
    """Names of the linear layers that get an adapter; `all-linear` means all but the output head."""
    rank: int = field(default=8, validator=above(0))
    """Inner width of an adapter."""
    alpha: float = field(default=16.0, validator=above(0))
    """An adapter's output is scaled by alpha / rank, see `rank_stabilized`."""
    dropout: float = field(default=0.0, validator=share())
    """Share of an adapter's inputs that are dropped while training, from 0 to below 1."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank), with which large ranks learn as fast as small ones (rsLoRA, arXiv:2312.03732)."""
    kind: AdapterKind = "lora"
    """`lora`, or `dora`, which also trains the length of each row of a weight (DoRA, arXiv:2402.09353)."""

    def add_to(self, model: Decoder) -> None:
        """Add the adapters and freeze everything else, in place.

        Raises:
            ValueError: No linear layer of the model matches a target, a number is out of range, or PEFT does not
                support such adapters.
        """
        add_lora(model, **asdict(self))
        check_peft_adapter(model)
