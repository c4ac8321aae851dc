"""Losses and gradients with a GPU's kernels, dtypes and chunks, computed on a CPU, match plain float64 computation.

The families' heads have 16 channels, the fewest for which a GPU's kernels are chosen.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.modules.kernels import uncompiled_flex
from tests.tolerance import assert_as_near, bound, distance, rms_error, roundings
from tests.training.test_exactness import (
    FAMILIES,
    LORA,
    SMALL,
    build_model,
    compute_separately,
    gradients,
    packed,
    prepend_prefix,
    rows,
)
from tests.training.tiny import step_loss
from torchtune.data import Batch, Example, collate
from torchtune.modules import Architecture, Hardware, LinearCrossEntropy, assume_hardware
from torchtune.training import Lora

WIDE = {"head_dim": 16, "embed_dim": 32}
GPU_FAMILIES: dict[str, Architecture] = {
    **{name: architecture.evolve(**WIDE) for name, architecture in FAMILIES.items()},
    "gemma2": FAMILIES["gemma"].evolve(
        **WIDE, qk_norm=None, attention_softcap=3.0, final_softcap=2.0, rope_local_base=None
    ),
}
ERROR_BOUND = bound(torch.float32, 3 * roundings(SMALL.evolve(**WIDE), 45))


@pytest.fixture(autouse=True)
def h100() -> Iterator[None]:
    """Use the settings for an H100."""
    with assume_hardware(Hardware("cuda", (9, 0))), uncompiled_flex():
        yield


def batches_of(layout: str, examples: list[Example]) -> list[Batch]:
    if layout == "padded":
        return [
            collate([[example] for example in examples[i : i + 3]], 0) for i in range(0, len(examples), 3)
        ]
    return packed(examples, 100)


def compute_with_gpu_settings(
    architecture: Architecture, lora: Lora | None, dtype: str, batches: list[Batch]
) -> tuple[float, dict[str, Tensor]]:
    """Compute batches as a recipe does on a GPU; return the loss and gradients."""
    model = build_model(architecture, lora, dtype, lean_layers=False)
    total = 0.0
    for batch in batches:
        loss = step_loss(LinearCrossEntropy(), dtype)(model, batch)
        torch.autograd.backward(loss)
        total += loss.item()
    return total, gradients(model)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("layout", ["padded", "packed", "shared prefixes"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", GPU_FAMILIES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_losses_and_gradients_match_the_plain_implementation(
    dtype: str, family: str, lora: Lora | None, layout: str
) -> None:
    architecture, examples = GPU_FAMILIES[family], rows(9)
    if layout == "shared prefixes":
        examples = prepend_prefix(examples, 20)
    batches = batches_of(layout, examples)
    assert layout != "shared prefixes" or all(any(s.prefix_length for s in b.spans) for b in batches)
    loss, actual = compute_with_gpu_settings(architecture, lora, dtype, batches)
    with assume_hardware(Hardware("cpu")):
        exact_loss, exact = compute_separately(architecture, lora, examples)
        plain_loss, plain = compute_separately(architecture, lora, examples, dtype)
    if dtype == "fp32":
        assert loss == pytest.approx(exact_loss, rel=ERROR_BOUND)
        assert_as_near(actual, plain, exact, ERROR_BOUND)
        return
    rounding = torch.bfloat16 if dtype == "bf16" else torch.float16
    assert abs(loss - exact_loss) < bound(rounding, 1, exact_loss) + 2 * abs(plain_loss - exact_loss)
    # On a GPU attention is computed in 16 bits as well, whose roundings the plain computation on a CPU lacks.
    assert_as_near(actual, plain, exact, rms_error(rounding, 4), factor=3)
    assert distance(plain, exact) < 0.5, "the reference must not be mostly noise"
