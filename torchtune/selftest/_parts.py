"""All parts of the self-test."""

from collections.abc import Callable, Iterable, Iterator

import torch

from torchtune.modules import hardware_of
from torchtune.selftest._attention import attention_checks
from torchtune.selftest._check import Check
from torchtune.selftest._layers import adapter_checks, layer_checks
from torchtune.selftest._loss import loss_checks
from torchtune.selftest._runs import run_checks
from torchtune.selftest._updates import update_checks

_BY_PRECISION: tuple[Callable[[Iterable[str]], Iterator[Check]], ...] = (
    attention_checks,
    loss_checks,
    layer_checks,
    adapter_checks,
)
"""Functions that yield checks for each precision."""


def checks(device: torch.device) -> Iterator[Check]:
    """Yield all checks for a device."""
    for part in _BY_PRECISION:
        yield from part(_precisions(device))
    yield from update_checks()
    yield from run_checks()


def _precisions(device: torch.device) -> list[str]:
    """Return the precisions that a run on the device may use: fp16 only on GPUs."""
    return ["fp32", "bf16"] if hardware_of(device).is_cpu else ["fp32", "bf16", "fp16"]
