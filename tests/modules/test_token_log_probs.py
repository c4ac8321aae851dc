"""Chunked log-probabilities match full logits, without storing full logits or reading values back to the host."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.modules.loss_settings import HARDWARE, loss_settings_of
from tests.tolerance import FLOAT64, assert_near, bound, distance, norm_bound
from torchtune.internals import LiveBytes
from torchtune.modules import (
    LinearCrossEntropy,
    token_log_probs,
    token_log_probs_and_entropies,
)

CAPS = [None, 2.0]
TEMPERATURES = [1.0, 0.7]


def batch(
    n: int, dtype: torch.dtype = torch.float64, d: int = 5, v: int = 11
) -> tuple[Tensor, Tensor, Tensor]:
    """Return random hidden states `[n, d]`, a head `[v, d]` and labels `[n]`, all of which are targets."""
    torch.manual_seed(n)
    hidden = torch.randn(n, d, dtype=dtype, requires_grad=True)
    return hidden, torch.randn(v, d, dtype=dtype, requires_grad=True), torch.randint(v, (n,))


def full_log_probs(
    hidden: Tensor, weight: Tensor, softcap: float | None = None, temperature: float = 1.0
) -> Tensor:
    """Compute the log-probabilities of all ids, `[n, v]`."""
    logits = hidden @ weight.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return torch.log_softmax(logits / temperature, -1)


class Operations(TorchDispatchMode):
    """Records the names of operations and the number of elements of their largest result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        self.names.add(func.name())
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    loss: Tensor = LinearCrossEntropy("mean", 4)(hidden, weight, labels)
    return loss


