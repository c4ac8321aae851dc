"""Attention kernels for packs match separate attention within each document."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention

from tests.modules.kernels import attend_to_documents, uncompiled_flex
from tests.tolerance import FLOAT64, assert_near, bound
from torchtune.modules import Documents, _flex_attention
from torchtune.modules._attention_kernels import Kernel

LENGTHS = [[5, 1, 150, 44, 130], [200, 130]]
"""Document lengths in two rows of 330 tokens, which are padded to 384."""


PREFIXES = {
    "one per row": ([[150, 5, 1, 44, 130], [200, 130]], [[(0, 0), *[(0, 131)] * 4], [(0, 0), (0, 0)]]),
    "one per pair": (
        [[150, 5, 40, 44, 30, 61], [100, 29, 200, 1]],
        [[(0, 0), (0, 131), (0, 0), (155, 39), (0, 0), (239, 1)], [(0, 0), (0, 99), (0, 0), (129, 150)]],
    ),
}
"""Lengths of documents in two rows, and their prefixes."""


def documents(lengths: list[list[int]] = LENGTHS) -> Documents:
    return Documents.from_lengths(lengths)


def heads(length: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return random q `[2, 4, length, 16]`, k and v `[2, 2, length, 16]`, scaled so that a soft cap matters."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n_heads, length, 16, dtype=dtype) for n_heads in (4, 2, 2))
    return 3 * q, k, v


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Run `flex_attention` uncompiled."""
    with uncompiled_flex():
        yield


@pytest.mark.quick_cases(12)
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("lengths", [LENGTHS, [[3, 4], [7]], [[128, 128], [256]]])
@pytest.mark.parametrize("window", [None, 1, 40, 140])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_block_attention_matches_separate_attention_per_document(
    lengths: list[list[int]], window: int | None, softcap: float | None
) -> None:
    packed = documents(lengths)
    q, k, v = heads(sum(lengths[0]))
    expected = attend_to_documents("per_document", q, k, v, packed, window, scale=0.3, softcap=softcap)
    out = attend_to_documents("flex", q, k, v, packed, window, scale=0.3, softcap=softcap)
    assert_near(out, expected, FLOAT64)


@pytest.mark.quick_cases(13)
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("kernel", ["per_document", "flex", "sdpa", "scores"])
@pytest.mark.parametrize("prefixes", PREFIXES)
@pytest.mark.parametrize("window", [None, 3, 40, 140])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_documents_attend_to_their_prefixes(
    kernel: Kernel, prefixes: str, window: int | None, softcap: float | None
) -> None:
    if kernel == "sdpa" and softcap is not None:
        return  # not among its conditions
    packed = Documents.from_lengths(*PREFIXES[prefixes])
    q, k, v = heads(330)
    out = attend_to_documents(kernel, q, k, v, packed, window, scale=0.3, softcap=softcap)
    for row, start, end, prefix_start, n in packed.spans:  # each with its prefix
        columns = [*range(prefix_start, prefix_start + n), *range(start, end)]
        q1, k1, v1 = (x[row : row + 1, :, columns] for x in (q, k, v))
        separate = attend_to_documents(
            "scores", q1, k1, v1, documents([[len(columns)]]), window, scale=0.3, softcap=softcap
        )
        assert_near(out[row : row + 1, :, start:end], separate[:, :, n:], FLOAT64)


