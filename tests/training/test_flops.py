"""FLOPs compared with torch's counter."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.training.tiny import VOCAB, examples, make_batch, tiny_model
from torchtune.data import Batch, Example, collate
from torchtune.modules import Decoder
from torchtune.training import Lora, _flops, step_flops
from torchtune.training._flops import pairs


def torch_flops(model: Decoder, batch: Batch) -> dict[str, int]:
    """Count the FLOPs of a forward and backward pass with torch's counter, with logits at every position."""
    with FlopCounterMode(display=False) as counter:
        model(batch.tokens).sum().backward()
    counts: dict[Any, int] = counter.get_flop_counts()["Global"]
    return {str(name): number for name, number in counts.items()}


def matrix_flops(counts: dict[str, int]) -> int:
    return sum(n for name, n in counts.items() if name in ("aten.mm", "aten.addmm", "aten.bmm"))


@pytest.mark.parametrize("tied", [True, False])
def test_matrix_flops_match_the_torch_counter(tied: bool) -> None:
    model = tiny_model("fp32")
    assert model.architecture.tied_embeddings
    if not tied:
        from torchtune.models.smollm2 import smollm2

        a = model.architecture.flat()
        sizes = {n: a[n] for n in ("num_layers", "embed_dim", "num_heads", "num_kv_heads", "ffn_dim")}
        model = smollm2(vocab_size=VOCAB, max_seq_len=32, tied_embeddings=False, **sizes)
    rows = [Example([1] * 8, [1] * 8)] * 3
    batch = make_batch(rows)
    attention = 3 * 4 * sum(pairs(n, None) for n in batch.lengths) * 16 * 2  # 16 channels, 2 layers
    actual = step_flops(model)([batch]) - attention
    assert model.embed_tokens.weight.requires_grad, (
        "otherwise, torch would not count the input gradients of the first matrices"
    )
    assert actual == matrix_flops(torch_flops(model, batch))


def test_frozen_matrices_have_no_weight_gradient() -> None:
    batch = make_batch([Example([1] * 8, [1] * 8)] * 3)
    plain, adapted = tiny_model("fp32"), tiny_model("fp32", Lora(targets=["q_proj"], rank=2))
    small = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    full = sum(p.numel() for p in plain.parameters() if p.dim() == 2)
    saved = step_flops(plain)([batch]) - step_flops(adapted)([batch])
    assert saved == (2 * full - 6 * small) * 21


def test_attention_counts_only_pairs_within_the_mask() -> None:
    for length in range(1, 12):
        for window in (None, 1, 3, 20):
            expected = sum(1 for q in range(length) for k in range(q + 1) if window is None or k > q - window)
            assert pairs(length, window) == expected


def test_attention_is_counted_per_document_and_with_the_window_of_each_layer() -> None:
    architecture = tiny_model("fp32").architecture.evolve(window=4, full_attention_every=2)
    model = Decoder(architecture)
    rows = examples(2)
    unpacked, packed = collate(rows, 0), collate([rows], 0)
    assert packed.spans
    assert step_flops(model)([unpacked]) == step_flops(model)([packed])
    a = model.architecture
    windows = [a.attention.window_of(i) for i in range(2)]
    n_pairs = sum(pairs(len(row.tokens) - 1, w) for row in rows for w in windows)
    n_weights = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2)
    tokens = sum(len(row.tokens) - 1 for row in rows)
    assert step_flops(model)([unpacked]) == 6 * n_weights * tokens + 3 * 4 * n_pairs * 16


@pytest.mark.parametrize(("bf16_peak", "expected"), [(312e12, 156e12), (None, None)])
def test_tf32_peak_matches_the_a100_data_sheet(
    bf16_peak: float | None, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_flops, "peak_flops", lambda device, dtype: {"bf16": bf16_peak}[dtype])
    assert _flops.tf32_peak_flops(torch.device("cuda")) == expected
