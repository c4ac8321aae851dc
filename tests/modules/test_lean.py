"""Lean layers compared with standard layers: values, gradients and memory saved for the backward pass."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.modules.reference import TINY
from tests.tolerance import FLOAT64, assert_as_near, assert_near, bound, rms_error, roundings
from torchtune.modules import (
    Architecture,
    Decoder,
    Documents,
    add_lora,
    lean,
    lora_state,
)
from torchtune.modules._lean import uses_autocast
from torchtune.modules._linear import Linear
from torchtune.modules._rms_norm import RMSNorm

FAMILIES: dict[str, Architecture] = {
    "llama": TINY,
    "qwen3": TINY.evolve(qk_norm="head"),
    "qwen2, biases": TINY.evolve(qkv_bias=True),
    "gemma3": TINY.evolve(
        activation="gelu_tanh",
        norm_layout="both",
        norm_offset=1.0,
        qk_norm="head",
        embed_scale=4.0,
        window=5,
        full_attention_every=2,
        rope_local_base=500.0,
    ),
    "gemma2, caps": TINY.evolve(
        activation="gelu_tanh", norm_layout="both", attention_softcap=5.0, final_softcap=3.0
    ),
}
KINDS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "lora": {"targets": ["q_proj", "v_proj"]},
    "lora on all": {"targets": "all-linear", "rank_stabilized": True},
    "dora": {"targets": "all-linear", "kind": "dora"},
    "lora with dropout": {"targets": "all-linear", "dropout": 0.3},
    "dora with dropout": {"targets": "all-linear", "kind": "dora", "dropout": 0.3},
}


def decoder(architecture: Architecture, kind: str, dtype: torch.dtype = torch.float64) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(architecture).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    settings = KINDS[kind]
    if settings is not None:
        add_lora(model, settings["targets"], 3, 5.0, **{n: v for n, v in settings.items() if n != "targets"})
        for name, adapter in lora_state(model).items():
            if not name.endswith("magnitude"):
                adapter.normal_(std=0.3)
    return model


def results(model: Decoder) -> dict[str, Tensor]:
    """Return the logits of packed and unpacked rows, and all gradients."""
    tokens = torch.randint(TINY.vocab_size, (2, 11), generator=torch.Generator().manual_seed(1))
    documents = Documents.from_lengths([[4, 7], [8, 2, 1]])
    torch.manual_seed(2)  # dropout must be the same in every call
    packed, plain = model(tokens, documents=documents), model(tokens)
    (packed.square().sum() + plain.sin().sum()).backward()
    tensors = {"packed": packed.detach(), "plain": plain.detach()}
    return tensors | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.quick_cases(8)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_match_plain_layers(family: str, kind: str) -> None:
    plain, model = (decoder(FAMILIES[family], kind) for _ in range(2))
    names = list(dict(model.named_parameters()))
    lean(model)
    assert list(dict(model.named_parameters())) == names
    expected, actual = results(plain), results(model)
    assert actual.keys() == expected.keys()
    assert len(actual) >= 10
    assert_near(actual, expected, FLOAT64)


@pytest.mark.parametrize("kind", ["full", "lora on all"])
def test_float32_results_are_as_accurate_as_with_plain_layers(kind: str) -> None:
    model = decoder(TINY, kind).float()
    exact, plain = results(copy.deepcopy(model).double()), results(copy.deepcopy(model))
    lean(model)
    actual = results(model)
    for name in exact:
        assert_as_near(actual[name], plain[name], exact[name], bound(torch.float32, 3 * roundings(TINY, 11)))


def test_bfloat16_results_are_as_accurate_as_with_plain_layers() -> None:
    model = decoder(TINY, "full").bfloat16()
    exact, plain = results(copy.deepcopy(model).double()), results(copy.deepcopy(model))
    lean(model)
    actual = results(model)
    for name in exact:
        assert_as_near(actual[name], plain[name], exact[name], rms_error(torch.bfloat16, 1), factor=2)


def saved_bytes(run: Callable[[], Tensor], known_storages: set[int]) -> int:
    """Return the bytes that autograd saves for a backward pass, excluding the known storages."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known_storages:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = run()
    assert y.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_lean_layers_save_less_for_the_backward_pass(kind: str) -> None:
    tokens = torch.randint(TINY.vocab_size, (4, 16))
    sizes = []
    for is_lean in (False, True):
        model = decoder(TINY.evolve(ffn_dim=64), kind, torch.float32)
        if is_lean:
            lean(model)
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        sizes.append(saved_bytes(lambda model=model: model.hidden(tokens), parameters))  # type: ignore[misc]
    gate = 4 * 4 * 16 * 64 * TINY.num_layers  # the activated gate of every layer
    assert sizes[0] - sizes[1] >= gate


