"""The config section for low-rank adapters."""

from attrs import asdict, define, field

from torchtune.config import LocalPath, above, fraction, not_empty
from torchtune.formats import check_peft_adapter, check_same_adapters, load_same_adapters
from torchtune.modules import AdapterKind, Decoder, add_lora


@define(kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) added to frozen weights."""

    targets: list[str] = field(factory=lambda: ["q_proj", "v_proj"], validator=not_empty())
    """Layers to adapt: names or patterns such as `layers.[0-9].*.q_proj`. `all-linear`: all linear layers except the
    output head (`lm_head`); `embed_tokens`: the embedding."""
    rank: int = field(default=8, validator=above(0))
    """Rank (inner dimension) of an adapter."""
    alpha: float = field(default=16.0, validator=above(0))
    """Scales an adapter's output by alpha / rank (see `rank_stabilized`)."""
    dropout: float = field(default=0.0, validator=fraction())
    """Dropout probability for an adapter's input during training, at least 0 and below 1."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank) instead, so that high ranks learn as fast as low ones (rsLoRA, arXiv:2312.03732)."""
    kind: AdapterKind = "lora"
    """`lora`, or `dora`, which also trains the magnitude of each row of a weight (DoRA, arXiv:2402.09353)."""

    modules_to_save: list[str] = field(factory=list)
    """Names or patterns of modules to train in full and save with the adapters, such as `embed_tokens` and `lm_head`
    after adding tokens."""
    adapter_directory: LocalPath | None = None
    """PEFT folder of an adapter to train further, such as a run's `final/`. The fields above must match the adapter.
    Null: a new adapter."""

    def add_to(self, model: Decoder) -> None:
        """Add the adapters and freeze all other parameters, in place; the model may be on the meta device.

        Raises:
            FileNotFoundError: `adapter_directory` does not exist.
            ValueError: A target or module matches nothing in the model, a number is out of range, PEFT does not support
                such adapters, or the adapter in `adapter_directory` has different settings.
        """
        add_lora(model, **asdict(self, filter=lambda field, _: field.name != "adapter_directory"))
        check_peft_adapter(model)
        if self.adapter_directory is not None:
            check_same_adapters(model, self.adapter_directory)

    def load_into(self, model: Decoder) -> None:
        """Load the adapter in `adapter_directory`, if set; all ranks must call this.

        Args:
            model: The model, already placed on its device, with the adapters of `add_to`.
        """
        if self.adapter_directory is not None:
            load_same_adapters(model, self.adapter_directory)
