"""Models of realistic size on 64 simulated ranks, with fake tensors and a process group without peers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import AdamW
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.training.tiny import SINGLE_RANK, place
from torchtune.config import lazy
from torchtune.models.llama3 import llama3_2_1b, llama3_8b
from torchtune.modules import Decoder
from torchtune.placement import ActivationCheckpointing, Sharding
from torchtune.placement import _placement as placement
from torchtune.training import Lora, MemoryEstimate, estimate_memory

RANKS = 64
ADAPTERS = Lora(targets=["q_proj", "v_proj"], rank=8)


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield
    dist.destroy_process_group()


@contextmanager
def fake_fill(mode: FakeTensorMode) -> Iterator[None]:
    """Make `Placement.place` fill the model with fake tensors; the device mesh requires real ones."""
    fill = placement._fill

    def fill_with_fake_tensors(*args: Any, **kwargs: Any) -> None:
        with mode:
            fill(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "_fill", fill_with_fake_tensors)
        yield


def build_on_meta(build: Any, lora: Lora | None) -> Decoder:
    with torch.device("meta"):
        model: Decoder = build()
    if lora is not None:
        lora.add_to(model)
    return model


def measure(build: Any, lora: Lora | None, **settings: Any) -> tuple[int, int, int]:
    """Take a step on the first rank; return the bytes of its weights, gradients and optimizer state."""
    model, mode = build_on_meta(build, lora), FakeTensorMode(allow_non_fake_inputs=True)
    with fake_fill(mode):
        place(
            model,
            evolve(SINGLE_RANK, size=RANKS, data_size=RANKS),
            dtype="bf16",
            enable_fsdp=True,
            **settings,
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trained, lr=1e-3, foreach=False, fused=False)
    with mode:
        tokens = torch.zeros(1, 16, dtype=torch.long)
        # `step_loss` cannot be used: the number of selected targets depends on values, which fake tensors do not have.
        logits = model.logits(model.hidden(tokens))  # [b, s, v]
        torch.autograd.backward(F.cross_entropy(logits[0].float(), tokens[0]))
        optimizer.step()
    gradients = [p.grad for p in trained if p.grad is not None]
    assert len(gradients) == len(trained)
    state = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    return local_bytes(list(model.parameters())), local_bytes(gradients), local_bytes(state)


def local_bytes(tensors: list[Any]) -> int:
    shards = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return sum(t.numel() * t.element_size() for t in shards)


def stored_bytes(estimate: MemoryEstimate) -> tuple[int, int, int]:
    return estimate.weights, estimate.gradients, estimate.optimizer


@pytest.mark.slow  # takes 12 s; the tests below use a smaller model
@pytest.mark.parametrize("lora", [None, ADAPTERS], ids=["full", "lora"])
def test_memory_estimate_for_llama3_8b_on_64_ranks_is_exact(lora: Lora | None) -> None:
    measured = measure(llama3_8b, lora)
    estimate = estimate_memory(
        build_on_meta(llama3_8b, lora), lazy(AdamW), dtype="bf16", ranks=RANKS, enable_fsdp=True
    )
    assert estimate.parameters > 8e9
    assert measured == stored_bytes(estimate)


@pytest.mark.slow
def test_memory_estimate_is_exact_with_replicas_and_checkpointing() -> None:
    section = ActivationCheckpointing(keep="matmuls")
    measured = measure(llama3_2_1b, None, sharding=Sharding(replicas=8), activation_checkpointing=section)
    estimate = estimate_memory(
        build_on_meta(llama3_2_1b, None), lazy(AdamW), dtype="bf16", ranks=8, enable_fsdp=True
    )
    assert measured == stored_bytes(estimate)


@pytest.mark.slow
def test_pure_bf16_halves_the_memory_of_fp32_weights() -> None:
    measured = measure(llama3_2_1b, None, weights_dtype="bf16")
    estimate = estimate_memory(
        build_on_meta(llama3_2_1b, None), lazy(AdamW), dtype="bf16", ranks=RANKS, enable_fsdp=True
    )
    assert (2 * measured[0], 2 * measured[1]) == stored_bytes(estimate)[:2]
    # AdamW has a 4-byte step counter for each parameter tensor.
    step_counter_bytes = 4 * len(list(build_on_meta(llama3_2_1b, None).parameters()))
    assert 2 * (measured[2] - step_counter_bytes) == estimate.optimizer - step_counter_bytes