def weighted_sum(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    log_probs, _ = token_log_probs_and_entropies(
        hidden, weight, labels, softcap=5.0, temperature=0.7, chunk_size=4
    )
    return log_probs @ torch.linspace(-1, 1, len(labels), dtype=log_probs.dtype, device=log_probs.device)


CHUNKED = pytest.mark.parametrize("compute", [cross_entropy, weighted_sum], ids=lambda f: f.__name__)
Compute = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("softcap", CAPS)
@pytest.mark.parametrize("chunk_size", [1, 4, 23, 100])
def test_values_and_gradients_match_full_logits(
    chunk_size: int, softcap: float | None, temperature: float, is_trained: bool
) -> None:
    hidden, weight, labels = batch(23)
    weight.requires_grad_(is_trained)
    inputs = [hidden, weight] if is_trained else [hidden]
    log_probs = token_log_probs(
        hidden, weight, labels, softcap=softcap, temperature=temperature, chunk_size=chunk_size
    )
    expected = full_log_probs(hidden, weight, softcap, temperature).gather(-1, labels[:, None])[:, 0]
    assert_near(log_probs, expected, FLOAT64)
    upstream = torch.randn(23, dtype=torch.float64).index_fill(0, torch.tensor([3, 7]), 0)
    gradients = torch.autograd.grad(log_probs, inputs, upstream)
    assert_near(gradients, torch.autograd.grad(expected, inputs, upstream), FLOAT64)
    assert not gradients[0][[3, 7]].any()


@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("softcap", CAPS)
def test_gradients_match_finite_differences(
    softcap: float | None, temperature: float, is_trained: bool
) -> None:
    hidden, weight, labels = batch(5, d=3, v=7)
    weight.requires_grad_(is_trained)

    def compute(hidden: Tensor, weight: Tensor) -> Tensor:
        return token_log_probs(hidden, weight, labels, softcap=softcap, temperature=temperature, chunk_size=2)

    assert torch.autograd.gradcheck(compute, (hidden, weight))


def test_the_head_gradient_does_not_depend_on_the_hidden_gradient() -> None:
    hidden, weight, labels = batch(23)
    (expected,) = torch.autograd.grad(token_log_probs(hidden, weight, labels).square().sum(), [weight])
    torch.autograd.backward(token_log_probs(hidden.detach(), weight, labels).square().sum())
    assert hidden.grad is None
    torch.testing.assert_close(weight.grad, expected, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("softcap", CAPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hardware", HARDWARE)
def test_log_probabilities_are_accurate_in_every_precision(
    hardware: str, dtype: torch.dtype, softcap: float | None, temperature: float
) -> None:
    hidden, weight, labels = batch(300, dtype, d=32, v=200)
    exact = (hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_())
    settings: Any = {"softcap": softcap, "temperature": temperature}
    upstream = torch.randn(300)
    with loss_settings_of(hardware):
        log_probs, entropies = token_log_probs_and_entropies(hidden, weight, labels, **settings)
        gradients = torch.autograd.grad(log_probs, (hidden, weight), upstream)
        frozen = token_log_probs(hidden, weight.detach(), labels, **settings)
        hidden_gradients = (gradients[0], *torch.autograd.grad(frozen, [hidden], upstream))
    full = full_log_probs(*exact, **settings)
    expected = full.gather(-1, labels[:, None])[:, 0]
    assert log_probs.dtype == entropies.dtype == torch.float32
    # Sums run over 200 ids, and over 32 channels, whose 16-bit factors have exact products in float32. A soft cap
    # rounds three more times, and its derivative is at most one; a temperature divides the errors as well.
    magnitude = float((exact[0].abs() @ exact[1].abs().T).detach().max()) / temperature
    logit_bound = bound(torch.float32, 32 + 200 + 4, magnitude)
    torch.testing.assert_close(log_probs.double(), expected, rtol=0, atol=logit_bound)
    exact_entropies = -(full.exp() * full).sum(-1)
    # The derivative of the entropy with respect to a logit is -p (log p + entropy). Over the logits, its absolute
    # values sum to at most twice the entropy, which is at most log 200 = 5.3.
    torch.testing.assert_close(entropies.double(), exact_entropies, rtol=0, atol=11 * logit_bound)
    expected_gradients = torch.autograd.grad(expected, exact, upstream.double())
    assert {g.dtype for g in (*gradients, *hidden_gradients)} == {dtype}
    # Factors, products and scaled products are rounded. The head's gradient is rounded only once on a CPU; on a GPU,
    # so are its factors.
    if dtype != torch.float32:
        assert all(distance(g, expected_gradients[0]) < norm_bound(dtype, 3) for g in hidden_gradients)
        n_roundings = 2 if hardware == "GPU" else 1
        assert distance(gradients[1], expected_gradients[1]) < norm_bound(dtype, n_roundings)
        return
    # The absolute error of a logit is the relative error of its probability. Both errors, and
    # the errors of sums over ids or positions, are proportional to the summands. The factor of a summand is at most the
    # probability of its id, plus one if the id is the label.
    factors = full.exp().scatter_add(-1, labels[:, None], torch.ones(300, 1).double()) / temperature
    factors = (factors * upstream.abs()[:, None]).detach()  # [n, v]
    relative = logit_bound + bound(torch.float32, 200 + 300)
    hidden_bound, weight_bound = (
        relative * float(magnitudes.detach().max())
        for magnitudes in (factors @ exact[1].abs(), factors.T @ exact[0].abs())
    )
    for gradient in hidden_gradients:
        torch.testing.assert_close(gradient.double(), expected_gradients[0], rtol=0, atol=hidden_bound)
    torch.testing.assert_close(gradients[1].double(), expected_gradients[1], rtol=0, atol=weight_bound)


@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
def test_ignored_positions_are_zero_even_for_nan_hidden_states(is_trained: bool) -> None:
    hidden, weight, labels = batch(23)
    weight.requires_grad_(is_trained)
    is_target = torch.arange(23) % 3 > 0
    expected = token_log_probs(hidden[is_target], weight, labels[is_target], chunk_size=4)
    torch.autograd.backward(expected.square().sum())
    damaged = hidden.detach().masked_fill(~is_target[:, None], torch.nan).requires_grad_()
    head = weight.detach().clone().requires_grad_(is_trained)
    log_probs, entropies = token_log_probs_and_entropies(
        damaged, head, labels.masked_fill(~is_target, -1), chunk_size=4, ignore_index=-1
    )
    torch.autograd.backward(log_probs.square().sum())
    assert not log_probs[~is_target].any()
    assert not entropies[~is_target].any()
    torch.testing.assert_close(log_probs[is_target], expected, rtol=0, atol=0)
    torch.testing.assert_close([damaged.grad, head.grad], [hidden.grad, weight.grad], rtol=0, atol=0)


@pytest.mark.parametrize("ignore_index", [None, -100])
@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
def test_an_empty_batch_has_zero_gradients(is_trained: bool, ignore_index: int | None) -> None:
    n = 0 if ignore_index is None else 3
    hidden, weight, labels = batch(n)
    weight.requires_grad_(is_trained)
    log_probs, entropies = token_log_probs_and_entropies(
        hidden, weight, labels.fill_(-100), ignore_index=ignore_index
    )
    torch.autograd.backward(log_probs.sum())
    expected = [torch.zeros(n).double(), torch.zeros(n).double(), torch.zeros(n, 5).double()]
    torch.testing.assert_close([log_probs, entropies, hidden.grad], expected, rtol=0, atol=0)
    assert (weight.grad is None) == (not is_trained)
    assert weight.grad is None or not weight.grad.any()


@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
def test_cross_entropy_is_the_negative_sum_of_log_probabilities(is_trained: bool) -> None:
    hidden, weight, labels = batch(23)
    weight.requires_grad_(is_trained)
    inputs = [hidden, weight] if is_trained else [hidden]
    loss = LinearCrossEntropy(chunk_size=4)(hidden, weight, labels, 2.0)
    total = -token_log_probs(hidden, weight, labels, softcap=2.0, chunk_size=4).sum()
    assert_near(loss, total, FLOAT64)
    assert_near(torch.autograd.grad(loss, inputs), torch.autograd.grad(total, inputs), FLOAT64)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_entropies_match_full_logits_and_have_no_gradient(temperature: float) -> None:
    hidden, weight, labels = batch(23)
    large_hidden = (100 * hidden).detach().requires_grad_()  # most probabilities are zero
    for states in (hidden, large_hidden):
        log_probs, entropies = token_log_probs_and_entropies(
            states, weight, labels, temperature=temperature, chunk_size=4
        )
        full = full_log_probs(states, weight, temperature=temperature)
        assert_near(entropies, -(full.exp() * full).sum(-1), FLOAT64)
        assert not entropies.requires_grad
        assert torch.equal(
            log_probs, token_log_probs(states, weight, labels, temperature=temperature, chunk_size=4)
        )
        assert log_probs.requires_grad


@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
def test_a_second_backward_pass_gives_equal_gradients(is_trained: bool) -> None:
    hidden, weight, labels = batch(23)
    log_probs = token_log_probs(hidden, weight.requires_grad_(is_trained), labels)
    gradients = [torch.autograd.grad(log_probs.sum(), [hidden], retain_graph=True) for _ in range(2)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_values_are_the_same_without_gradients() -> None:
    hidden, weight, labels = batch(23)
    with torch.no_grad():
        log_probs = token_log_probs(hidden, weight, labels, chunk_size=4)
    assert not log_probs.requires_grad
    assert torch.equal(log_probs, token_log_probs(hidden, weight, labels, chunk_size=4))


@CHUNKED
@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
def test_only_the_logits_of_one_chunk_are_stored_at_once(compute: Compute, is_trained: bool) -> None:
    n, d, v = 64, 5, 97
    hidden, weight, labels = batch(n, torch.float64, d, v)
    weight.requires_grad_(is_trained)
    with Operations() as operations:
        torch.autograd.backward(compute(hidden, weight, labels))
    assert operations.largest <= max(4 * v, n * d, v * d)
    hidden.grad = weight.grad = None
    with LiveBytes([hidden, weight, labels]) as live:
        torch.autograd.backward(compute(hidden, weight, labels))
    # The bound includes gradients, a few values per position, and one chunk of logits, of the
    # derivatives of the soft cap and of a temporary tensor.
    assert live.peak < 8 * (2 * n * d + 2 * v * d + 8 * n + 3 * 4 * v)
    assert live.peak < 8 * n * v


@CHUNKED
@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
def test_nothing_is_read_back_to_the_host(compute: Compute, is_trained: bool) -> None:
    hidden, weight, labels = batch(23)
    with Operations() as operations:
        torch.autograd.backward(compute(hidden, weight.requires_grad_(is_trained), labels))
    readbacks = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
    assert not operations.names & readbacks
    with Operations() as operations:
        token_log_probs(hidden, weight, labels, ignore_index=-100)
    assert operations.names & readbacks


@CHUNKED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
def test_dtypes_match_on_the_gpu_path(compute: Compute, dtype: torch.dtype, is_trained: bool) -> None:
    """Meta tensors take the GPU path; operations check dtypes and shapes, and reading a value back raises an error."""
    inputs = [t.detach().to("meta") for t in batch(23, dtype)]
    hidden, weight = inputs[0].requires_grad_(), inputs[1].requires_grad_(is_trained)
    torch.autograd.backward(compute(hidden, weight, inputs[2]))
    assert hidden.grad is not None
    assert hidden.grad.dtype == dtype
    assert (weight.grad is None) == (not is_trained)
    assert weight.grad is None or weight.grad.dtype == dtype


def test_invalid_arguments_are_rejected() -> None:
    hidden, weight, labels = batch(3)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        token_log_probs(hidden, weight, labels, temperature=0)
    with pytest.raises(ValueError, match="chunk_size must be above 0, got 0"):
        token_log_probs(hidden, weight, labels, chunk_size=0)
    with pytest.raises(ValueError, match="hidden has 3 positions, but labels has 2"):
        token_log_probs(hidden, weight, labels[:2])