def test_dropout_uses_the_plain_implementation() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    add_lora(model, ["0"], 2, 4.0, dropout=0.5)
    nn.init.normal_(lora_state(model)["0.adapter.lora_b"])
    x, outputs = torch.randn(3, 4), []
    for is_lean in (False, True):
        if is_lean:
            lean(model)
        torch.manual_seed(0)
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], model.eval()(x))


def test_generation_with_a_cache_is_unchanged() -> None:
    from torchtune.generation import generate

    plain, model = (decoder(FAMILIES["gemma3"], "lora") for _ in range(2))
    lean(model)
    expected = list(generate(plain, [1, 2, 3], max_new_tokens=12))
    assert list(generate(model, [1, 2, 3], max_new_tokens=12)) == expected


@pytest.mark.parametrize("shape", [(0, 8), (8,), (2, 0, 8), (2, 3, 8)])
def test_inputs_may_have_any_shape(shape: tuple[int, ...]) -> None:
    parts: list[nn.Module] = [Linear(8, 5), RMSNorm(8, 1e-5), nn.Sequential(nn.Linear(8, 4))]
    add_lora(parts[2], ["0"], 2, 4.0)
    for part in parts:
        part.double()
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        expected = part(x)
        (grad,) = torch.autograd.grad(expected.sum(), x)
        lean_part = nn.Sequential(part)
        lean(lean_part)
        actual = lean_part(x)
        assert_near(actual, expected, FLOAT64)
        actual.sum().backward()
        assert x.grad is not None
        assert_near(x.grad, grad, FLOAT64)


@pytest.mark.parametrize("kind", ["full", "lora on all", "dora"])
def test_shapes_and_dtypes_on_the_meta_device_match_those_on_a_cpu(kind: str) -> None:
    def described(device: str) -> dict[str, tuple[Any, ...]]:
        model = decoder(FAMILIES["gemma3"], kind, torch.float32).to(device)
        lean(model)
        logits = model(torch.ones(2, 11, dtype=torch.int64, device=device))
        logits.sum().backward()
        tensors = {"logits": logits} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert {tensor.device.type for tensor in tensors.values()} == {device}
        return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}

    assert described("meta") == described("cpu")


def test_autocast_is_disabled_on_devices_without_it() -> None:
    assert not any(uses_autocast(torch.device(name)) for name in ("cpu", "cuda", "mps", "meta", "vulkan"))
    with torch.autocast("cpu", torch.bfloat16):
        assert uses_autocast(torch.device("cpu"))
        assert not uses_autocast(torch.device("meta"))


@pytest.mark.slow
def test_autocast_is_known_for_a_device_that_another_package_registers() -> None:
    program = """
import torch
from torchtune.modules._lean import uses_autocast

torch.utils.rename_privateuse1_backend("npu")
assert not uses_autocast(torch.device("npu"))
torch.set_autocast_enabled("npu", True)
assert uses_autocast(torch.device("npu"))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_autocast_uses_the_plain_implementation() -> None:
    layer = nn.Sequential(Linear(8, 5))
    lean(layer)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(3, 8))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
