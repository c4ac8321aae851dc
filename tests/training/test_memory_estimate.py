"""Memory estimates compared with the bytes of real tensors."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.optim import SGD, AdamW

from tests.training.tiny import tiny_decoder
from torchtune.config import lazy
from torchtune.modules import Decoder, add_lora
from torchtune.training import estimate_memory


def meta_model() -> Decoder:
    with torch.device("meta"):
        return tiny_decoder()


def storage_bytes(tensors: list[torch.Tensor]) -> int:
    return sum(t.untyped_storage().nbytes() for t in {t.data_ptr(): t for t in tensors}.values())


@pytest.mark.parametrize(
    "optimizer", [lazy(AdamW, lr=1e-3), lazy(SGD, lr=0.1), lazy(SGD, lr=0.1, momentum=0.9)]
)
@pytest.mark.parametrize("lora", [False, True])
def test_estimated_bytes_match_a_real_step(optimizer: object, lora: bool) -> None:
    model = tiny_decoder()
    if lora:
        add_lora(model, ["q_proj", "v_proj"], 4, 8.0)
    trained = [p for p in model.parameters() if p.requires_grad]
    real = optimizer.func(trained, **optimizer.keywords)  # type: ignore[attr-defined]  # a lazy partial
    for p in trained:
        p.grad = torch.ones_like(p)
    real.step()
    model_on_meta = meta_model()
    if lora:
        add_lora(model_on_meta, ["q_proj", "v_proj"], 4, 8.0)
    estimate = estimate_memory(model_on_meta, optimizer)  # type: ignore[arg-type]  # parametrized over kinds
    assert estimate.parameters == sum(p.numel() for p in model.parameters())
    assert estimate.trainable == sum(p.numel() for p in trained)
    assert estimate.weights == storage_bytes([*model.parameters(), *model.buffers()])
    assert estimate.gradients == storage_bytes([p.grad for p in trained if p.grad is not None])
    state = [v for s in real.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    assert estimate.optimizer == storage_bytes(state)
    assert estimate.total == estimate.weights + estimate.gradients + estimate.optimizer


def test_frozen_weights_have_the_requested_dtype_and_trained_weights_are_fp32() -> None:
    model = meta_model()
    add_lora(model, ["q_proj"], 4, 8.0)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    estimate = estimate_memory(model, lazy(AdamW, lr=1e-3), dtype="bf16")
    assert estimate.weights == 2 * frozen + 4 * trained + buffers
    assert estimate.gradients == 4 * trained


def test_nothing_is_trained_without_an_optimizer() -> None:
    estimate = estimate_memory(meta_model(), None, dtype="bf16")
    assert (estimate.trainable, estimate.gradients, estimate.optimizer) == (0, 0, 0)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_sharded_estimate_matches_the_fsdp_shards_on_rank_0(ranks: int) -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    model = meta_model()
    single = copy.deepcopy(model)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (ranks,))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        sharded_bytes = sum(_local(p).numel() * 4 for p in model.parameters())
    finally:
        torch.distributed.destroy_process_group()
    buffers = sum(b.numel() * b.element_size() for b in single.buffers())
    assert (
        estimate_memory(single, lazy(SGD, lr=0.1), ranks=ranks, enable_fsdp=True).weights - buffers
        == sharded_bytes
    )
    assert estimate_memory(single, lazy(SGD, lr=0.1), ranks=ranks).weights > sharded_bytes


def _local(parameter: nn.Parameter) -> torch.Tensor:
    local: torch.Tensor = parameter.to_local()  # type: ignore[attr-defined]  # a DTensor after sharding
    return local
