"""Memory estimates match torch's profiler, and out-of-memory errors contain advice."""

import errno
import gc
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import define, evolve
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile

from tests.recipes.parts import full_config, lora_config
from tests.training.tiny import SINGLE_RANK, place, step_loss
from torchtune.config import Trust, lazy, only_trusting
from torchtune.data import Example, collate
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder, Hardware, LinearCrossEntropy
from torchtune.placement import ActivationCheckpointing, Placement, Sharding
from torchtune.runs import is_out_of_memory
from torchtune.training import (
    Loading,
    Lora,
    OutOfMemoryError,
    Packing,
    batch_shape,
    build_meta_model,
    estimate_memory,
    estimate_run_memory,
    mapped_bytes,
    memory_savings,
    start,
)

NCCL_OUT_OF_MEMORY = """\
NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27
ncclUnhandledCudaError: Call to CUDA function failed.
Last error:
Cuda failure 2 'out of memory'"""


def meta_model(lora: bool) -> Decoder:
    with torch.device("meta"):
        model = smollm2(
            vocab_size=100,
            num_layers=4,
            embed_dim=64,
            num_heads=4,
            num_kv_heads=2,
            ffn_dim=128,
            max_seq_len=128,
        )
    if lora:
        Lora(targets=["all-linear"]).add_to(model)
    return model


