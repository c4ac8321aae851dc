"""Lean layers beside the plain ones: values, gradients, and what is kept."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from tests.modules.reference import TINY
from torchtune.modules import (
    Architecture,
    Decoder,
    Documents,
    add_lora,
    lean,
    lora_state,
)
from torchtune.modules._linear import Linear
from torchtune.modules._rms_norm import RMSNorm

FAMILIES: dict[str, Architecture] = {
    "llama": TINY,
    "qwen3": evolve(TINY, qk_norm="head"),
    "qwen2, biases": evolve(TINY, qkv_bias=True),
    "gemma3": evolve(
        TINY,
        activation="gelu_tanh",
        norms="both",
        norm_offset=1.0,
        qk_norm="head",
        embed_scale=4.0,
        window=5,
        full_attention_every=2,
        rope_local_base=500.0,
    ),
    "gemma2, caps": evolve(
        TINY, activation="gelu_tanh", norms="both", attention_softcap=5.0, final_softcap=3.0
    ),
}
KINDS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "lora": {"targets": ["q_proj", "v_proj"]},
    "lora on all": {"targets": "all-linear", "rank_stabilized": True},
    "dora": {"targets": "all-linear", "dora": True},
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
    """Compute logits of packed rows and of plain ones, and all gradients."""
    tokens = torch.randint(TINY.vocab_size, (2, 11), generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[0] * 4 + [1] * 7, [0] * 8 + [1] * 2 + [2]])
    packed, plain = model(tokens, documents=Documents(ids)), model(tokens)
    (packed.square().sum() + plain.sin().sum()).backward()
    found = {"packed": packed.detach(), "plain": plain.detach()}
    return found | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_the_plain_layers(family: str, kind: str) -> None:
    plain, ours = (decoder(FAMILIES[family], kind) for _ in range(2))
    names = list(dict(ours.named_parameters()))
    lean(ours)
    assert list(dict(ours.named_parameters())) == names
    expected, found = results(plain), results(ours)
    assert found.keys() == expected.keys()
    assert len(found) >= 10
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("kind", ["full", "lora on all"])
def test_float32_is_as_near_to_float64_as_the_plain_layers_are(kind: str) -> None:
    exact = results(decoder(TINY, kind))
    plain = results(decoder(TINY, kind).float())
    model = decoder(TINY, kind).float()
    lean(model)
    found = results(model)

    def off(values: dict[str, Tensor]) -> float:
        return max(float((values[n].double() - exact[n]).norm() / exact[n].norm()) for n in exact)

    assert off(found) < max(1e-5, 3 * off(plain))


def test_bfloat16_is_as_near_to_float32_as_the_plain_layers_are() -> None:
    exact = results(decoder(TINY, "full"))
    model = decoder(TINY, "full", torch.bfloat16)
    plain = results(decoder(TINY, "full", torch.bfloat16))
    lean(model)
    found = results(model)
    for name, value in exact.items():
        errors = [float((other[name].double() - value).norm() / value.norm()) for other in (found, plain)]
        assert errors[0] < 0.02 + 2 * errors[1], name


def kept_bytes(run: Callable[[], Tensor], known: set[int]) -> int:
    """Add up what autograd keeps for a backward pass, each storage once, besides what is known."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = run()
    assert y.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_less_is_kept(kind: str) -> None:
    tokens = torch.randint(TINY.vocab_size, (4, 16))
    found = []
    for is_lean in (False, True):
        model = decoder(evolve(TINY, ffn_dim=64), kind, torch.float32)
        if is_lean:
            lean(model)
        known = {p.untyped_storage().data_ptr() for p in model.parameters()}
        found.append(kept_bytes(lambda model=model: model.hidden(tokens), known))  # type: ignore[misc]
    gate = 4 * 4 * 16 * 64 * TINY.num_layers  # the activated gate of every layer
    assert found[0] - found[1] >= gate


def test_dropout_takes_the_plain_way() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    add_lora(model, ["0"], 2, 4.0, dropout=0.5)
    nn.init.normal_(lora_state(model)["0.lora_b"])
    x, outputs = torch.randn(3, 4), []
    for is_lean in (False, True):
        if is_lean:
            lean(model)
        torch.manual_seed(0)
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], model.eval()(x))


def test_generation_with_a_cache_is_the_same() -> None:
    from torchtune.generation import generate

    plain, ours = (decoder(FAMILIES["gemma3"], "lora") for _ in range(2))
    lean(ours)
    expected = list(generate(plain, [1, 2, 3], max_new_tokens=12))
    assert list(generate(ours, [1, 2, 3], max_new_tokens=12)) == expected


@pytest.mark.parametrize("shape", [(0, 8), (8,), (2, 0, 8), (2, 3, 8)])
def test_inputs_of_any_shape_are_taken(shape: tuple[int, ...]) -> None:
    parts: list[nn.Module] = [Linear(8, 5), RMSNorm(8, 1e-5), nn.Sequential(nn.Linear(8, 4))]
    add_lora(parts[2], ["0"], 2, 4.0)
    for part in parts:
        x = torch.randn(shape, requires_grad=True)
        expected = part(x)
        (grad,) = torch.autograd.grad(expected.sum(), x)
        whole = nn.Sequential(part)
        lean(whole)
        found = whole(x)
        torch.testing.assert_close(found, expected)
        found.sum().backward()
        torch.testing.assert_close(x.grad, grad)


def test_autocast_takes_the_plain_way() -> None:
    layer = nn.Sequential(Linear(8, 5))
    lean(layer)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(3, 8))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
