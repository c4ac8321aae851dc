"""LoRA and DoRA layers, compared with PEFT and merged into standard layers."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from tests.modules.adapters import KINDS, adapt_linear, randomize_adapters
from tests.modules.reference import TINY
from tests.modules.test_decoder import random_decoder
from tests.tolerance import FLOAT64, assert_near, bound, roundings
from torchtune.modules import (
    Decoder,
    DoRA,
    Linear,
    LoRA,
    adapted_layers,
    adapters_disabled,
    add_lora,
    has_adapters,
    lora_state,
    merge_lora,
)

LINEAR_NAMES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(TINY.vocab_size, (2, 7))


def adapted_decoder(targets: str | Sequence[str] = "all-linear", **kind: Any) -> Decoder:
    """Build a float64 decoder with random adapters."""
    model = random_decoder()
    add_lora(model, targets, rank=3, alpha=5.0, **kind)
    randomize_adapters(model)
    return model


@kinds
# PEFT reads this attribute from transformers.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_outputs_gradients_and_updates_match_peft(kind: dict[str, Any]) -> None:
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    model = adapted_decoder(["q_proj", "down_proj"], **kind)
    config = LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=["q_proj", "down_proj"],
        use_rslora=kind.get("rank_stabilized", False),
        use_dora=kind.get("kind") == "dora",
    )
    peft_model = LoraModel(random_decoder(), config, "default")
    names = {
        "lora_a": "lora_A.default.weight",
        "lora_b": "lora_B.default.weight",
        "lora_magnitude": "lora_magnitude_vector.default.weight",
    }
    pairs = []
    for name, parameter in model.named_parameters():
        layer, _, leaf = name.rpartition(".")
        layer = layer.removesuffix(".adapter")
        if leaf in names:
            pairs.append((parameter, peft_model.model.get_parameter(f"{layer}.{names[leaf]}")))
            pairs[-1][1].data.copy_(parameter)
    assert len(pairs) == (3 if kind.get("kind") == "dora" else 2) * 2 * TINY.num_layers
    assert_near(model(tokens()), peft_model.model(tokens()), FLOAT64)
    for m in model, peft_model.model:
        m(tokens()).square().sum().backward()
        AdamW([p for p in m.parameters() if p.requires_grad], lr=0.01).step()
    for parameter, expected in pairs:
        assert parameter.grad is not None
        assert expected.grad is not None
        assert_near([parameter.grad, parameter], [expected.grad, expected], FLOAT64)


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_dora_matches_equation_5_with_a_detached_norm(*, rank_stabilized: bool) -> None:
    linear = nn.Linear(7, 5, dtype=torch.float64)
    layer = adapt_linear(linear, "dora", rank=4, alpha=6.0, rank_stabilized=rank_stabilized)
    randomize_adapters(layer)
    adapter = layer.adapter
    scale = 6.0 / 2 if rank_stabilized else 6.0 / 4
    total = layer.weight + scale * adapter.lora_b @ adapter.lora_a
    weight = adapter.lora_magnitude[:, None] * total / total.square().sum(1, keepdim=True).sqrt().detach()
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    inputs = [x, *adapter.parameters()]
    actual, expected = layer(x), x @ weight.T + layer.bias
    assert_near(actual, expected, FLOAT64)
    gradients = torch.autograd.grad(actual.pow(3).sum(), inputs)
    assert_near(gradients, torch.autograd.grad(expected.pow(3).sum(), inputs), FLOAT64)
    assert_near(adapter.merge(layer.weight), weight, FLOAT64)


@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_new_adapters_do_not_change_the_outputs(kind: dict[str, Any], dtype: torch.dtype) -> None:
    model = random_decoder().to(dtype)
    before = model(tokens())
    add_lora(model, "all-linear", rank=3, alpha=5.0, **kind)
    torch.testing.assert_close(model(tokens()), before, rtol=0, atol=0)
    assert all(p.std() > 0 for name, p in lora_state(model).items() if name.endswith("lora_a"))


@kinds
@pytest.mark.parametrize(
    ("dtype", "error_bound"),
    [(torch.float64, FLOAT64), (torch.float32, bound(torch.float32, roundings(TINY, 7)))],
    ids=["float64", "float32"],
)
def test_merged_layers_match_adapted_layers(
    kind: dict[str, Any], dtype: torch.dtype, error_bound: float
) -> None:
    model = adapted_decoder(**kind).to(dtype)
    before, plain = model(tokens()), random_decoder()(tokens())
    merge_lora(model)
    assert_near(model(tokens()), before, error_bound)
    assert not torch.allclose(before.double(), plain)
    assert model.state_dict().keys() == random_decoder().state_dict().keys()
    assert not has_adapters(model)


@kinds
def test_merged_layers_of_any_model_keep_their_bias(kind: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    add_lora(model, ["0", "2"], rank=1, alpha=1.0, **kind)
    randomize_adapters(model)
    x = torch.randn(5, 4, dtype=torch.float64)
    before = model(x)
    merge_lora(model)
    assert_near(model(x), before, FLOAT64)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@kinds
def test_only_adapters_are_trained(kind: dict[str, Any]) -> None:
    model = adapted_decoder(["q_proj", "v_proj"], **kind)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == lora_state(model).keys()


def test_all_linear_matches_every_linear_layer_except_the_head() -> None:
    layers = [name for name, _, _ in adapted_layers(adapted_decoder())]
    assert {name.rpartition(".")[2] for name in layers} == LINEAR_NAMES
    assert len(layers) == 7 * TINY.num_layers


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ("k_proj", ["layers.0.self_attn.k_proj", "layers.1.self_attn.k_proj"]),
        (["mlp.up_proj"], ["layers.0.mlp.up_proj", "layers.1.mlp.up_proj"]),
        (["layers.1.mlp.up_proj"], ["layers.1.mlp.up_proj"]),
        (["layers.[1-9].*.k_proj"], ["layers.1.self_attn.k_proj"]),
        (
            ["layers.0.mlp.*", "v_pro?"],
            [
                "layers.0.self_attn.v_proj",
                "layers.0.mlp.gate_proj",
                "layers.0.mlp.up_proj",
                "layers.0.mlp.down_proj",
                "layers.1.self_attn.v_proj",
            ],
        ),
    ],
)
def test_a_target_is_a_suffix_or_pattern_of_a_name(targets: str | list[str], names: list[str]) -> None:
    assert [name for name, _, _ in adapted_layers(adapted_decoder(targets))] == names


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "query"], "no linear layer of the model matches query; expected down_proj, gate_proj,"),
        (["proj"], "matches proj; expected"),
        (["layers.9.*", "q_proj"], r"matches layers\.9\.\*; expected"),
        ([], "no targets"),
    ],
)
def test_error_lists_unknown_targets(targets: list[str], message: str) -> None:
    model = random_decoder()
    with pytest.raises(ValueError, match=message):
        add_lora(model, targets, rank=3, alpha=5.0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_with_adapters_cannot_be_adapted_again() -> None:
    with pytest.raises(ValueError, match="already has LoRA adapters"):
        add_lora(adapted_decoder(), "all-linear", rank=3, alpha=5.0)


@pytest.mark.parametrize(("rank", "dropout"), [(0, 0.0), (3, 1.0), (3, -0.1)])
def test_invalid_rank_and_dropout_are_rejected(rank: int, dropout: float) -> None:
    with pytest.raises(ValueError, match="LoRA needs rank > 0 and 0 <= dropout < 1"):
        add_lora(random_decoder(), "all-linear", rank, alpha=5.0, dropout=dropout)


@kinds
def test_bfloat16_model_has_float32_adapters_and_bfloat16_outputs(kind: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(8, 6, dtype=torch.bfloat16))
    add_lora(model, ["0"], rank=2, alpha=4.0, **kind)
    ((_, layer, adapter),) = adapted_layers(model)
    assert isinstance(adapter, LoRA)
    randomize_adapters(model)
    x = torch.randn(5, 8, dtype=torch.bfloat16, requires_grad=True)
    assert isinstance(layer, Linear)
    y = layer(x)
    y.sum().backward()
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert (y.dtype, layer.weight.dtype) == (torch.bfloat16,) * 2
    assert layer.bias is not None
    weight = layer.weight.double() + adapter.scale * adapter.lora_b.double() @ adapter.lora_a.double()
    if isinstance(adapter, DoRA):
        norms = weight.norm(dim=1)
        error_bound = bound(torch.float32, 8 + 2)  # sums over 8 inputs and a rank of 2
        assert_near(adapter.row_norms(layer.weight), norms, error_bound)
        weight *= (adapter.lora_magnitude.double() / norms)[:, None]
    exact = x.double() @ weight.T + layer.bias.double()
    # Four results are rounded: the weight product, the adapter product, DoRA's scaling, and the bias addition.
    assert_near(y, exact, bound(torch.bfloat16, 4))
    merge_lora(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@kinds
def test_dropout_applies_only_in_training_and_only_to_the_adapter(kind: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(64, 3))
    add_lora(model, ["0"], rank=2, alpha=4.0, dropout=0.5, **kind)
    ((_, layer, adapter),) = adapted_layers(model)
    randomize_adapters(model)
    x = torch.ones(4, 64)
    assert not torch.equal(layer(x), layer(x))
    nn.init.zeros_(adapter.get_parameter("lora_b"))
    assert torch.equal(layer(x), layer.eval()(x))


def test_magnitudes_are_initialized_with_the_norms_of_the_stored_weights() -> None:
    layer = adapt_linear(nn.Linear(64, 32, dtype=torch.bfloat16), "dora", rank=2, alpha=4.0)
    assert_near(layer.adapter.lora_magnitude, layer.weight.double().norm(dim=1), bound(torch.float32, 64))
    assert layer.adapter.lora_magnitude.dtype == torch.float32
    layer.reset_parameters()  # new, smaller values
    assert_near(layer.adapter.lora_magnitude, layer.weight.double().norm(dim=1), bound(torch.float32, 64))


def test_a_zero_row_stays_zero_and_has_finite_gradients() -> None:
    linear = nn.Linear(6, 4, bias=False)
    linear.weight.data[2] = 0
    layer = adapt_linear(linear, "dora", rank=2, alpha=4.0)
    y = layer(torch.randn(5, 6))
    y.square().sum().backward()
    assert not y[:, 2].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.adapter.parameters())
    assert torch.equal(layer.adapter.merge(layer.weight)[2], torch.zeros(6))
    nn.init.normal_(layer.adapter.lora_b)
    assert torch.equal(layer(torch.ones(1, 6))[:, 2], torch.zeros(1))
    assert torch.equal(layer.adapter.merge(layer.weight)[2], torch.zeros(6))


def test_norms_are_float32_if_adapters_are_cast_to_bfloat16() -> None:
    layer = adapt_linear(nn.Linear(64, 32, bias=False), "dora", rank=4, alpha=8.0).bfloat16()
    adapter = layer.adapter
    randomize_adapters(layer)
    weight = layer.weight.double() + adapter.scale * adapter.lora_b.double() @ adapter.lora_a.double()
    norms = weight.norm(dim=1)
    error_bound = bound(torch.float32, 64 + 4)  # sums over 64 inputs and a rank of 4
    assert_near(adapter.row_norms(layer.weight), norms, error_bound)
    merged = weight * (adapter.lora_magnitude.double() / norms)[:, None]
    # The result is rounded only once: float32 errors (2^-16 of a bfloat16 step) change almost no element. Rounding
    # intermediate results would change a quarter of the elements.
    assert (adapter.merge(layer.weight).bfloat16() == merged.bfloat16()).float().mean() > 0.99


def test_dora_computes_no_product_as_large_as_the_weight() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **kwargs or {})
            if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default):
                sizes.append(result.numel())
            return result

    layer = adapt_linear(nn.Linear(64, 32), "dora", rank=2, alpha=4.0)
    with Sizes():  # type: ignore[no-untyped-call]
        layer(torch.randn(5, 64, requires_grad=True)).sum().backward()
    assert len(sizes) >= 5
    assert max(sizes) < layer.weight.numel()


@pytest.mark.filterwarnings("ignore")  # warnings from torch's compiler
def test_dora_compiles_in_one_graph() -> None:
    layer = adapt_linear(nn.Linear(8, 6, dtype=torch.float64), "dora", rank=2, alpha=4.0)
    randomize_adapters(layer)
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 8, dtype=torch.float64)
    assert_near(compiled(x), layer(x), FLOAT64)
    actual, expected = (
        torch.autograd.grad(f(x).square().sum(), list(layer.adapter.parameters())) for f in (compiled, layer)
    )
    assert_near(actual, expected, FLOAT64)


@kinds
def test_disabling_adapters_restores_the_base_model_exactly(kind: dict[str, Any]) -> None:
    model, base = adapted_decoder(**kind), random_decoder()
    adapted_logits = model(tokens())
    with adapters_disabled(model):
        assert torch.equal(model(tokens()), base(tokens()))
        with adapters_disabled(model):
            assert torch.equal(model(tokens()), base(tokens()))
        assert torch.equal(model(tokens()), base(tokens()))
    assert torch.equal(model(tokens()), adapted_logits)
    assert not torch.equal(adapted_logits, base(tokens()))


def test_adapters_are_reenabled_after_an_error() -> None:
    model = adapted_decoder()
    with pytest.raises(RuntimeError, match="stop"), adapters_disabled(model):
        raise RuntimeError("stop")
    assert all(adapter.is_enabled for _, _, adapter in adapted_layers(model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings from torch's compiler
def test_adapters_of_compiled_layers_can_be_disabled() -> None:
    model, base = adapted_decoder(), random_decoder()
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    before = compiled(tokens())
    with adapters_disabled(model):
        assert_near(compiled(tokens()), base(tokens()), FLOAT64)
    assert torch.equal(compiled(tokens()), before)


def test_repr_shows_the_kind_of_adapter() -> None:
    model = adapted_decoder(["q_proj"], **KINDS["rslora and dora"])
    assert "(adapter): DoRA(\n            rank=3, alpha=5.0, rank_stabilized" in repr(model)
