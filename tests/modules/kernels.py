"""Attention kernels that a CPU does not choose, run on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention

from torchtune.modules import Documents, GroupedQuerySpec, _flex_attention
from torchtune.modules._attend import attend
from torchtune.modules._attention_kernels import Kernel, Masking
from torchtune.modules._attention_mask import AttentionMask
from torchtune.modules._hardware import Hardware


def attend_to_documents(
    kernel: Kernel,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents,
    window: int | None,
    *,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """Attend within packed documents with a kernel."""
    mask = AttentionMask(kernel, q.dtype, pairs=documents.mask(window))
    if kernel == "per_document":
        mask = AttentionMask(kernel, q.dtype, documents=documents, window=window)
    if kernel == "flex":
        mask = AttentionMask(kernel, q.dtype, blocks=documents.block_mask(window))
    return attend(q, k, v, mask, scale=scale, softcap=softcap)


def use_kernel(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> None:
    """Make all layers use a kernel for attention within packed documents."""
    choose = GroupedQuerySpec.kernel

    def choice(spec: GroupedQuerySpec, hardware: Hardware, dtype: torch.dtype, masking: Masking) -> Kernel:
        is_packed = masking in {"documents", "prefixes"}
        return kernel if is_packed else choose(spec, hardware, dtype, masking)

    monkeypatch.setattr(GroupedQuerySpec, "kernel", choice)


@contextmanager
def uncompiled_flex() -> Iterator[None]:
    """Run `flex_attention` uncompiled, with gradients: compiling it requires a C++ compiler and takes half a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_flex_attention, "_compiled", lambda: flex_attention.flex_attention)
        # Without this switch, torch warns that uncompiled attention is slow.
        patch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
        # torch has no compiled backward pass for CPUs; the uncompiled one works.
        patch.setattr(flex_attention, "_validate_device", lambda *_: None)
        yield
