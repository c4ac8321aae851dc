"""What packed rows are attended to with on CUDA, compared with attending to each document by itself."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention

from tests.tolerance import FLOAT64, assert_near, bound
from torchtune.modules import Documents, _flex_attention
from torchtune.modules._attention import by_block, by_document, by_mask, document_kernel

LENGTHS = [
    [5, 1, 150, 44, 130],
    [200, 130],
]  # of the documents in two rows: 330 tokens, which are padded to 384


PREFIXES = {
    "one of a row": ([[150, 5, 1, 44, 130], [200, 130]], [[(0, 0), *[(0, 131)] * 4], [(0, 0), (0, 0)]]),
    "one of each pair": (
        [[150, 5, 40, 44, 30, 61], [100, 29, 200, 1]],
        [[(0, 0), (0, 131), (0, 0), (155, 39), (0, 0), (239, 1)], [(0, 0), (0, 99), (0, 0), (129, 150)]],
    ),
}
"""Lengths of documents in two rows, and the prefixes that they continue."""


def documents(lengths: list[list[int]] = LENGTHS) -> Documents:
    return Documents.of_lengths(lengths)


def heads(length: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Draw q `[2, 4, length, 16]`, and k and v `[2, 2, length, 16]`, with scores that a soft cap bends."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n_heads, length, 16, dtype=dtype) for n_heads in (4, 2, 2))
    return 3 * q, k, v


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `flex_attention` as written: compiling it takes a C++ compiler and half a minute."""
    monkeypatch.setattr(_flex_attention, "_compiled", lambda: flex_attention.flex_attention)
    # torch's own switch; without it there is a warning that this is slow.
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("lengths", [LENGTHS, [[3, 4], [7]], [[128, 128], [256]]])
@pytest.mark.parametrize("window", [None, 1, 40, 140])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_blocks_give_what_each_document_gives_alone(
    lengths: list[list[int]], window: int | None, softcap: float | None
) -> None:
    packed = documents(lengths)
    q, k, v = heads(sum(lengths[0]))
    expected = by_document(q, k, v, packed, window, scale=0.3, softcap=softcap)
    out = by_block(q, k, v, packed, window, scale=0.3, softcap=softcap)
    assert_near(out, expected, FLOAT64)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("kernel", [by_document, by_block, by_mask])
@pytest.mark.parametrize("prefixes", PREFIXES)
@pytest.mark.parametrize("window", [None, 3, 40, 140])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_documents_see_the_prefixes_that_they_continue(
    kernel: Callable[..., Tensor], prefixes: str, window: int | None, softcap: float | None
) -> None:
    packed = Documents.of_lengths(*PREFIXES[prefixes])
    q, k, v = heads(330)
    out = kernel(q, k, v, packed, window, scale=0.3, softcap=softcap)
    for row, start, end, prefix_start, n in packed.spans:  # each written out in full
        columns = [*range(prefix_start, prefix_start + n), *range(start, end)]
        q1, k1, v1 = (x[row : row + 1, :, columns] for x in (q, k, v))
        alone = by_mask(q1, k1, v1, documents([[len(columns)]]), window, scale=0.3, softcap=softcap)
        assert_near(out[row : row + 1, :, start:end], alone[:, :, n:], FLOAT64)


