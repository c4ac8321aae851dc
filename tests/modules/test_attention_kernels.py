"""The table of attention kernels gives every shipped family a fused kernel on every GPU, and avoids known faults."""

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from torchtune import models
from torchtune.modules import Decoder, GroupedQuerySpec, Hardware
from torchtune.modules._attention_kernels import (
    CONDITIONS,
    ORDER,
    AttentionCall,
    Kernel,
    Masking,
    choose_kernel,
    unmet,
)

GPUS = [Hardware("cuda", capability) for capability in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))]
MASKINGS: tuple[Masking, ...] = ("causal", "all", "mask", "window", "documents", "prefixes")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@cache
def shipped_specs() -> dict[str, GroupedQuerySpec]:
    """Return the attention of every shipped model size, by the name of its builder."""
    specs = {}
    for info in pkgutil.iter_modules(models.__path__):
        module = importlib.import_module(f"torchtune.models.{info.name}")
        for name, builder in vars(module).items():
            is_builder = getattr(builder, "__module__", "") == module.__name__ and inspect.isfunction(builder)
            if is_builder and inspect.signature(builder).return_annotation is Decoder:
                with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
                    patch.setattr("torchtune.modules._decoder.DecoderLayer", lambda *_: nn.Identity())
                    attention = builder().architecture.attention
                assert isinstance(attention, GroupedQuerySpec)
                specs[name] = attention
    return specs


def calls(spec: GroupedQuerySpec, gpu: Hardware) -> Iterator[AttentionCall]:
    """Yield every call that a model makes in training and generation."""
    maskings = [m for m in MASKINGS if m != "window" or spec.window is not None]
    for masking, dtype, needs_grad in itertools.product(maskings, DTYPES, (True, False)):
        if masking in {"all", "mask"} and needs_grad:
            continue  # only with a cache
        yield AttentionCall(
            hardware=gpu,
            dtype=dtype,
            head_dim=spec.head_dim,
            masking=masking,
            has_softcap=spec.attention_softcap is not None,
            needs_grad=needs_grad,
        )


def call(
    masking: Masking,
    dtype: torch.dtype,
    capability: tuple[int, int] = (9, 0),
    head_dim: int = 64,
    *,
    has_softcap: bool = False,
    has_triton: bool = True,
) -> AttentionCall:
    hardware = Hardware("cuda", capability, has_triton)
    return AttentionCall(
        hardware=hardware, dtype=dtype, head_dim=head_dim, masking=masking, has_softcap=has_softcap
    )


def test_every_family_gets_a_kernel_whose_conditions_hold() -> None:
    specs = shipped_specs()
    assert {
        "llama3_8b",
        "gemma2_2b",
        "gemma3_1b",
        "gpt2",
        "phi3_mini_4k",
        "qwen3_0_6b",
        "olmo2_7b",
    } <= specs.keys()
    for (name, spec), gpu in itertools.product(specs.items(), GPUS):
        for attention in calls(spec, gpu):
            kernel = choose_kernel(attention)
            assert not unmet(kernel, attention), (name, attention)
            assert kernel not in {"math", "cudnn", "sdpa"}, (name, attention)
            # With a cache, scores are bounded by the size of prefill chunks, and no fused kernel supports soft caps.
            is_allowed = attention.has_softcap and attention.masking in {"all", "mask"}
            assert kernel != "scores" or is_allowed, (name, attention)


@pytest.mark.parametrize(
    ("attention", "kernel"),
    [
        (call("causal", torch.bfloat16), "flash"),
        (call("all", torch.bfloat16), "flash"),
        (call("documents", torch.bfloat16), "flex"),
        (call("prefixes", torch.float32), "flex"),
        (call("window", torch.float16), "flex"),
        (call("causal", torch.bfloat16, has_softcap=True), "flex"),
        (call("documents", torch.bfloat16, has_triton=False), "varlen"),
        (call("documents", torch.float32, has_triton=False), "memory_efficient"),
        (call("causal", torch.float32), "memory_efficient"),
        (call("mask", torch.bfloat16), "memory_efficient"),
        (call("causal", torch.float16, (7, 5)), "memory_efficient"),
        (call("documents", torch.float16, (7, 5)), "flex"),
        (call("causal", torch.bfloat16, (8, 6), 208), "memory_efficient"),
        (call("causal", torch.bfloat16, (8, 6), 256), "flash"),
        (call("documents", torch.bfloat16, head_dim=8), "varlen"),
        (call("mask", torch.bfloat16, has_softcap=True), "scores"),
        (call("causal", torch.float64), "scores"),
    ],
)
def test_kernel_follows_from_masking_dtype_heads_and_gpu(attention: AttentionCall, kernel: Kernel) -> None:
    assert choose_kernel(attention) == kernel


def test_other_devices_use_their_own_kernels() -> None:
    for device, expected in (("cpu", "per_document"), ("mps", "sdpa")):
        attention = call("documents", torch.float32)
        attention.hardware = Hardware(device)
        assert choose_kernel(attention) == expected


@pytest.mark.parametrize(
    ("kernel", "attention", "issue"),
    [
        ("math", call("causal", torch.float32), "181528"),  # grouped heads in float32 store all scores
        ("cudnn", call("mask", torch.bfloat16), "196678"),  # NaN in the gradient of queries
        ("cudnn", call("all", torch.bfloat16, (10, 0)), "193893"),  # wrong answers with few key-value heads
        ("sdpa", call("mask", torch.bfloat16, (8, 0)), "181528"),  # masked grouped heads fall back to `math`
        ("sdpa", call("window", torch.float32), "181528"),
    ],
)
def test_calls_known_to_go_wrong_are_rejected(kernel: Kernel, attention: AttentionCall, issue: str) -> None:
    assert any(issue in condition.source for condition in unmet(kernel, attention))
    assert choose_kernel(attention) != kernel


def test_every_condition_has_a_source_and_is_decisive() -> None:
    """Each condition is violated by some call, and the cited lines exist in the installed torch package."""
    capabilities, head_dims, switches = ((3, 5), (7, 5), (8, 6)), (6, 64, 208, 512), (True, False)
    every_call = [
        call(masking, dtype, capability, head_dim, has_softcap=has_softcap, has_triton=has_triton)
        for masking, dtype, capability, head_dim, has_softcap, has_triton in itertools.product(
            MASKINGS, (*DTYPES, torch.float64), capabilities, head_dims, switches, switches
        )
    ]
    for conditions in CONDITIONS.values():
        for condition in conditions:
            assert condition.source
            assert not all(condition.holds(attention) for attention in every_call), condition
            file, _, line = condition.source.partition(":")
            path = Path(torch.__file__).parents[1] / file
            assert not line.isdigit() or len(path.read_text(encoding="utf-8").splitlines()) >= int(line)


def test_every_masking_has_a_kernel_without_conditions() -> None:
    assert ORDER.keys() == set(MASKINGS)
    assert all(not CONDITIONS[order[-1]] for order in ORDER.values())
