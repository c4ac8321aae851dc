"""An int8 linear layer only needs to implement `weight_matrix` to support training with adapters."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.modules.adapters import KINDS, randomize_adapters
from tests.modules.reference import TINY
from tests.modules.test_lean import saved_bytes
from tests.tolerance import FLOAT64, assert_near
from torchtune.config import lazy
from torchtune.modules import (
    Decoder,
    Linear,
    adapted_layers,
    adapters_disabled,
    add_lora,
    lean,
    lora_state,
    merge_lora,
)
from torchtune.placement import ActivationCheckpointing
from torchtune.placement._activations import checkpoint_activations
from torchtune.training import estimate_memory

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
lean_or_plain = pytest.mark.parametrize("is_lean", [False, True], ids=["plain", "lean"])


class Int8Linear(Linear):
    """A frozen linear layer with an int8 weight `[out, in]` and a scale `[out, 1]` per row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.weight = nn.Parameter(
            (linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False
        )
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def reset_parameters(self) -> None:
        """Do nothing, because the quantized weight is computed from a plain weight."""

    def weight_matrix(self) -> Tensor:
        return self.weight.to(self.weight_scale.dtype) * self.weight_scale


def quantize(model: Decoder) -> Decoder:
    """Quantize the linear layers of the decoder layers, in place."""
    for name, module in list(model.layers.named_modules()):
        if isinstance(module, Linear):
            model.layers.set_submodule(name, Int8Linear(module))
    return model


def dequantized(model: Decoder) -> Decoder:
    """Return a plain model with the dequantized weights of a quantized model."""
    plain = Decoder(model.architecture).double()
    state = {name: p for name, p in model.state_dict().items() if not name.endswith("weight_scale")}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Int8Linear)}
    plain.load_state_dict(state | {f"{n}.weight": m.weight_matrix() for n, m in layers.items()})
    return plain


def pair(kind: dict[str, Any] | None = None, *, is_lean: bool = False) -> tuple[Decoder, Decoder]:
    """Build a quantized model and an equivalent plain model, with the same adapters or without adapters."""
    torch.manual_seed(0)
    model = quantize(Decoder(TINY.evolve(norm_eps=1e-6)).double())
    plain = dequantized(model)
    for decoder in (model, plain):
        decoder.requires_grad_(requires_grad=False)
        if kind is not None:
            torch.manual_seed(1)
            add_lora(decoder, "all-linear", rank=3, alpha=5.0, **kind)
            randomize_adapters(decoder)
        else:
            decoder.embed_tokens.requires_grad_()
        if is_lean:
            lean(decoder)
    return model, plain


def results(model: Decoder) -> dict[str, Tensor]:
    tokens = torch.randint(TINY.vocab_size, (2, 7), generator=torch.Generator().manual_seed(1))
    logits = model(tokens)
    logits.square().sum().backward()
    return {"logits": logits.detach()} | {
        name: p.grad for name, p in model.named_parameters() if p.grad is not None
    }


@lean_or_plain
@pytest.mark.parametrize("kind", [None, *KINDS.values()], ids=["none", *KINDS])
def test_values_and_gradients_match_dequantized_layers(kind: dict[str, Any] | None, *, is_lean: bool) -> None:
    model, plain = pair(kind, is_lean=is_lean)
    actual, expected = results(model), results(plain)
    assert actual.keys() == expected.keys()
    assert len(actual) > 1
    assert_near(actual, expected, FLOAT64)


@lean_or_plain
@kinds
def test_no_dequantized_matrix_is_saved_for_the_backward_pass(kind: dict[str, Any], *, is_lean: bool) -> None:
    model, plain = pair(kind, is_lean=is_lean)
    tokens, sizes = torch.zeros(1, 2, dtype=torch.long), []
    for decoder in (model, plain):
        parameters = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
        sizes.append(saved_bytes(lambda decoder=decoder: decoder.hidden(tokens), parameters))  # type: ignore[misc]
    assert sizes[0] == sizes[1]


@kinds
def test_merging_and_disabling_adapters_use_the_dequantized_matrix(kind: dict[str, Any]) -> None:
    model, plain = pair(kind)
    tokens = torch.arange(5)[None]
    adapted_logits, base_logits = model(tokens), dequantized_base(model)(tokens)
    with adapters_disabled(model):
        assert_near(model(tokens), base_logits, FLOAT64)
    merge_lora(model)
    merge_lora(plain)
    assert_near(model(tokens), adapted_logits, FLOAT64)
    assert_near(dict(model.named_parameters()), dict(plain.named_parameters()), FLOAT64)


def dequantized_base(model: Decoder) -> Decoder:
    plain = Decoder(model.architecture).double()
    state = {n: p for n, p in model.state_dict().items() if ".adapter." not in n and "weight_scale" not in n}
    matrices = {f"{n}.weight": layer.weight_matrix() for n, layer, _ in adapted_layers(model)}
    plain.load_state_dict(state | matrices)
    return plain


@kinds
def test_checkpointing_does_not_change_the_results(kind: dict[str, Any]) -> None:
    model, plain = pair(kind)
    checkpoint_activations(model, ActivationCheckpointing())
    assert_near(results(model), results(plain), FLOAT64)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings from torch's compiler
def test_a_quantized_model_compiles_in_one_graph() -> None:
    model, _ = pair(KINDS["lora"])
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    tokens = torch.arange(5)[None]
    assert_near(compiled(tokens), model(tokens), FLOAT64)
    compiled(tokens).square().sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad), lora_state(model)


def test_adapters_of_a_quantized_model_are_saved_and_loaded(tmp_path: Any) -> None:
    from torchtune.formats import load_peft_adapter, save_peft_adapter

    model, _ = pair(KINDS["dora"])
    save_peft_adapter(model, tmp_path / "adapter", base_model=None)
    loaded, _ = pair()
    load_peft_adapter(loaded, tmp_path / "adapter")
    tokens = torch.arange(5)[None]
    assert torch.equal(loaded(tokens), model(tokens))


def test_the_memory_estimate_counts_int8_weights() -> None:
    with torch.device("meta"):
        plain, model = Decoder(TINY), quantize(Decoder(TINY))
    for decoder in (plain, model):
        add_lora(decoder, "all-linear", rank=3, alpha=5.0)
    settings: dict[str, Any] = {"dtype": "fp32", "batch": (1, 4)}
    quantized_memory, plain_memory = (
        estimate_memory(decoder, lazy(torch.optim.SGD, lr=0.1), **settings) for decoder in (model, plain)
    )
    num_elements = sum(m.weight.numel() for m in model.layers.modules() if isinstance(m, Int8Linear))
    scales = sum(m.out_features for m in model.layers.modules() if isinstance(m, Int8Linear))
    assert quantized_memory.weights == plain_memory.weights - 3 * num_elements + 4 * scales
