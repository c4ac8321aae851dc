"""Memory estimates compared with the bytes of real tensors."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.optim import SGD, AdamW

from tests.modules.reference import TINY
from tests.training.tiny import tiny_decoder
from torchtune.config import lazy
from torchtune.internals import LiveBytes
from torchtune.modules import Decoder, Hardware, LinearCrossEntropy, add_lora, assume_hardware
from torchtune.placement import Placement
from torchtune.training import MemoryEstimate, estimate_memory
from torchtune.training._memory_estimate import _Workload

H100 = Hardware("cuda", (9, 0))


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


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimated_memory_of_the_loss_matches_its_tensors_on_a_gpu(
    dtype: torch.dtype, is_trained: bool, softcap: float | None
) -> None:
    n, d, v = 8192, 16, 49_152  # 8,192 targets are two chunks of 5,376
    with torch.device("meta"):
        model = Decoder(
            TINY.evolve(vocab_size=v, embed_dim=d, num_layers=1, max_seq_len=n, final_softcap=softcap)
        )
        model.requires_grad_(is_trained)
        hidden, weight = torch.empty(n, d, dtype=dtype), torch.empty(v, d, dtype=dtype)
        labels = torch.zeros(n, dtype=torch.long)
    hidden.requires_grad_()
    weight.requires_grad_(is_trained)
    (on_gpu, head_gradient), (on_cpu, _) = (
        _Workload(model, dtype, (8, n // 8), None, hardware)._loss_bytes()
        for hardware in (H100, Hardware("cpu"))
    )
    # Meta tensors take the operators of CUDA.
    with assume_hardware(Hardware("cuda", (9, 0))), LiveBytes([weight, labels]) as live:
        LinearCrossEntropy()(hidden, weight, labels, softcap)
    assert on_gpu + head_gradient == pytest.approx(live.peak, rel=0.01)
    assert head_gradient == (v * d * 4 if is_trained else 0)
    assert on_gpu > 30 * on_cpu


def test_the_estimate_of_activations_on_a_gpu_includes_the_logits_of_a_larger_chunk() -> None:
    vocab_size = 128_256
    with torch.device("meta"):
        model = Decoder(TINY.evolve(vocab_size=vocab_size, num_layers=1, max_seq_len=2048))
    on_gpu, on_cpu = (
        estimate_memory(
            model, lazy(SGD, lr=0.1), dtype="bf16", batch=(1, 2048), hardware=hardware
        ).activations
        for hardware in (H100, Hardware("cpu"))
    )
    # Logits are in float32, and rounded to bfloat16 for the gradients.
    assert on_gpu == pytest.approx(2048 * vocab_size * 6, rel=0.1)
    assert on_cpu < on_gpu / 8


def estimate_for(
    hardware: Hardware, length: int, *, dtype: str = "bf16", **changes: object
) -> MemoryEstimate:
    with torch.device("meta"):
        model = Decoder(TINY.evolve(head_dim=16, embed_dim=64, max_seq_len=4096, vocab_size=64, **changes))
    return estimate_memory(model, lazy(AdamW, lr=1e-3), dtype=dtype, batch=(2, length), hardware=hardware)


def test_attention_of_a_gpu_is_estimated_in_16_bits() -> None:
    cpu, gpu = (estimate_for(hardware, 512).activations for hardware in (Hardware("cpu"), H100))
    assert 0.7 * cpu < gpu < 0.95 * cpu


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("changes", [{}, {"window": 64}, {"attention_softcap": 5.0}])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_gpu_stores_no_scores_of_token_pairs(dtype: str, changes: dict[str, object]) -> None:
    short, long = (estimate_for(H100, length, dtype=dtype, **changes).activations for length in (1024, 4096))
    assert long < 4.2 * short


def test_a_gpu_has_a_context() -> None:
    cpu, gpu = (estimate_for(hardware, 512) for hardware in (Hardware("cpu"), H100))
    assert cpu.context == 0 < cpu.heap
    assert gpu.heap == 0
    assert gpu.context > 2**30
    assert gpu.peak > gpu.context + gpu.weights + gpu.optimizer


def test_a_gpu_does_not_copy_keys_and_values_for_each_query_head() -> None:
    grouped, separate = (estimate_for(H100, 512, num_heads=8, num_kv_heads=n).activations for n in (1, 8))
    n_bytes = 2 * 512 * 2 * 7 * 16 * 2  # keys and values of seven heads, [2, 7, 512, 16], in 16 bits
    assert separate - grouped > 0.9 * TINY.num_layers * n_bytes


@pytest.mark.parametrize(("enable_fsdp", "accumulates"), [(True, True), (True, False), (False, True)])
def test_gradients_that_are_reduced_once_are_stored_in_full(enable_fsdp: bool, accumulates: bool) -> None:
    plain, once = (
        estimate_memory(
            meta_model(),
            lazy(SGD, lr=0.1),
            Placement(reduce_gradients_once=reduces_once),
            dtype="bf16",
            ranks=2,
            enable_fsdp=enable_fsdp,
            accumulates=accumulates,
        )
        for reduces_once in (False, True)
    )
    full = 4 * plain.trainable if enable_fsdp and accumulates else 0
    assert once.gradients == plain.gradients + full
