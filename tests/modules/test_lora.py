"""LoRA layers compute what PEFT's do, and merge into plain ones."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tests.modules.reference import TINY
from tests.modules.test_decoder import random_decoder
from torchtune.modules import Decoder, LoRALinear, add_lora, lora_layers, lora_state, merge_lora

LEAVES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(TINY.vocab_size, (2, 7))


def adapted_decoder(targets: str | Sequence[str] = "all-linear") -> Decoder:
    """Build a float64 decoder with adapters that change something."""
    model = random_decoder()
    add_lora(model, targets, rank=3, alpha=5.0)
    for parameter in lora_state(model).values():
        parameter.normal_(std=0.3)
    return model


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT asks transformers.
def test_forward_and_gradients_equal_those_of_peft() -> None:
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    model = adapted_decoder(["q_proj", "down_proj"])
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"])
    theirs = LoraModel(random_decoder(), config, "default")
    names = {"lora_a": "lora_A.default.weight", "lora_b": "lora_B.default.weight"}
    parameters = dict(theirs.model.named_parameters())
    for name, ours in model.named_parameters():
        layer, _, leaf = name.rpartition(".")
        if leaf in names:
            with torch.no_grad():
                parameters[f"{layer}.{names[leaf]}"].copy_(ours)
    torch.testing.assert_close(model(tokens()), theirs.model(tokens()))
    for outputs in model(tokens()), theirs.model(tokens()):
        outputs.square().sum().backward()
    adapters = lora_state(model)
    assert len(adapters) == 2 * 2 * TINY.num_layers
    for name in adapters:
        layer, _, leaf = name.rpartition(".")
        expected = parameters[f"{layer}.{names[leaf]}"].grad
        torch.testing.assert_close(model.get_parameter(name).grad, expected)


def test_new_adapters_change_nothing() -> None:
    model = random_decoder()
    before = model(tokens())
    add_lora(model, "all-linear", rank=3, alpha=5.0)
    torch.testing.assert_close(model(tokens()), before, rtol=0, atol=0)
    assert all(layer.lora_a.std() > 0 for _, layer in lora_layers(model))


def test_merged_layers_equal_adapted_ones() -> None:
    model = adapted_decoder()
    before, plain = model(tokens()), random_decoder()(tokens())
    merge_lora(model)
    torch.testing.assert_close(model(tokens()), before)
    assert not torch.allclose(before, plain)
    assert model.state_dict().keys() == random_decoder().state_dict().keys()
    assert not any(isinstance(module, LoRALinear) for module in model.modules())


def test_merged_layers_of_any_model_keep_their_bias() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    add_lora(model, ["0", "2"], rank=1, alpha=1.0)
    for parameter in lora_state(model).values():
        parameter.normal_()
    x = torch.randn(5, 4)
    before = model(x)
    merge_lora(model)
    torch.testing.assert_close(model(x), before)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_only_adapters_are_trained() -> None:
    model = adapted_decoder(["q_proj", "v_proj"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == lora_state(model).keys()


def test_all_linear_is_every_linear_layer_but_the_head() -> None:
    layers = dict(lora_layers(adapted_decoder()))
    assert {name.rpartition(".")[2] for name in layers} == LEAVES
    assert len(layers) == 7 * TINY.num_layers


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ("k_proj", ["layers.0.self_attn.k_proj", "layers.1.self_attn.k_proj"]),
        (["mlp.up_proj"], ["layers.0.mlp.up_proj", "layers.1.mlp.up_proj"]),
        (["layers.1.mlp.up_proj"], ["layers.1.mlp.up_proj"]),
    ],
)
def test_a_target_is_the_end_of_a_name(targets: str | list[str], names: list[str]) -> None:
    assert [name for name, _ in lora_layers(adapted_decoder(targets))] == names


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "query"], "no linear layer of the model is called query; it has down_proj, gate_proj,"),
        (["proj"], "called proj; it has"),
        ([], "nothing was asked for"),
        (["lm_head"], "lm_head cannot have an adapter"),
        (["embed_tokens"], "called embed_tokens; it has"),
    ],
)
def test_targets_that_cannot_be_adapted_are_named(targets: list[str], message: str) -> None:
    model = random_decoder()
    with pytest.raises(ValueError, match=message):
        add_lora(model, targets, rank=3, alpha=5.0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_is_adapted_once() -> None:
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        add_lora(adapted_decoder(), "all-linear", rank=3, alpha=5.0)


@pytest.mark.parametrize(("rank", "dropout"), [(0, 0.0), (3, 1.0), (3, -0.1)])
def test_impossible_numbers_are_refused(rank: int, dropout: float) -> None:
    with pytest.raises(ValueError, match="LoRA needs rank > 0 and 0 <= dropout < 1"):
        add_lora(random_decoder(), "all-linear", rank, alpha=5.0, dropout=dropout)


def test_adapters_of_a_bfloat16_model_are_float32_and_its_outputs_bfloat16() -> None:
    layer = LoRALinear(nn.Linear(8, 6, dtype=torch.bfloat16), rank=2, alpha=4.0)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(5, 8, dtype=torch.bfloat16, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert {p.dtype for p in (layer.lora_a, layer.lora_b)} == {torch.float32}
    assert (y.dtype, layer.weight.dtype, layer.merged_weight().dtype) == (torch.bfloat16,) * 3
    assert layer.bias is not None
    change = layer.scale * layer.lora_b.double() @ layer.lora_a.double()
    exact = x.double() @ (layer.weight.double() + change).T + layer.bias.double()
    torch.testing.assert_close(y.double(), exact, rtol=0.02, atol=0.02)


def test_dropout_is_on_in_training_alone_and_leaves_the_base_path_whole() -> None:
    layer = LoRALinear(nn.Linear(64, 3), rank=2, alpha=4.0, dropout=0.5)
    nn.init.normal_(layer.lora_b)
    x = torch.ones(4, 64)
    assert not torch.equal(layer(x), layer(x))
    nn.init.zeros_(layer.lora_b)
    assert torch.equal(layer(x), layer.eval()(x))
