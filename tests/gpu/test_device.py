"""The device of `tests.gpu.device`: rejected calls, waits of the host, and the results of kernels."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.data.byte_tokenizer import ByteTokenizer
from tests.gpu.choices import h100
from tests.gpu.device import GPU
from tests.gpu.models import FAMILIES, Kind, tiny
from tests.gpu.process import in_separate_process
from tests.gpu.waits import no_waits, waits
from tests.modules.kernels import uncompiled_flex
from tests.tolerance import assert_near, bound, roundings
from torchtune.modules import Decoder, Documents, DocumentSpan, LinearCrossEntropy

Call = Callable[[], object]


def matrix(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(4, 4, dtype=dtype, device=GPU)


@pytest.mark.slow
@in_separate_process
def test_tensors_on_the_cpu_are_rejected_by_the_name_of_the_operator() -> None:
    x, host = matrix(), torch.ones(4, 4)
    indices, table = torch.zeros(4, dtype=torch.int64), nn.Embedding(4, 4, device=GPU)
    calls: dict[str, Call] = {
        "aten.add.Tensor": lambda: x + host,
        "aten.mul_.Tensor": lambda: x.mul_(host),
        "aten.mm.default": lambda: x @ host,
        "aten.cat.default": lambda: torch.cat([x, host]),
        "aten.stack.default": lambda: torch.stack([x.sum(), host.sum()]),
        "aten.embedding.default": lambda: table(indices),
        "aten.index_select.default": lambda: x.index_select(0, indices),
        "aten.gather.default": lambda: x.gather(1, indices[:, None]),
        "aten.where.self": lambda: torch.where(host > 0, x, x),
        "aten.add.out": lambda: torch.add(x, x, out=torch.empty(4, 4)),
        "aten.add_.Tensor": lambda: host.sum().add_(x.sum()),
        "aten.masked_fill_.Scalar": lambda: x.masked_fill_(host > 0, 1.0),
    }
    for operator, call in calls.items():
        with pytest.raises(
            RuntimeError, match=rf"^{operator}: a tensor \[.*\] on cpu among tensors on gpu:0$"
        ):
            call()
    with pytest.raises(RuntimeError, match=r"^aten.uniform_.default: expected a generator on gpu:0"):
        torch.rand(4, generator=torch.Generator(), device=GPU)


@pytest.mark.slow
@in_separate_process
def test_scalars_and_indices_on_the_cpu_are_accepted() -> None:
    x, scalar = matrix(), torch.tensor(2.0)
    assert (x * scalar).tolist() == torch.full((4, 4), 2.0).tolist()
    assert torch.where(x > 0, scalar, x).tolist() == torch.full((4, 4), 2.0).tolist()
    assert x.fill_(scalar)[torch.tensor([0, 3])].tolist() == torch.full((2, 4), 2.0).tolist()


@pytest.mark.slow
@in_separate_process
def test_products_of_different_dtypes_are_rejected_by_the_name_of_the_operator() -> None:
    x, half = matrix(), matrix(torch.bfloat16)
    calls: dict[str, Call] = {
        "aten.mm.default": lambda: x @ half,
        "aten.mv.default": lambda: x @ half[0],
        "aten.bmm.default": lambda: x[None] @ half[None],
        "aten.addmm.default": lambda: torch.addmm(x, half, half),
        "aten.addmm_.default": lambda: x.addmm_(half, half),
        "aten.baddbmm.default": lambda: torch.baddbmm(x[None], half[None], half[None]),
        "aten.mm.dtype": lambda: torch.mm(x, half, out_dtype=torch.float32),
        "aten.addmm.dtype": lambda: torch.addmm(x, x, half, out_dtype=torch.float32),
        "aten.addmm.dtype_out": lambda: torch.addmm(x, half, x, out_dtype=torch.float32, out=x),
    }
    for operator, call in calls.items():
        with pytest.raises(RuntimeError, match=rf"^{operator}: the device requires"):
            call()
    with pytest.raises(RuntimeError, match=r"^aten.mm.default: the device requires"):
        F.linear(x, half)
    with pytest.raises(RuntimeError, match="same dtype"):
        F.scaled_dot_product_attention(x[None, None], x[None, None], half[None, None])


@pytest.mark.slow
@in_separate_process
def test_products_with_out_dtype_sum_in_float32_and_follow_the_rules_of_cuda() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 300).bfloat16(), torch.randn(300, 7).bfloat16()
    total = torch.randn(5, 7)
    product, on_gpu = a.double() @ b.double(), total.to(GPU)
    result = torch.mm(a.to(GPU), b.to(GPU), out_dtype=torch.float32)
    assert_near(result.cpu(), product, bound(torch.float32, 300))
    assert torch.addmm(on_gpu, a.to(GPU), b.to(GPU), out_dtype=torch.float32, out=on_gpu) is on_gpu
    assert_near(on_gpu.cpu(), total.double() + product, bound(torch.float32, 300))
    rejected: list[Call] = [
        lambda: torch.mm(a.to(GPU), b.to(GPU), out_dtype=torch.float64),
        lambda: torch.mm(matrix(), matrix(), out_dtype=torch.bfloat16),
        lambda: torch.mm(a.to(GPU), b.to(GPU), out_dtype=torch.float32, out=on_gpu.bfloat16()),
        lambda: torch.addmm(on_gpu.double(), a.to(GPU), b.to(GPU), out_dtype=torch.float32),
    ]
    for call in rejected:
        with pytest.raises(RuntimeError):
            call()


@pytest.mark.slow
@in_separate_process
def test_every_operator_that_makes_the_host_wait_is_recorded_with_its_location() -> None:
    x, host, mask = matrix(), torch.ones(4, 4), matrix() > 0
    counts = torch.ones(4, dtype=torch.int64, device=GPU)
    waits.clear()
    calls: dict[str, Call] = {
        "aten._local_scalar_dense.default": lambda: x.sum().item(),
        "aten.nonzero.default": lambda: torch.nonzero(x),
        "aten.index.Tensor": lambda: x[mask],
        "aten.masked_select.default": lambda: x.masked_select(mask),
        "aten.equal.default": lambda: torch.equal(x, x),
        "aten.repeat_interleave.Tensor": lambda: torch.repeat_interleave(x, counts, dim=0),
        "aten._to_copy.default": lambda: x.to("cpu"),
        "aten.copy_.default": lambda: host.copy_(x),
        "aten._copy_from.default": lambda: torch.tensor([1.0], device=GPU),
    }
    for operator, call in calls.items():
        call()
        assert (waits[-1].operator, len(waits)) == (operator, 1)
        line = inspect.getsourcelines(call)[1]
        assert waits[-1].location == f"{__file__}:{line} in <lambda>"
        waits.clear()
        with (
            no_waits("a test"),
            pytest.raises(RuntimeError, match=rf"^{operator}: the host waits .* in a test, at {__file__}"),
        ):
            call()
        waits.clear()
    x.to(GPU, torch.float64), host.to(GPU, non_blocking=True), x.new_full((), 2.0)
    x.index_select(0, counts), torch.repeat_interleave(x, counts, dim=0, output_size=4)
    assert not waits


@pytest.mark.slow
@in_separate_process
def test_an_asynchronous_copy_arrives_when_the_host_waits_for_it() -> None:
    pinned = torch.empty(4, pin_memory=True).zero_()
    pinned.copy_(matrix()[0], non_blocking=True)
    moved = matrix()[0].to("cpu", non_blocking=True)
    event: Any = torch.cuda.Event  # untyped in torch
    event = event()
    event.record()
    assert not event.query()
    assert pinned.tolist() == [0.0] * 4
    assert moved.tolist() != [1.0] * 4
    event.synchronize()
    assert pinned.tolist() == moved.tolist() == [1.0] * 4
    assert not waits


def check_kernels() -> None:
    q, k = (torch.ones(1, heads, 4, 8, dtype=torch.bfloat16, device=GPU) for heads in (4, 2))
    mask = torch.ones(4, 4, dtype=torch.bool, device=GPU)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
        with pytest.raises(RuntimeError, match="flash attention: the device requires that there is no mask"):
            F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        with pytest.raises(RuntimeError, match="the dtype is half precision"):
            F.scaled_dot_product_attention(q.float(), q.float(), q.float())
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        with pytest.raises(RuntimeError, match="heads are not grouped"):
            F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    with pytest.raises(RuntimeError, match="one kernel is selected"):
        F.scaled_dot_product_attention(q, q, q)


@pytest.mark.slow
@in_separate_process
def test_kernels_that_cuda_has_are_subject_to_their_conditions() -> None:
    with h100():
        check_kernels()


@pytest.mark.slow
@in_separate_process
def test_errors_in_a_backward_pass_are_raised_at_its_end_and_only_once() -> None:
    x = matrix().requires_grad_()
    y = x * 2
    y.register_hook(lambda grad: grad + torch.ones(4, 4))  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match=r"^aten.add.Tensor: a tensor \[4, 4\] on cpu"):
        torch.autograd.backward(y.sum())
    torch.autograd.backward(x.sum())


def loss_and_gradients(model: Decoder, tokens: Tensor, documents: Documents | None) -> list[Tensor]:
    """Return a next-token loss, and the gradients of all parameters in one tensor."""
    hidden = model.hidden(tokens, documents=documents)[:, :-1].flatten(0, 1)
    loss = LinearCrossEntropy()(
        *model.head(hidden), tokens[:, 1:].flatten(), model.architecture.final_softcap
    )
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return [loss.cpu(), torch.cat([gradient.flatten() for gradient in gradients]).cpu()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
@in_separate_process
def test_losses_and_gradients_on_the_device_equal_those_on_the_cpu(kind: Kind) -> None:
    """Both use the settings for a GPU; packed attention is computed by torch's eager code on the CPU."""
    torch.manual_seed(0)
    model = tiny(kind)
    tokens = torch.randint(ByteTokenizer.vocab_size, (2, 40))
    spans = [DocumentSpan(0, 0, 15), DocumentSpan(0, 15, 40), DocumentSpan(1, 0, 33), DocumentSpan(1, 33, 40)]
    packed = Documents(spans, torch.tensor([list(span) for span in spans]))
    with h100(), uncompiled_flex():
        expected = [loss_and_gradients(model, tokens, documents) for documents in (None, packed)]
    model.to(GPU)
    on_gpu = Documents(spans, torch.tensor([list(span) for span in spans], device=GPU))
    with h100():
        results = [loss_and_gradients(model, tokens.to(GPU), documents) for documents in (None, on_gpu)]
    allowed = bound(torch.float32, 3 * roundings(model.architecture, 40))
    for result, reference in zip(results, expected, strict=True):
        assert_near(result, reference, allowed)
