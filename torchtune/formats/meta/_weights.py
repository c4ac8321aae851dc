"""The weights of Meta's checkpoints, with the names and the layout of Hugging Face checkpoints."""

from collections.abc import Collection, Iterable

from attrs import evolve
from torch import Tensor

from torchtune.formats._rotary_halves import deinterleave
from torchtune.formats._tensor_files import TensorSource
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
"""Parts of Hugging Face names, each with its counterpart in Meta's names."""


def meta_weights(files: MetaFiles, expected: Iterable[str], ignored: Collection[str] = ()) -> TensorSource:
    """Return the weights of Meta's files.

    Args:
        files: The files.
        expected: The names of the model's weights in a Hugging Face checkpoint.
        ignored: Meta's names of tensors that the model does not need.
    """
    names = {name: _meta_name(name) for name in expected}
    hf_names = {meta: name for name, meta in names.items()}
    needed = {hf_names.get(meta, meta): meta for meta in files.shapes if meta not in ignored}
    source = TensorSource(shapes=files.shapes, dtypes=files.dtypes, read=files.read).renamed(needed)

    def read(name: str) -> Tensor:
        tensor = source.read(name)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            return deinterleave(tensor, files.params.head_dim)
        return tensor

    return evolve(source, read=read, source_names=names)


def _meta_name(name: str) -> str:
    name = name.removeprefix("model.")
    for hf_part, meta_part in _NAMES:
        name = name.replace(hf_part, meta_part)
    return name
