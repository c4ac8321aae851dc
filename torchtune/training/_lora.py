"""The section of a config for low-rank adapters."""

from attrs import asdict, define, field

from torchtune.config import LocalPath, above, not_empty, share
from torchtune.formats import check_peft_adapter, check_same_adapters, load_same_adapters
from torchtune.modules import AdapterKind, Decoder, add_lora


@define(kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) next to frozen weights."""

    targets: list[str] = field(factory=lambda: ["q_proj", "v_proj"], validator=not_empty())
    """Names of the layers that get an adapter, or patterns such as `layers.[0-9].*.q_proj`; `all-linear` means all
    linear layers but the output head (`lm_head`), and `embed_tokens` is the embedding table."""
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

    modules_to_save: list[str] = field(factory=list)
    """Names or patterns of modules that are trained in full, and saved with the adapters: `embed_tokens` and `lm_head`
    if tokens were added."""
    adapter_directory: LocalPath | None = None
    """A PEFT adapter's folder, such as a run's `final/`, to train further; the fields above have to be as it has them.
    Null: a new adapter."""

    def add_to(self, model: Decoder) -> None:
        """Add the adapters and freeze everything else, in place; the model may be on the meta device.

        Raises:
            FileNotFoundError: The adapter to be trained further is missing.
            ValueError: A target or module matches nothing in the model, a number is out of range, PEFT does not support
                such adapters, or the adapter to be trained further is another one.
        """
        add_lora(model, **asdict(self, filter=lambda field, _: field.name != "adapter_directory"))
        check_peft_adapter(model)
        if self.adapter_directory is not None:
            check_same_adapters(model, self.adapter_directory)

    def load_into(self, model: Decoder) -> None:
        """Load the adapter that is trained further, if there is one; all ranks must call it.

        Args:
            model: Placed, with the adapters of `add_to`.
        """
        if self.adapter_directory is not None:
            load_same_adapters(model, self.adapter_directory)
