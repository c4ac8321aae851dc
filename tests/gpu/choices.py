"""Make code use the settings for an H100, and make recipes run on the device of `tests.gpu.device`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen

from tests.gpu.attention import dense_flex_attention, dense_varlen_attention, with_kernels_of_cuda
from tests.gpu.device import GPU
from tests.gpu.waits import forbids_waits, no_waits
from torchtune import training
from torchtune.data import Batch
from torchtune.modules import Decoder, Hardware, _flex_attention, assume_hardware
from torchtune.training import _start


@contextmanager
def h100() -> Iterator[None]:
    """Use the settings for an H100; attention in packed rows is computed densely."""
    with pytest.MonkeyPatch.context() as patch, assume_hardware(Hardware("cuda", (9, 0))):
        patch.setattr(_flex_attention, "_compiled", lambda: dense_flex_attention)
        patch.setattr(F, "scaled_dot_product_attention", with_kernels_of_cuda(F.scaled_dot_product_attention))
        patch.setattr(varlen, "varlen_attn", dense_varlen_attention)
        yield


@contextmanager
def runs_on_gpu() -> Iterator[None]:
    """Make recipes run on the device, regardless of their config's `device`, with the settings for an H100."""
    with ExitStack() as stack:
        stack.enter_context(h100())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(_start, "pick_device", lambda _: torch.device(GPU))
        yield


@contextmanager
def no_waits_in_steps() -> Iterator[None]:
    """Make operators raise RuntimeError if they cause the host to wait for the device in a step of a recipe.

    A step lasts from the beginning of its first forward pass to the end of its last backward pass.
    """
    score, clip = training.Scorer.__call__, training.clip_gradients
    with ExitStack() as step, pytest.MonkeyPatch.context() as patch:

        def begin_step(scorer: training.Scorer, model: Decoder, batch: Batch) -> training.Score:
            if torch.is_grad_enabled() and not forbids_waits():  # not in a validation
                step.enter_context(no_waits("a training step"))
            return score(scorer, model, batch)

        def end_step(*args: Any) -> Tensor:
            step.close()
            return clip(*args)

        patch.setattr(training.Scorer, "__call__", begin_step)
        patch.setattr(training, "clip_gradients", end_step)
        yield