SECTIONS = [
    None,
    ActivationCheckpointing(),
    ActivationCheckpointing(keep="matmuls"),
    ActivationCheckpointing(every_n_layers=2),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings from the profiler
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [False, True])
def test_estimated_activations_match_the_profiler(
    lora: bool, dtype: str, section: ActivationCheckpointing | None
) -> None:
    compare_with_the_profiler(lora, dtype, section, lean_layers=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings from the profiler
@pytest.mark.parametrize(("lora", "dtype"), [(False, "fp32"), (True, "fp32"), (True, "bf16")])
def test_estimated_lean_layer_activations_match_the_profiler(lora: bool, dtype: str) -> None:
    lean, plain = (
        compare_with_the_profiler(lora, dtype, None, lean_layers=is_lean) for is_lean in (True, False)
    )
    assert lean < 0.9 * plain


def compare_with_the_profiler(
    lora: bool, dtype: str, section: ActivationCheckpointing | None, *, lean_layers: bool
) -> int:
    estimate = estimate_memory(
        meta_model(lora),
        lazy(AdamW, lr=1e-3),
        Placement(activation_checkpointing=section, lean_layers=lean_layers),
        dtype=dtype,
        batch=(4, 128),
        hardware=Hardware("cpu"),
    )
    model, loss_fn = meta_model(lora), step_loss(LinearCrossEntropy(), dtype)
    place(model, SINGLE_RANK, dtype=dtype, activation_checkpointing=section, lean_layers=lean_layers)
    rows = torch.randint(0, 100, (4, 129)).tolist()
    batch = collate([Example(row, row) for row in rows], 0)
    with_gradients = peak_bytes(lambda: torch.autograd.backward(loss_fn(model, batch)))
    peak = peak_bytes(lambda: torch.autograd.backward(loss_fn(model, batch)))  # gradients already exist
    assert peak > 500_000
    assert estimate.activations == pytest.approx(peak, rel=0.12)
    assert estimate.peak - estimate.weights - estimate.optimizer - estimate.heap == pytest.approx(
        with_gradients, rel=0.12
    )
    return estimate.activations


def peak_bytes(call: Callable[[], None]) -> int:
    """Return the peak tensor memory that a call adds, in bytes."""
    gc.collect()  # freeing reference cycles of earlier calls during this call would lower the peak
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    current = peak = 0
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def test_the_peak_includes_gradients_of_earlier_micro_batches() -> None:
    single_batch, accumulated = (
        estimate_memory(meta_model(lora=False), lazy(AdamW, lr=1e-3), batch=(8, 128), accumulates=accumulates)
        for accumulates in (False, True)
    )
    assert accumulated.peak == accumulated.total + accumulated.activations + accumulated.context
    assert accumulated.total < single_batch.peak < accumulated.peak
    assert single_batch.heap == 0


def test_weights_that_are_not_cast_are_memory_mapped(tmp_path: Path) -> None:
    cfg = lora_config(tmp_path, device="cpu")
    model = build_meta_model(cfg)
    assert model is not None
    estimate_run_memory(cfg, model)
    assert mapped_bytes(cfg, model) == 0  # the folder does not exist
    folder = tmp_path / "model"
    folder.mkdir()
    for dtype in (torch.float32, torch.bfloat16):
        save_file({"lm_head.weight": torch.zeros(2, 2, dtype=dtype)}, folder / "model.safetensors")
        frozen = sum(p.numel() * 4 for p in model.parameters() if not p.requires_grad)
        mapped = mapped_bytes(evolve(cfg, model_directory=str(folder)), model)
        assert mapped == (frozen if dtype == torch.float32 else 0)
    (folder / "model.safetensors").write_bytes(b"truncated")
    assert mapped_bytes(evolve(cfg, model_directory=str(folder)), model) == 0


@pytest.mark.slow
def test_estimate_depends_on_config_fields(tmp_path: Path) -> None:
    cfg = full_config(tmp_path)

    def estimated(ranks: int = 1, **changes: Any) -> Any:
        changed = evolve(cfg, **changes)
        model = build_meta_model(changed)
        assert model is not None
        return estimate_run_memory(changed, model, ranks)

    plain = estimated()
    model = build_meta_model(cfg)
    assert model is not None
    assert batch_shape(cfg, model) == (2, 256), "max_seq_len must limit the length"
    assert batch_shape(cfg, model, longest=70) == (2, 70)
    assert batch_shape(evolve(cfg, device="cuda"), model, longest=70) == (2, 128), "GPUs have fixed widths"
    packed = evolve(cfg, loading=Loading(packing=Packing(length=96)))
    assert batch_shape(packed, model) == batch_shape(packed, model, longest=70) == (2, 96)
    narrow = estimated(dtype="bf16", placement=Placement(weights_dtype="bf16"))
    assert (narrow.weights, narrow.gradients) == (plain.weights // 2, plain.gradients // 2)
    assert narrow.activations < 0.9 * plain.activations
    split = estimated(ranks=4, enable_fsdp=True)
    assert plain.optimizer / 4 <= split.optimizer < plain.optimizer / 3
    two_replicas = estimated(ranks=4, enable_fsdp=True, placement=Placement(sharding=Sharding(replicas=2)))
    assert plain.optimizer / 2 <= two_replicas.optimizer < plain.optimizer / 1.8
    assert estimated(batch_size=4).activations > 1.5 * plain.activations
    # Up to three inputs of layers stay on the device.
    deep = lazy(smollm2, vocab_size=31, num_layers=8, embed_dim=16, num_heads=4, num_kv_heads=2, ffn_dim=24)
    checkpointed, offloaded = (
        estimated(
            model=deep,
            batch_size=64,
            placement=Placement(activation_checkpointing=ActivationCheckpointing(offload=offload)),
        )
        for offload in (False, True)
    )
    assert offloaded.activations < checkpointed.activations


@define
class OtherConfig:
    """The config class of a user's recipe."""

    model: Any = lazy(
        smollm2, vocab_size=31, num_layers=1, embed_dim=16, num_heads=4, num_kv_heads=2, ffn_dim=24
    )
    model_directory: str | None = None
    device: str = "cpu"
    dtype: str = "fp32"


def test_estimate_for_other_config_classes_counts_only_weights() -> None:
    cfg = OtherConfig()
    model = build_meta_model(cfg)
    assert model is not None
    estimate = estimate_run_memory(cfg, model)
    assert estimate.weights == estimate.total >= 4 * sum(p.numel() for p in model.parameters())
    assert build_meta_model(OtherConfig(dtype="float32")) is None, "float32 is not a known precision"
    assert build_meta_model(OtherConfig(model=None)) is None


def test_the_estimate_includes_dropout_which_has_no_parameters(tmp_path: Path) -> None:
    activations = []
    for dropout in (0.0, 0.5):
        cfg = lora_config(tmp_path, batch_size=16, lora=Lora(targets=["all-linear"], rank=4, dropout=dropout))
        model = build_meta_model(cfg)
        assert model is not None
        activations.append(estimate_run_memory(cfg, model).activations)
    assert activations[1] > activations[0]


@pytest.mark.slow
def test_settings_that_would_save_memory_are_listed_with_the_bytes_saved(tmp_path: Path) -> None:
    cfg = full_config(tmp_path, batch_size=8, loading=Loading(packing=Packing(length=256)))
    savings = dict(memory_savings(cfg, ranks=4))
    assert set(savings) >= {
        "batch_size=4 gradient_accumulation_steps=2",
        "placement.activation_checkpointing.keep=inputs",
        "loading.packing.length=128",
        "dtype=bf16 placement.weights_dtype=bf16",
    }
    assert list(savings.values()) == sorted(savings.values(), reverse=True)
    model = build_meta_model(cfg)
    assert model is not None
    full = estimate_run_memory(cfg, model)
    half = evolve(cfg, batch_size=4)
    half_model = build_meta_model(half)
    assert half_model is not None
    reduced = estimate_run_memory(half, half_model)
    assert savings["batch_size=4 gradient_accumulation_steps=2"] == full.activations - reduced.activations
    lora = dict(memory_savings(lora_config(tmp_path, batch_size=1), ranks=1))
    assert not any("batch_size" in overrides or "fsdp" in overrides for overrides in lora)


class HugeLoss(nn.Module):
    """A loss that allocates more memory than is available."""

    def __init__(self, reduction: str) -> None:
        super().__init__()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return torch.empty(2**52).sum()


@pytest.mark.slow
def test_out_of_memory_error_contains_the_line_and_memory_savings(tmp_path: Path) -> None:
    from recipes.full_finetune import main

    trust = only_trusting(Trust(packages=frozenset({"tests"})))
    with trust, pytest.raises(OutOfMemoryError) as caught:
        main(full_config(tmp_path, loss=lazy(HugeLoss), batch_size=6))
    assert re.fullmatch(
        r"memory ran out in `loss = sums\.add\(scorer\(model, batch\)\)`, when allocating 16,777,216\.00 GiB\."
        r" Estimated savings for 6 rows of 256 tokens: .*[\d.]+ MiB with batch_size=3 gradient_accumulation_steps=2;"
        r" .*[\d.]+ MiB with placement.activation_checkpointing.keep=inputs.*",
        str(caught.value),
    )


def test_other_errors_are_unchanged() -> None:
    from tests.training.two_ranks import Cfg

    with pytest.raises(RuntimeError, match=r"^something else$"), start(Cfg(seed=1)):
        raise RuntimeError("something else")
    message = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79"
    expected = r"^memory ran out, when allocating 2.00 GiB$"
    with pytest.raises(OutOfMemoryError, match=expected), start(Cfg(seed=1)):
        raise torch.OutOfMemoryError(message)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (torch.distributed.DistBackendError(NCCL_OUT_OF_MEMORY), True),
        (torch.distributed.DistBackendError("Cuda failure 'out of memory'"), True),
        (torch.distributed.DistBackendError("Failed: Cuda failure 2 'out of memory'"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (torch.distributed.DistBackendError("Cuda failure 999 'unknown error'"), False),
        (torch.distributed.DistBackendError("NCCL error: unhandled cuda error"), False),
        (RuntimeError("shape mismatch"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ImportError("No module named 'x'"), False),
    ],
)
def test_out_of_memory_errors_are_recognized(error: Exception, is_memory: bool) -> None:
    from tests.training.two_ranks import Cfg

    assert is_out_of_memory(error) == is_memory
    with pytest.raises(OutOfMemoryError if is_memory else type(error)), start(Cfg(seed=1)):
        raise error


@pytest.mark.parametrize(
    "failure", [ImportError("half a module"), SystemError("no exception"), MemoryError()]
)
def test_the_error_contains_advice_even_if_the_estimate_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*_: object) -> list[tuple[str, int]]:
        raise failure

    monkeypatch.setattr("torchtune.training._run_memory.memory_savings", fail)
    expected = r"^memory ran out\. Reduce batch_size"
    with pytest.raises(OutOfMemoryError, match=expected), start(full_config(tmp_path)):
        raise MemoryError


@pytest.mark.slow
@pytest.mark.parametrize("limit", [3_500_000, 4_500_000])
def test_running_out_of_address_space_is_reported_with_savings(tmp_path: Path, limit: int) -> None:
    """The estimate imports modules and allocates memory, although the run has just failed to allocate memory."""
    model = ["model=torchtune.models.smollm2.smollm2", "model_directory=null", "model.vocab_size=49152"]
    model += ["model.embed_dim=1024", "model.num_layers=8", "model.num_heads=8", "model.num_kv_heads=8"]
    model += ["model.ffn_dim=4096", "model.max_seq_len=512"]
    (tmp_path / "rows.json").write_text(
        json.dumps([{"instruction": "a", "input": "", "output": "b " * 300}] * 16)
    )
    args = [
        *model,
        "tokenizer=tests.data.byte_tokenizer.ByteTokenizer",
        f"dataset.source={tmp_path}/rows.json",
    ]
    args += ["validation=null", f"output_dir={tmp_path}/run", "batch_size=16", "loading.workers=0"]
    program = (
        f"ulimit -v {limit}; exec {sys.executable} -m torchtune.cli --allow tests full_finetune"
        f" --config smollm2_135m_full {shlex.join(args)}"
    )
    process = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 1, process.stderr
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("tune: ")]
    assert line.startswith("tune: memory ran out in `")
    assert "Estimated savings for 16 rows" in line
