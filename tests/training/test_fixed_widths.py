"""Batches of fixed widths, as used on a GPU, give the same losses and gradients as batches without padding to them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from configs_py.smollm2 import smollm2_135m_full
from tests.data.pairs import pairs
from tests.modules.kernels import uncompiled_flex, use_kernel
from tests.tolerance import FLOAT64, assert_near
from tests.training.test_exactness import FAMILIES, build_model, gradients, prepend_prefix, rows
from tests.training.tiny import SINGLE_RANK, SmallTokenizer, examples, tiny_model
from torchtune.data import Batch, Batches, Item
from torchtune.distributed import World
from torchtune.modules import Decoder, Hardware, LinearCrossEntropy, assume_hardware
from torchtune.training import (
    HeldOutSet,
    Loading,
    NextToken,
    Packing,
    Validation,
    Validator,
    build_validator,
    target_log_probs,
)

H100 = Hardware("cuda", (9, 0))
ROWS: dict[str, tuple[Sequence[Item], dict[str, Any]]] = {
    "padded": (rows(7), {"longest": 64}),
    "packed": (rows(7), {"packed_length": 45}),
    "single examples in packs": (rows(5), {"packed_length": 30, "fit": "first"}),
    "prefixes": (prepend_prefix(rows(7), 17), {"packed_length": 90, "share_prefixes": True}),
    "pairs": (pairs(7, 61), {"longest": 64}),
    "packed pairs": (pairs(7, 61), {"packed_length": 70}),
}


@pytest.fixture(params=["per_document", "flex"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Select the attention kernel for packs."""
    use_kernel(monkeypatch, request.param)
    with uncompiled_flex():
        yield request.param


def epoch(kind: str, *, fixed_widths: bool) -> list[Batch]:
    items, settings = ROWS[kind]
    batches = Batches(items, 2, shuffle=True, seed=3, pad_id=0, fixed_widths=fixed_widths, **settings)
    return [next(batches) for _ in range(batches.steps_in(1))]


def loss_and_gradients(model: Decoder, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute a loss in which every sequence has a different weight, as in preference tuning."""
    sums = batch.sum_by_sequence(target_log_probs(model, batch))
    loss = (sums * torch.linspace(-1, 2, len(sums), dtype=sums.dtype)).sum()
    model.zero_grad()
    torch.autograd.backward(loss)
    return loss.detach(), gradients(model)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.usefixtures("kernel")
def test_fixed_widths_change_neither_losses_nor_gradients(kind: str, family: str) -> None:
    model = build_model(FAMILIES[family], None, "fp64", lean_layers=True)
    n_wider = 0
    for batch, padded in zip(epoch(kind, fixed_widths=False), epoch(kind, fixed_widths=True), strict=True):
        n_wider += padded.tokens.shape[1] > batch.tokens.shape[1]
        assert_near(loss_and_gradients(model, padded), loss_and_gradients(model, batch), FLOAT64)
    assert n_wider > 0


def validator_for(folder: Path, model: Decoder, batch_size: int, world: World = SINGLE_RANK) -> Validator:
    cfg = evolve(smollm2_135m_full(), output_dir=str(folder), batch_size=batch_size)
    held_out = HeldOutSet(Validation(fraction=0.5), [row for row in examples() if row.n_targets], [])
    return build_validator(cfg, held_out, NextToken(LinearCrossEntropy()), SmallTokenizer(), model, world)


@pytest.mark.parametrize("packing", [None, Packing(length=26)])
def test_widths_are_fixed_on_accelerators_only(packing: Packing | None, tmp_path: Path) -> None:
    model, loading = tiny_model(), Loading(packing=packing, workers=0)

    def training_widths() -> set[int]:
        batches = loading.batches(examples(), SmallTokenizer(), model, SINGLE_RANK, batch_size=2)
        return {next(batches).tokens.shape[1] for _ in range(20)}

    def validation_widths() -> set[int]:
        validator = validator_for(tmp_path, model, 2)
        return {validator._batch(examples()[i : i + 2]).tokens.shape[1] for i in range(0, 10, 2)}

    assert len(training_widths()) > 1
    assert len(validation_widths()) > 1
    for hardware in (H100, Hardware("mps")):
        with assume_hardware(hardware):
            assert training_widths() == {32 if packing is None else 26}, "the model's max_seq_len, or a pack"
            assert validation_widths() == {32}


def test_fixed_widths_do_not_change_the_validation_loss(tmp_path: Path) -> None:
    """With three rows per batch, the second of two ranks has no rows left and receives a filler."""
    model = tiny_model()
    plain = validator_for(tmp_path, model, 3)
    second_rank = evolve(SINGLE_RANK, data_rank=1)
    with assume_hardware(H100):
        fixed = validator_for(tmp_path, model, 3)
        filler = validator_for(tmp_path, model, 3, second_rank)._batch([])
    assert filler.is_filler
    assert filler.tokens.shape == (1, 32)
    for actual, expected in zip(fixed._mean_loss(), plain._mean_loss(), strict=True):
        if isinstance(expected, float):
            assert actual == pytest.approx(expected, rel=FLOAT64)
