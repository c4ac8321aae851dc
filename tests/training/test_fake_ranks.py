"""Models of real size on 64 ranks that are not there: tensors without memory, and a process group without peers."""

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

from tests.training.tiny import ALONE, place
from torchtune.config import lazy
from torchtune.models.llama3 import llama3_2_1b, llama3_8b
from torchtune.modules import Decoder
from torchtune.training import ActivationCheckpointing, Lora, MemoryEstimate, Sharding, estimate_memory
from torchtune.training import _placement as placement

RANKS = 64
ADAPTERS = Lora(targets=["q_proj", "v_proj"], rank=8)


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield
    dist.destroy_process_group()


@contextmanager
def filled_with_nothing(mode: FakeTensorMode) -> Iterator[None]:
    """Let `place` give memory to tensors that have none; its mesh is made of real ones."""
    fill = placement._fill

    def fill_with_nothing(*args: Any, **kwargs: Any) -> None:
        with mode:
            fill(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "_fill", fill_with_nothing)
        yield


def on_meta(build: Any, lora: Lora | None) -> Decoder:
    with torch.device("meta"):
        model: Decoder = build()
    if lora is not None:
        lora.add_to(model)
    return model


def held(build: Any, lora: Lora | None, **how: Any) -> tuple[int, int, int]:
    """Take a step on the first of the ranks; return its bytes of weights, of gradients and of optimizer state."""
    model, mode = on_meta(build, lora), FakeTensorMode(allow_non_fake_inputs=True)
    with filled_with_nothing(mode):
        place(model, evolve(ALONE, size=RANKS, data_size=RANKS), dtype="bf16", enable_fsdp=True, **how)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trained, lr=1e-3, foreach=False, fused=False)
    with mode:
        tokens = torch.zeros(1, 16, dtype=torch.long)
        # `step_loss` picks the targets, whose number depends on values that nobody has.
        logits = model.logits(model.hidden(tokens))  # [b, s, v]
        torch.autograd.backward(F.cross_entropy(logits[0].float(), tokens[0]))
        optimizer.step()
    gradients = [p.grad for p in trained if p.grad is not None]
    assert len(gradients) == len(trained)
    state = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    return size(list(model.parameters())), size(gradients), size(state)


def size(tensors: list[Any]) -> int:
    locals_ = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return sum(t.numel() * t.element_size() for t in locals_)


def parts(found: MemoryEstimate) -> tuple[int, int, int]:
    return found.weights, found.gradients, found.optimizer


@pytest.mark.slow  # a dozen seconds of fake tensors; the tests below do it with a smaller model
@pytest.mark.parametrize("lora", [None, ADAPTERS], ids=["full", "lora"])
def test_llama3_8b_on_64_ranks_holds_what_needs_says(lora: Lora | None) -> None:
    found = held(llama3_8b, lora)
    planned = estimate_memory(on_meta(llama3_8b, lora), lazy(AdamW), dtype="bf16", ranks=RANKS, enable_fsdp=True)
    assert planned.parameters > 8e9
    assert found == parts(planned)


def test_replicas_and_checkpointing_hold_what_needs_says_of_their_ranks() -> None:
    kept = ActivationCheckpointing(keep="matmuls")
    found = held(llama3_2_1b, None, sharding=Sharding(replicas=8), activation_checkpointing=kept)
    planned = estimate_memory(on_meta(llama3_2_1b, None), lazy(AdamW), dtype="bf16", ranks=8, enable_fsdp=True)
    assert found == parts(planned)


def test_pure_bf16_takes_half_of_what_fp32_weights_take() -> None:
    found = held(llama3_2_1b, None, weights_dtype="bf16")
    planned = estimate_memory(on_meta(llama3_2_1b, None), lazy(AdamW), dtype="bf16", ranks=RANKS, enable_fsdp=True)
    assert (2 * found[0], 2 * found[1]) == parts(planned)[:2]
    n_steps = 4 * len(
        list(on_meta(llama3_2_1b, None).parameters())
    )  # AdamW counts each parameter's in 4 bytes
    assert 2 * (found[2] - n_steps) == planned.optimizer - n_steps
