"""Attention kernels and their gradients, for the shapes of every family."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from torchtune.models.gemma import gemma2_2b, gemma3_270m, gemma_2b
from torchtune.models.gpt2 import gpt2
from torchtune.models.llama2 import llama2_7b
from torchtune.models.llama3 import llama3_8b
from torchtune.models.mistral import mistral_7b
from torchtune.models.olmo2 import olmo2_1b
from torchtune.models.phi3 import phi3_mini_4k
from torchtune.models.qwen2 import qwen2_0_5b
from torchtune.models.qwen3 import qwen3_0_6b
from torchtune.models.smollm2 import smollm2_135m
from torchtune.modules import Documents, GroupedQuerySpec, PassShape, attend, hardware_of
from torchtune.placement import DTYPES
from torchtune.selftest._check import Check, Difference, compare
from torchtune.selftest._inputs import random_inputs

MODELS = {
    "llama2 7B": llama2_7b,
    "llama3 8B": llama3_8b,
    "mistral 7B": mistral_7b,
    "qwen2 0.5B": qwen2_0_5b,
    "qwen3 0.6B": qwen3_0_6b,
    "phi3 mini": phi3_mini_4k,
    "olmo2 1B": olmo2_1b,
    "gpt2": gpt2,
    "gemma 2B": gemma_2b,
    "gemma2 2B": gemma2_2b,
    "gemma3 270M": gemma3_270m,
    "smollm2 135M": smollm2_135m,
}
LENGTH = 160
"""Tokens per row; more than a block of any kernel, and not a multiple of one."""
WINDOW = 48
"""Sliding window of the models that have one, so that it hides keys of a short row."""
LENGTHS = (90, 1, 69)
"""Lengths of the documents of a packed row."""


def attention_checks(precisions: Iterable[str]) -> Iterator[Check]:
    """Yield a check for each family, each masking and each precision."""
    for model, builder in MODELS.items():
        spec = builder.architecture.attention
        assert isinstance(spec, GroupedQuerySpec)
        windows = [None] if spec.window is None else [None, WINDOW]
        for window in windows:
            for is_packed in (False, True):
                kind = ("packed" if is_packed else "causal") + ("" if window is None else ", window")
                for precision in precisions:
                    differences = partial(_differences, spec, window, is_packed, DTYPES[precision])
                    yield Check("attention", f"{model}, {kind}, {precision}", differences)


def _differences(
    spec: GroupedQuerySpec, window: int | None, is_packed: bool, dtype: torch.dtype, device: torch.device
) -> list[Difference]:
    shape = (1, spec.num_heads, LENGTH, spec.head_dim)
    kv_shape = (1, spec.num_kv_heads, LENGTH, spec.head_dim)
    inputs = random_inputs({"q": shape, "k": kv_shape, "v": kv_shape})
    documents = Documents.from_lengths([LENGTHS], device=device) if is_packed else None
    tokens = torch.zeros(1, LENGTH, dtype=torch.long, device=device)
    hardware = hardware_of(device)
    positions = None if documents is None else documents.positions
    mask = PassShape(tokens, hardware, positions, documents=documents).mask(spec, window, dtype)
    scale = spec.attention_scale or spec.head_dim**-0.5

    def function(x: Mapping[str, Tensor]) -> Tensor:
        q, k, v = (x[name].to(mask.dtype) for name in "qkv")
        return attend(q, k, v, mask, scale=scale, softcap=spec.attention_softcap).to(dtype)

    visible = _visible(LENGTHS if is_packed else (LENGTH,), window)
    plain = partial(_plain, visible=visible, scale=scale, softcap=spec.attention_softcap)
    return compare(function, plain, inputs, dtype, device)


def _visible(lengths: Iterable[int], window: int | None) -> Tensor:
    """Return `[s, s]`, True if a query attends to a key: an earlier one of its document, within the window."""
    documents = torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)])
    distance = torch.arange(len(documents))[:, None] - torch.arange(len(documents))[None]
    visible = (distance >= 0) & (documents[:, None] == documents[None])
    return visible if window is None else visible & (distance < window)


def _plain(x: Mapping[str, Tensor], *, visible: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Compute attention by its definition (arXiv 1706.03762, equation 1), one key-value head per group of heads."""
    q = x["q"]
    k, v = (x[name].repeat_interleave(q.shape[1] // x[name].shape[1], dim=1) for name in "kv")
    scores = (q @ k.mT) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    exponentials = torch.where(visible, (scores - scores.amax(-1, keepdim=True)).exp(), 0.0)
    return (exponentials / exponentials.sum(-1, keepdim=True)) @ v
