"""The hyperparameters that define a decoder."""

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
    """The sizes and constants that define a decoder, and the specs of the parts of its layers.

    A model stores its architecture; when the model is saved, its config.json is derived from it.
    """

    family: str = "llama"
    """Model family: `model_type` in a Hugging Face config.json."""
    vocab_size: int = field(validator=gt(0))
    """Number of token ids."""
    num_layers: int = field(validator=gt(0))
    """Number of decoder layers."""
    embed_dim: int = field(validator=gt(0))
    """Width of the residual stream."""
    max_seq_len: int = field(validator=gt(0))
    """Maximum sequence length (tokens)."""
    tied_embeddings: bool
    """Whether the output head is the embedding table."""
    embed_scale: float = 1.0
    """Factor by which the token embeddings are multiplied."""
    final_softcap: float | None = field(default=None, validator=optional(gt(0)))
    """Bound c of logits z, which become c tanh(z / c) (arXiv 2408.00118, section 2); None: no soft cap."""

    attention: AttentionSpec
    """Spec of the attention of each layer."""
    feed_forward: FeedForwardSpec
    """Spec of the feed-forward of each layer."""
    norm: NormSpec
    """Spec of the layers' norms and the final norm."""
    positions: PositionsSpec
    """Spec of the position encoding."""

    @classmethod
    def from_values(cls, **values: Any) -> "Architecture":
        """Build an architecture from flat values, each passed to the spec that has a field of that name.

        Args:
            **values: Fields of this class and of the specs. `attention`, `feed_forward`, `norm` and `positions` are
                spec classes; the defaults are Llama's.

        Raises:
            TypeError: An argument is not a field of this class or a spec, or a field without a default is missing.
            ValueError: A number is out of range.
        """
        kinds = {name: values.pop(name, kind) for name, kind in _LLAMA.items()}
        parts: dict[str, Any] = {}
        for name, kind in kinds.items():
            parts[name] = kind(**{key: values.pop(key) for key in fields_dict(kind) if key in values})
        return cls(**values, **parts)

    def evolve(self, **values: Any) -> "Architecture":
        """Return a copy with some values changed; accepts the arguments of `from_values`.

        If the spec of a part is replaced with a different class, fields that both classes have keep their values.
        """
        kinds = {name: values.get(name, type(getattr(self, name))) for name in _LLAMA}
        field_names = {*fields_dict(Architecture), *_names(kinds.values())}
        inherited = {name: value for name, value in self.flat().items() if name in field_names}
        return Architecture.from_values(**{**inherited, **kinds, **values})

    def flat(self) -> dict[str, Any]:
        """Return all values in one flat mapping, including those of the parts' specs."""
        values = asdict(self, recurse=False)
        parts = [values.pop(name) for name in _LLAMA]
        return values | {key: value for part in parts for key, value in asdict(part, recurse=False).items()}


_LLAMA: Mapping[str, Any] = {
    "attention": GroupedQuerySpec,
    "feed_forward": DenseSpec,
    "norm": RMSNormSpec,
    "positions": RotarySpec,
}
"""The spec classes of Llama."""


def _names(kinds: Iterable[Any]) -> set[str]:
    return {name for kind in kinds for name in fields_dict(kind)}
