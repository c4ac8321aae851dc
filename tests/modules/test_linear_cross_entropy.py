"""The chunked loss matches torch's loss on full logits."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tolerance import FLOAT64, assert_near, bound, distance, norm_bound
from torchtune.modules import LinearCrossEntropy, _linear_cross_entropy

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


@pytest.mark.parametrize("has_units", [False, True])
def test_bfloat16_sums_in_float32(has_units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linear_cross_entropy, "_has_bfloat16_units", lambda: has_units)
    hidden, weight, labels = batch(2001, torch.bfloat16)
    loss = LinearCrossEntropy(ignore_index=-100)(hidden, weight, labels)
    loss.backward()
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    expected = F.cross_entropy(exact[0] @ exact[1].T, labels, reduction="sum")
    expected.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert loss.dtype == torch.float32
    # Sums run over the 11 ids, over a chunk of 128 targets, and over the 8 chunks.
    assert_near(loss, expected, bound(torch.float32, 11 + 128 + 8))
    assert hidden.grad is not None
    assert weight.grad is not None
    assert exact[0].grad is not None
    assert exact[1].grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    # Probabilities are rounded, and so are their products.
    assert distance(hidden.grad, exact[0].grad) < norm_bound(torch.bfloat16, 2)
    # Sums are in float32 and rounded once: errors of 2^-16 of a bfloat16 step change almost none of the 55 elements.
    assert (weight.grad == exact[1].grad.bfloat16()).float().mean() > 0.95


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
