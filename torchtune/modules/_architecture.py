"""What a decoder is, in numbers."""

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import asdict, field, fields_dict, frozen
from attrs.validators import gt, optional

from torchtune.modules._attention import GroupedQuerySpec
from torchtune.modules._feed_forward import DenseSpec
from torchtune.modules._parts import AttentionSpec, FeedForwardSpec, NormSpec, PositionsSpec
from torchtune.modules._positions import RotarySpec
from torchtune.modules._rms_norm import RMSNormSpec


@frozen(kw_only=True)
class Architecture:
    """The sizes and constants that define a decoder, without its weights, and the spec of each part of its layers.

    A model holds its own, so that whoever saves it knows what to write into its config.json.
    """

    family: str = "llama"
    """The kind of model that others know it as: `model_type` in a Hugging Face config.json."""
    vocab_size: int = field(validator=gt(0))
    """Number of token ids."""
    num_layers: int = field(validator=gt(0))
    """Number of decoder layers."""
    embed_dim: int = field(validator=gt(0))
    """Width of the residual stream."""
    max_seq_len: int = field(validator=gt(0))
    """Longest sequence, in tokens."""
    tied_embeddings: bool
    """Whether the output head is the embedding table itself."""
    embed_scale: float = 1.0
    """What embeddings are multiplied by."""
    final_softcap: float | None = field(default=None, validator=optional(gt(0)))
    """Bound c of logits z, which become c tanh(z / c) (arXiv 2408.00118, section 2); None: none."""

    attention: AttentionSpec
    """What mixes tokens in a layer."""
    feed_forward: FeedForwardSpec
    """What maps each token in a layer."""
    norm: NormSpec
    """Norms of layers, and the final one."""
    positions: PositionsSpec
    """How positions are known."""

    @classmethod
    def of(cls, **values: Any) -> "Architecture":
        """Build an architecture from numbers alone, each of which goes to the spec that has a field of its name.

        Args:
            **values: Fields of this class and of the specs. `attention`, `feed_forward`, `norm` and `positions` are
                classes of specs; those that are left out are a Llama's.

        Raises:
            TypeError: no spec has such a field, or a field without a default is missing.
            ValueError: a number is out of its range.
        """
        kinds = {name: values.pop(name, kind) for name, kind in _LLAMA.items()}
        parts: dict[str, Any] = {}
        for name, kind in kinds.items():
            parts[name] = kind(**{key: values.pop(key) for key in fields_dict(kind) if key in values})
        return cls(**values, **parts)

    def vary(self, **values: Any) -> "Architecture":
        """Return an architecture that differs in some values, which are those of `of`.

        Numbers of a part that is replaced by one of another kind are taken over where that has them too.
        """
        kinds = {name: values.get(name, type(getattr(self, name))) for name in _LLAMA}
        known = {*fields_dict(Architecture), *_names(kinds.values())}
        inherited = {name: value for name, value in self.flat().items() if name in known}
        return Architecture.of(**{**inherited, **kinds, **values})

    def flat(self) -> dict[str, Any]:
        """Return all numbers side by side, those of the parts' specs among them."""
        values = asdict(self, recurse=False)
        parts = [values.pop(name) for name in _LLAMA]
        return values | {key: value for part in parts for key, value in asdict(part, recurse=False).items()}


_LLAMA: Mapping[str, Any] = {
    "attention": GroupedQuerySpec,
    "feed_forward": DenseSpec,
    "norm": RMSNormSpec,
    "positions": RotarySpec,
}
"""The parts of a Llama."""


def _names(kinds: Iterable[Any]) -> set[str]:
    return {name for kind in kinds for name in fields_dict(kind)}
