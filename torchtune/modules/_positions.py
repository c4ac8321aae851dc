"""Specs of position encodings."""

from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.validators import gt, optional

from torchtune.modules._linear import Embedding
from torchtune.modules._parts import PositionsSpec
from torchtune.modules._rotary import NoRotation, RopeScaling, RotaryEmbedding

if TYPE_CHECKING:
    from torchtune.modules._architecture import Architecture


@frozen(kw_only=True)
class RotarySpec(PositionsSpec):
    """Rotary position embeddings: queries and keys are rotated by their positions (arXiv 2104.09864)."""

    rope_base: float = field(validator=gt(0))
    """Base of the rotary frequencies (theta in section 3.2.2)."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the rotary frequencies for long sequences; None: no scaling."""
    rope_local_base: float | None = field(default=None, validator=optional(gt(0)))
    """Base of the unscaled rotary frequencies of sliding-window layers; None: as in the other layers."""

    def rotations(self, rotary_dim: int) -> tuple[RotaryEmbedding, RotaryEmbedding]:
        """Return the rotary embeddings; both are the same object if sliding-window layers use the same frequencies."""
        rotary = RotaryEmbedding(rotary_dim, self.rope_base, self.rope_scaling)
        if self.rope_local_base is None:
            return rotary, rotary
        return rotary, RotaryEmbedding(rotary_dim, self.rope_local_base)

    def embedding(self, architecture: "Architecture") -> None:
        """Return None: no embedding is added."""


@frozen(kw_only=True)
class LearnedSpec(PositionsSpec):
    """Learned position embeddings, added to the token embeddings; queries and keys are not rotated."""

    def rotations(self, rotary_dim: int) -> tuple[RotaryEmbedding, RotaryEmbedding]:
        """Return a placeholder that leaves queries and keys unchanged."""
        rotary = NoRotation(rotary_dim, base=1.0)
        return rotary, rotary

    def embedding(self, architecture: "Architecture") -> Embedding:
        """Build the table `[max_seq_len, d]`."""
        return Embedding(architecture.max_seq_len, architecture.embed_dim)
