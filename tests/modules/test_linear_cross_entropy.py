"""The chunked loss matches torch's loss on full logits."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.modules.loss_settings import HARDWARE, loss_settings_of
from tests.tolerance import FLOAT64, assert_near, bound, distance, norm_bound
from torchtune.modules import (
    Hardware,
    LinearCrossEntropy,
    loss_chunk_size,
    token_log_probs,
    token_log_probs_and_entropies,
)
from torchtune.modules._linear_cross_entropy import ChunkedHead, ChunkSoftmax

Reduction = Literal["sum", "mean"]


def batch(n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return random hidden states `[n, 5]`, a head `[11, 5]` and labels `[n]`, about half of them ignored."""
    torch.manual_seed(n)
    labels = torch.randint(11, (n,)).masked_fill(torch.rand(n) < 0.5, -100)
    hidden = torch.randn(n, 5, dtype=dtype, requires_grad=True)
    return hidden, torch.randn(11, 5, dtype=dtype, requires_grad=True), labels


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("chunk_size", [1, 4, 5, 100])
def test_value_and_gradients_match_full_logits(chunk_size: int, reduction: Reduction) -> None:
    hidden, weight, labels = batch(23)
    assert (labels != -100).sum() % 4 > 0, "the last chunk must be shorter than the others"
    loss = LinearCrossEntropy(reduction, chunk_size, ignore_index=-100)(hidden, weight, labels)
    expected = F.cross_entropy(hidden @ weight.T, labels, reduction=reduction)
    assert_near(loss, expected, FLOAT64)
    gradients = torch.autograd.grad(3 * loss, (hidden, weight))
    assert_near(gradients, torch.autograd.grad(3 * expected, (hidden, weight)), FLOAT64)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_result_is_the_same_without_an_ignore_index(reduction: Reduction) -> None:
    hidden, weight, labels = batch(23)
    labels.clamp_(min=0)
    with_ignore_index = LinearCrossEntropy(reduction, 4, ignore_index=-100)(hidden, weight, labels)
    plain = LinearCrossEntropy(reduction, 4)(hidden, weight, labels)
    assert plain.item() == with_ignore_index.item()
    expected = torch.autograd.grad(with_ignore_index, (hidden, weight))
    torch.testing.assert_close(torch.autograd.grad(plain, (hidden, weight)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("n", [0, 3])
def test_backward_pass_works_without_targets(n: int, reduction: Reduction) -> None:
    hidden, weight, labels = batch(n)
    loss = LinearCrossEntropy(reduction, ignore_index=-100)(hidden, weight, labels.fill_(-100))
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(hidden.grad, torch.zeros(n, 5, dtype=torch.float64), rtol=0, atol=0)
    torch.testing.assert_close(weight.grad, torch.zeros(11, 5, dtype=torch.float64), rtol=0, atol=0)


def test_frozen_head_has_no_gradient_and_other_results_are_unchanged() -> None:
    hidden, weight, labels = batch(23)
    (expected,) = torch.autograd.grad(LinearCrossEntropy(ignore_index=-100)(hidden, weight, labels), [hidden])
    LinearCrossEntropy(ignore_index=-100)(hidden, weight.detach(), labels).backward()
    assert weight.grad is None
    torch.testing.assert_close(hidden.grad, expected, rtol=0, atol=0)


def test_value_is_the_same_without_gradients() -> None:
    hidden, weight, labels = batch(23)
    with torch.no_grad():
        loss = LinearCrossEntropy(ignore_index=-100)(hidden, weight, labels)
    assert not loss.requires_grad
    assert loss.item() == LinearCrossEntropy(ignore_index=-100)(hidden, weight, labels).item()


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hardware", HARDWARE)
def test_16_bit_losses_are_summed_in_float32(
    hardware: str, dtype: torch.dtype, is_trained: bool, softcap: float | None
) -> None:
    hidden, weight, labels = batch(2001, dtype)
    weight.requires_grad_(is_trained)
    with loss_settings_of(hardware):
        loss = LinearCrossEntropy(chunk_size=128, ignore_index=-100)(hidden, weight, labels, softcap)
        loss.backward()
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    logits = exact[0] @ exact[1].T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    expected.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert loss.dtype == torch.float32
    # Sums run over the 11 ids, over a chunk of 128 targets, and over the 8 chunks.
    assert_near(loss, expected, bound(torch.float32, 11 + 128 + 8))
    assert hidden.grad is not None
    assert exact[0].grad is not None
    assert hidden.grad.dtype == dtype
    # Probabilities are rounded, and so are their products.
    assert distance(hidden.grad, exact[0].grad) < norm_bound(dtype, 2)
    if not is_trained:
        assert weight.grad is None
        return
    assert weight.grad is not None
    assert exact[1].grad is not None
    assert weight.grad.dtype == dtype
    if hardware == "GPU":
        # The 1,000 rounded probabilities of an element have independent errors, of which a sum averages most.
        assert distance(weight.grad, exact[1].grad) < norm_bound(dtype, 2)
        return
    # Sums are in float32 and rounded once: errors of 2^-16 of a bfloat16 step (2^-13 in float16) change almost none of
    # the 55 elements.
    assert (weight.grad == exact[1].grad.to(dtype)).float().mean() > 0.95


@pytest.mark.parametrize("hardware", HARDWARE)
def test_large_logits_are_not_rounded_to_16_bits(hardware: str) -> None:
    # With one channel, a logit is a product of two bfloat16 numbers, which has up to 16 bits.
    hidden = torch.tensor([[1.0078125]], dtype=torch.bfloat16)
    weight = torch.tensor([[40.25], [40.0], [-40.0]], dtype=torch.bfloat16)
    logits = hidden.double() @ weight.double().T
    error = logits.bfloat16().double() - logits
    assert error.abs().max() > 0.05, "rounding must matter"
    with loss_settings_of(hardware):
        loss = LinearCrossEntropy()(hidden, weight, torch.tensor([1]))
    assert_near(loss, F.cross_entropy(logits, torch.tensor([1])), bound(torch.float32, 6, 41))


def test_the_gradient_of_the_head_is_summed_in_float32_across_chunks() -> None:
    # Both ids have probability 1/2. A chunk's sum of 150.5 has more than the 8 bits of bfloat16.
    n = 7 * 301
    hidden, labels = torch.ones(n, 1, dtype=torch.bfloat16), torch.zeros(n, dtype=torch.long)
    weight = torch.zeros(2, 1, requires_grad=True)
    with loss_settings_of("GPU"):
        LinearCrossEntropy(chunk_size=301)(hidden, weight, labels).backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [-n / 2, n / 2]


VOCABULARIES = {
    "Llama 3": (128_256, 2048),
    "Llama 2": (32_000, 8320),
    "SmolLM2": (49_152, 5376),
    "Qwen3": (151_936, 1664),
    "Gemma 3": (262_144, 1024),
    "a vocabulary of a million ids": (2**20, 256),
    "a vocabulary of ten million ids": (10**7, 128),
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_logits_of_a_chunk_on_a_gpu_are_within_1_gib(name: str) -> None:
    vocab_size, expected = VOCABULARIES[name]
    size = loss_chunk_size(vocab_size, Hardware("cuda", (9, 0)))
    assert size == expected
    assert size % 128 == 0
    assert size * vocab_size * 4 <= 2**30 or size == 128
    assert (size + 128) * vocab_size * 4 > 2**30
    assert loss_chunk_size(vocab_size, Hardware("cpu")) == 128


@pytest.mark.parametrize(("hardware", "expected"), [("CPU", [128, 128, 44]), ("GPU", [300])])
def test_chunks_depend_on_the_hardware_unless_a_size_is_set(
    hardware: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    compute = ChunkedHead.softmax

    def record(head: ChunkedHead, chunk: slice | Tensor) -> ChunkSoftmax:
        softmax = compute(head, chunk)
        sizes.append(len(softmax.inputs))
        return softmax

    monkeypatch.setattr(ChunkedHead, "softmax", record)
    hidden, weight = torch.randn(300, 5), torch.randn(11, 5)
    labels = torch.randint(11, (300,))
    for chunk_size, chunks in ((None, expected), (200, [200, 100])):
        with loss_settings_of(hardware):
            LinearCrossEntropy(chunk_size=chunk_size)(hidden, weight, labels)
            token_log_probs(hidden, weight, labels, chunk_size=chunk_size)
            token_log_probs_and_entropies(hidden, weight, labels, chunk_size=chunk_size)
        assert sizes == chunks * 3
        sizes.clear()


def test_a_second_backward_pass_raises() -> None:
    hidden, weight, labels = batch(5)
    loss = LinearCrossEntropy(ignore_index=-100)(hidden, weight, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_unknown_reductions_and_empty_chunks_are_rejected() -> None:
    with pytest.raises(ValueError, match="reduction must be 'sum' or 'mean', got 'none'"):
        LinearCrossEntropy("none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunk_size must be above 0, got 0"):
        LinearCrossEntropy(chunk_size=0)


def test_invalid_labels_are_rejected() -> None:
    hidden, weight, labels = batch(3)
    with pytest.raises((IndexError, RuntimeError), match="index -100 is out of bounds"):
        LinearCrossEntropy()(hidden, weight, labels.fill_(-100))
    with pytest.raises(ValueError, match="hidden has 3 positions, but labels has 2"):
        LinearCrossEntropy()(hidden, weight, labels[:2])


def test_bfloat16_products_restore_the_precision_setting() -> None:
    hidden = torch.randn(6, 8, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(9, 8, dtype=torch.bfloat16)
    before = torch.get_float32_matmul_precision()
    LinearCrossEntropy()(hidden, weight, torch.arange(6)).backward()
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises((IndexError, RuntimeError)):
        LinearCrossEntropy()(hidden, weight, torch.arange(6) + 90)
    x = torch.randn(64, 64)
    assert_near(x @ x, x.double() @ x.double(), bound(torch.float32, 64))
