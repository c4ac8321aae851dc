"""The weights of Meta's own checkpoints under the names, and in the order, of Hugging Face's."""

from collections.abc import Iterable

import torch
from attrs import define, field
from torch import Tensor

from torchtune.formats._rotary_halves import halves_apart
from torchtune.formats.meta._files import MetaFiles

_NAMES = (
    ("embed_tokens.", "tok_embeddings."),
    ("lm_head.", "output."),
    ("self_attn.q_proj.", "attention.wq."),
    ("self_attn.k_proj.", "attention.wk."),
    ("self_attn.v_proj.", "attention.wv."),
    ("self_attn.o_proj.", "attention.wo."),
    ("mlp.gate_proj.", "feed_forward.w1."),
    ("mlp.down_proj.", "feed_forward.w2."),
    ("mlp.up_proj.", "feed_forward.w3."),
    ("input_layernorm.", "attention_norm."),
    ("post_attention_layernorm.", "ffn_norm."),
)
"""Parts of Hugging Face's names, each with Meta's."""


@define
class MetaWeights:
    """The weights in Meta's files.

    Args:
        files: Where they stand.
        expected: The names of the model's weights in a Hugging Face checkpoint.
        ignored: Meta's names of tensors that the model does without.
    """

    files: MetaFiles
    expected: Iterable[str]
    ignored: frozenset[str] = frozenset()
    shapes: dict[str, list[int]] = field(init=False)
    dtypes: dict[str, torch.dtype] = field(init=False)
    _names: dict[str, str] = field(init=False)
    """Meta's names by Hugging Face's."""

    def __attrs_post_init__(self) -> None:
        self._names = {name: _meta_name(name) for name in self.expected}
        theirs = {meta: name for name, meta in self._names.items()}
        shapes, dtypes = self.files.shapes, self.files.dtypes
        self.shapes = {theirs.get(n, n): shape for n, shape in shapes.items() if n not in self.ignored}
        self.dtypes = {theirs.get(n, n): dtype for n, dtype in dtypes.items()}

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        tensor = self.files.read(self._names[name])
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            return halves_apart(tensor, self.files.params.head_dim)
        return tensor

    def own_name(self, name: str) -> str:
        """Return Meta's name of a tensor."""
        return self._names.get(name, name)


def _meta_name(name: str) -> str:
    name = name.removeprefix("model.")
    for theirs, metas in _NAMES:
        name = name.replace(theirs, metas)
    return name