@pytest.mark.parametrize("window", [None, 1, 40, 129, 1000])
def test_blocks_are_those_that_torch_finds_in_all_pairs(window: int | None) -> None:
    lengths = [[5, 1, 150, 44, 130, 300], [500, 130]]
    mine = documents(lengths).block_mask(window)
    # Padding is documents of one token each.
    ids = torch.stack([torch.repeat_interleave(torch.tensor(row + [1] * 10)) for row in lengths])  # [2, 640]

    def sees(b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = query >= 0 if window is None else query - key < window
        return (ids[b, query] == ids[b, key]) & (key <= query) & near

    theirs = flex_attention.create_block_mask(sees, 2, None, 640, 640, device="cpu")
    assert mine.shape == theirs.shape
    for numbers, which in (("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices")):
        listed = torch.arange(5) < getattr(theirs, numbers)[..., None]  # What follows is not looked at.
        assert torch.equal(getattr(mine, numbers), getattr(theirs, numbers))
        assert torch.equal(getattr(mine, which)[listed], getattr(theirs, which)[listed])
        counts: Tensor = getattr(mine, numbers)
        assert window in {1, 40, 129} or counts.sum() > 0  # Wide windows have both kinds.


def test_mask_is_made_once_for_each_window() -> None:
    packed = documents()
    assert packed.block_mask(7) is packed.block_mask(7)
    assert packed.block_mask(7) is not packed.block_mask(None)
    assert packed.block_mask(None) is packed.block_mask(None)


@pytest.mark.parametrize(
    ("device_type", "head_dim", "dtype", "kernel"),
    [
        ("cpu", 64, torch.bfloat16, by_document),
        ("cuda", 64, torch.bfloat16, by_block),
        ("cuda", 16, torch.float32, by_block),
        ("cuda", 8, torch.bfloat16, by_mask),
        ("cuda", 64, torch.float64, by_mask),
        ("mps", 64, torch.bfloat16, by_mask),
    ],
)
def test_kernel_is_the_best_that_the_device_has(
    device_type: str, head_dim: int, dtype: torch.dtype, kernel: Callable[..., Tensor]
) -> None:
    assert document_kernel(device_type, head_dim, dtype) is kernel


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Compile without a compiler, and return what would have been compiled so far."""
    found: list[Any] = []

    def keep(graph: Any, _inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    _flex_attention._compiled.cache_clear()
    yield found
    _flex_attention._compiled.cache_clear()
    torch.compiler.reset()


def test_new_documents_and_windows_compile_nothing_new(graphs: list[Any]) -> None:
    batches = [LENGTHS, [[330], [330]], [[10] * 33, [300, 30]], [[350], [340, 10]]]
    for window, lengths in zip([None, 40, 50, None], batches, strict=True):
        packed = documents(lengths)
        q, k, v = heads(sum(lengths[0]))
        out = by_block(q, k, v, packed, window, scale=0.3)
        assert_near(out, by_document(q, k, v, packed, window, scale=0.3), FLOAT64)
    assert len(graphs) == 1


def test_models_with_other_scales_and_caps_share_a_process(graphs: list[Any]) -> None:
    packed = documents()
    q, k, v = heads(330)
    settings = [(0.3, 2.0), (0.2, 3.0), (0.1, 4.0), (0.3, 2.0)]
    for scale, softcap in settings:
        out = by_block(q, k, v, packed, None, scale=scale, softcap=softcap)
        assert_near(out, by_document(q, k, v, packed, None, scale=scale, softcap=softcap), FLOAT64)
    assert len(graphs) == len(set(settings))


def test_lengths_are_few_and_a_quarter_longer_at_most() -> None:
    padded = [_flex_attention._padded(length) for length in range(1, 16_385)]
    assert all(p % 128 == 0 and 0 <= p - n <= max(127, n // 4) for n, p in enumerate(padded, start=1))
    assert len(set(padded)) == 8 + 4 * 4  # to 1,024; then for each doubling


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this is what has not yet been run: it needs a GPU")
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("prefixes", PREFIXES)
def test_gradients_on_a_gpu_are_those_of_each_document_alone(
    window: int | None, softcap: float | None, prefixes: str
) -> None:
    results: list[list[Tensor]] = []
    kernels: list[tuple[str, Callable[..., Tensor]]] = [("cpu", by_document), ("cuda", by_block)]
    for device, kernel in kernels:
        inputs = [x.to(device).requires_grad_() for x in heads(330, torch.float32)]
        out = kernel(
            *inputs,
            Documents.of_lengths(*PREFIXES[prefixes], device=device),
            window,
            scale=0.3,
            softcap=softcap,
        )
        results.append([x.cpu() for x in (out, *torch.autograd.grad(out.square().sum(), inputs))])
    # Sums over 16 channels, and twice over up to 200 keys; three times as many with the backward pass. The largest
    # scores are about 16, by which exp multiplies what is rounded.
    assert_near(results[1], results[0], bound(torch.float32, 3 * (16 + 2 * 200), scale=16))