@pytest.mark.parametrize("window", [None, 1, 40, 129, 1000])
def test_block_masks_match_the_masks_that_torch_builds_from_all_pairs(window: int | None) -> None:
    lengths = [[5, 1, 150, 44, 130, 300], [500, 130]]
    block_mask = documents(lengths).block_mask(window)
    # Each padding token is a separate document.
    ids = torch.stack([torch.repeat_interleave(torch.tensor(row + [1] * 10)) for row in lengths])  # [2, 640]

    def attends(b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        is_in_window = query >= 0 if window is None else query - key < window
        return (ids[b, query] == ids[b, key]) & (key <= query) & is_in_window

    expected = flex_attention.create_block_mask(attends, 2, None, 640, 640, device="cpu")
    assert block_mask.shape == expected.shape
    for counts_name, indices_name in (
        ("kv_num_blocks", "kv_indices"),
        ("full_kv_num_blocks", "full_kv_indices"),
    ):
        is_used = torch.arange(5) < getattr(expected, counts_name)[..., None]  # later indices are not used
        assert torch.equal(getattr(block_mask, counts_name), getattr(expected, counts_name))
        assert torch.equal(
            getattr(block_mask, indices_name)[is_used], getattr(expected, indices_name)[is_used]
        )
        counts: Tensor = getattr(block_mask, counts_name)
        assert window in {1, 40, 129} or counts.sum() > 0  # wide windows have both kinds of blocks


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Replace the compiler; yield the list of graphs that it would have compiled so far."""
    compiled_graphs: list[Any] = []

    def record(graph: Any, _inputs: Any) -> Any:
        compiled_graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=record))
    _flex_attention._compiled.cache_clear()
    yield compiled_graphs
    _flex_attention._compiled.cache_clear()
    torch.compiler.reset()


@pytest.mark.slow
def test_different_documents_and_windows_do_not_cause_recompilation(graphs: list[Any]) -> None:
    batches = [LENGTHS, [[330], [330]], [[10] * 33, [300, 30]], [[350], [340, 10]]]
    for window, lengths in zip([None, 40, 50, None], batches, strict=True):
        packed = documents(lengths)
        q, k, v = heads(sum(lengths[0]))
        out = attend_to_documents("flex", q, k, v, packed, window, scale=0.3)
        assert_near(out, attend_to_documents("per_document", q, k, v, packed, window, scale=0.3), FLOAT64)
    assert len(graphs) == 1


@pytest.mark.slow
def test_models_with_different_scales_and_caps_can_share_a_process(graphs: list[Any]) -> None:
    packed = documents()
    q, k, v = heads(330)
    settings = [(0.3, 2.0), (0.2, 3.0), (0.1, 4.0), (0.3, 2.0)]
    for scale, softcap in settings:
        out = attend_to_documents("flex", q, k, v, packed, None, scale=scale, softcap=softcap)
        assert_near(
            out,
            attend_to_documents("per_document", q, k, v, packed, None, scale=scale, softcap=softcap),
            FLOAT64,
        )
    assert len(graphs) == len(set(settings))


def test_padded_lengths_are_few_and_at_most_a_quarter_longer() -> None:
    padded = [_flex_attention._padded(length) for length in range(1, 16_385)]
    assert all(p % 128 == 0 and 0 <= p - n <= max(127, n // 4) for n, p in enumerate(padded, start=1))
    assert len(set(padded)) == 8 + 4 * 4  # the number of lengths up to 1,024, and per doubling after that


@pytest.mark.skipif(not torch.cuda.is_available(), reason="requires a GPU; not run on one yet")
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("prefixes", PREFIXES)
def test_gpu_gradients_match_separate_attention_per_document(
    window: int | None, softcap: float | None, prefixes: str
) -> None:
    results: list[list[Tensor]] = []
    kernels: list[tuple[str, Kernel]] = [("cpu", "per_document"), ("cuda", "flex")]
    for device, kernel in kernels:
        inputs = [x.to(device).requires_grad_() for x in heads(330, torch.float32)]
        packed = Documents.from_lengths(*PREFIXES[prefixes], device=device)
        q, k, v = inputs
        out = attend_to_documents(kernel, q, k, v, packed, window, scale=0.3, softcap=softcap)
        results.append([x.cpu() for x in (out, *torch.autograd.grad(out.square().sum(), inputs))])
    # Each output is the result of a sum over 16 channels and two sums over up to 200 keys; the backward pass has three
    # times as many terms. Scores reach about 16, and exp amplifies their rounding errors by that factor.
    assert_near(results[1], results[0], bound(torch.float32, 3 * (16 + 2 * 200), scale=16))
