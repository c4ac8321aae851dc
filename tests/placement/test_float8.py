"""Products in float8, which torch can compute on a CPU, compared with rounded factors and with float64."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tolerance import assert_near, bound, distance, rms_error
from tests.training.tiny import SINGLE_RANK, VOCAB, examples, make_batch, perturb_adapters, place, step_loss
from torchtune.config import FieldError
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder, Hardware, Linear, LinearCrossEntropy, assume_hardware
from torchtune.placement import ActivationCheckpointing, Placement, Sharding
from torchtune.placement import _float8 as float8
from torchtune.training import Lora

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
H100 = Hardware("cuda", (9, 0))
LORA = Lora(targets=["all-linear"], rank=4)
DORA = Lora(targets=["all-linear"], rank=4, kind="dora")
METHODS = pytest.mark.parametrize("lora", [None, LORA, DORA], ids=["full", "lora", "dora"])
N_LAYERS, N_PRODUCTS = 2, 7
"""Layers of the model, and linear layers in each: query, key, value, output, gate, up, down."""

requires_torchao = pytest.mark.skipif(
    find_spec("torchao") is None, reason="needs the package torchao, which the extra fp8 installs"
)


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the settings for an H100, but do not compile layers."""
    monkeypatch.setattr(torch, "compile", lambda function, **_settings: function)
    with assume_hardware(H100):
        yield


def decoder_on_meta(lora: Lora | None = None, **changes: Any) -> Decoder:
    """Build a model with widths that are multiples of 16."""
    sizes = {"embed_dim": 32, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 48, "num_layers": N_LAYERS}
    with torch.device("meta"):
        model = smollm2(vocab_size=VOCAB, max_seq_len=32, **(sizes | changes))
    if lora is not None:
        lora.add_to(model)
    return model


def build_model(lora: Lora | None = None, dtype: str = "bf16", **settings: Any) -> Decoder:
    model = decoder_on_meta(lora)
    place(model, SINGLE_RANK, dtype=dtype, **settings)
    perturb_adapters(model)
    return model


def loss_and_gradients(model: Decoder, dtype: str = "bf16") -> tuple[float, dict[str, Tensor]]:
    loss = step_loss(LinearCrossEntropy(), dtype)(model, make_batch(examples()))
    torch.autograd.backward(loss)
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class _ScaledProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves __init_subclass__ untyped
    """Records the factors of products in float8."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torchao.float8 import Float8TrainingTensor

        self.n += any(isinstance(arg, Float8TrainingTensor) for arg in args) and "mm" in str(func)
        return func(*args, **kwargs or {})


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale a tensor to the range of a float8 format, round it, and return the result in float64, unscaled."""
    scale = (torch.finfo(dtype).max / tensor.double().abs().max()).float()
    return (tensor.float() * scale).to(dtype).double() / scale.double()


@requires_torchao
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("n_tokens", [32, 21], ids=["aligned", "odd"])
def test_layer_multiplies_rounded_factors(has_bias: bool, n_tokens: int) -> None:
    model = decoder_on_meta()
    float8.use_float8(model)
    generator = torch.Generator().manual_seed(0)
    layer = Linear(48, 32, bias=has_bias).bfloat16()
    layer.multiply = next(module for module in model.modules() if isinstance(module, Linear)).multiply
    x, grad = (torch.randn(1, n_tokens, n, generator=generator).bfloat16() for n in (48, 32))
    y = layer(x.requires_grad_())
    y.backward(grad)
    w, x8, grad8 = rounded(layer.weight, E4M3), rounded(x, E4M3)[0], rounded(grad, E5M2)[0]
    tolerance = bound(torch.bfloat16, 2)  # the roundings of the product, and of the sum with the bias
    bias = layer.bias.double() if has_bias else 0
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert_near(y[0], x8 @ w.T + bias, tolerance)
    assert_near(x.grad[0], grad8 @ w, tolerance)
    assert_near(layer.weight.grad, grad8.T @ x8, tolerance)


@requires_torchao
@pytest.mark.usefixtures("h100")
@METHODS
def test_losses_and_gradients_match_float64(lora: Lora | None) -> None:
    reference = build_model(lora, "fp64")
    exact_loss, exact = loss_and_gradients(reference, "fp64")
    models = build_model(lora), build_model(lora, fp8=True)
    for model in models:
        model.load_state_dict(reference.state_dict())
    (plain_loss, plain), (loss, gradients) = map(loss_and_gradients, models)
    # A gradient goes through two products in each direction of each of two blocks per layer. Forward, both factors are
    # rounded to e4m3; backward, one of them is rounded to e5m2.
    n_products = 4 * N_LAYERS
    error = (rms_error(E4M3, 3 * n_products) ** 2 + rms_error(E5M2, n_products) ** 2) ** 0.5
    assert distance(gradients, exact) < error
    assert distance(gradients, exact) > 3 * distance(plain, exact), "the products are not in float8"
    assert loss == pytest.approx(exact_loss, rel=rms_error(E4M3, 2))
    assert plain_loss != loss


@requires_torchao
@pytest.mark.usefixtures("h100")
@METHODS
def test_only_linear_layers_of_decoder_layers_change(lora: Lora | None) -> None:
    plain, model = build_model(lora), build_model(lora, fp8=True)
    changed = {
        name for name, module in model.named_modules() if getattr(module, "multiply", None) is not None
    }
    layers = {
        name for name, module in model.layers.named_modules(prefix="layers") if isinstance(module, nn.Linear)
    }
    assert changed == layers
    assert len(layers) == N_LAYERS * N_PRODUCTS
    expected = dict(plain.named_parameters())
    assert [name for name, _ in model.named_parameters()] == list(expected)
    assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters())
    assert not list(model.buffers())[len(list(plain.buffers())) :]


@requires_torchao
@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize(("keep", "n_recomputed"), [(None, 0), ("matmuls", 0), ("inputs", 1)])
def test_checkpointing_keeps_or_recomputes_products(keep: Any, n_recomputed: int) -> None:
    section = None if keep is None else ActivationCheckpointing(keep=keep)
    model = build_model(fp8=True, activation_checkpointing=section)
    expected = loss_and_gradients(build_model(fp8=True))
    with _ScaledProducts() as products:
        loss, gradients = loss_and_gradients(model)
    # Each layer's output, the gradient of its input, and the gradient of its weight.
    assert products.n == N_LAYERS * N_PRODUCTS * (3 + n_recomputed)
    assert loss == expected[0]
    assert all(torch.equal(gradients[name], gradient) for name, gradient in expected[1].items())


class _Graphs:
    """A compiler that records the products in float8 of each traced graph, and runs the graph as it is."""

    def __init__(self) -> None:
        self.forward: list[list[torch.fx.Node]] = []
        self.backward: list[list[torch.fx.Node]] = []

    def compile(self, function: Callable[..., Any], **settings: Any) -> Any:
        from torch._dynamo.backends.common import aot_autograd
        from torch._functorch.partitioners import min_cut_rematerialization_partition

        backend = aot_autograd(
            fw_compiler=partial(self._record, self.forward),
            bw_compiler=partial(self._record, self.backward),
            partition_fn=min_cut_rematerialization_partition,  # as in the default backend
        )
        return self.torch_compile(function, **settings | {"backend": backend})

    torch_compile: Any = staticmethod(torch.compile)

    @staticmethod
    def _record(graphs: list[list[torch.fx.Node]], module: torch.fx.GraphModule, _inputs: Any) -> Any:
        from torch._functorch._aot_autograd.utils import make_boxed_func

        graphs.append(
            [node for node in module.graph.nodes if node.target is torch.ops.aten._scaled_mm.default]
        )
        return make_boxed_func(module.forward)


@pytest.mark.slow
@requires_torchao
@pytest.mark.filterwarnings("ignore")  # warnings from torch's compiler
@pytest.mark.parametrize(("lora", "keep"), [(None, "matmuls"), (LORA, None)], ids=["full", "lora"])
def test_compiled_layers_compute_the_needed_products_with_factors_that_a_gpu_supports(
    lora: Lora | None, keep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = _Graphs()
    monkeypatch.setattr(torch, "compile", graphs.compile)
    torch._dynamo.reset()
    with assume_hardware(H100):
        model = decoder_on_meta(lora, num_layers=1)
        section = None if keep is None else ActivationCheckpointing(keep=keep)
        place(model, SINGLE_RANK, dtype="bf16", fp8=True, activation_checkpointing=section)
        assert make_batch(examples()).tokens.numel() % 16, (
            "an aligned number of tokens would not test padding"
        )
        loss_and_gradients(model)
    torch._dynamo.reset()
    ((forward,), (backward,)) = graphs.forward, graphs.backward
    # The gradients of each layer's input and weight. With LoRA, the weights need no gradients, and neither does the
    # input of the query, key and value of the first layer.
    assert len(forward) == N_PRODUCTS
    assert len(backward) == (2 * N_PRODUCTS if lora is None else N_PRODUCTS - 3)
    for node in forward + backward:
        left, right = (node.args[i].meta["val"] for i in (0, 1))  # type: ignore[union-attr]
        assert left.shape[1] == right.shape[0]
        assert left.shape[1] % 16 == right.shape[1] % 16 == 0
        assert left.stride() == (left.shape[1], 1), "cuBLAS requires a row-major first factor"
        assert right.stride() == (1, right.shape[0]), "and a column-major second factor"
        assert right.dtype == E4M3
    assert {node.args[0].meta["val"].dtype for node in forward} == {E4M3}  # type: ignore[union-attr]
    assert {node.args[0].meta["val"].dtype for node in backward} == {E5M2}  # type: ignore[union-attr]


@requires_torchao
@pytest.mark.usefixtures("h100")
def test_a_sharded_model_computes_the_same_products() -> None:
    try:
        expected = loss_and_gradients(build_model(fp8=True))
        sharded = decoder_on_meta()
        place(
            sharded,
            SINGLE_RANK,
            dtype="bf16",
            fp8=True,
            sharding=Sharding(cpu_offload=True),
            enable_fsdp=True,
        )
        loss, gradients = loss_and_gradients(sharded)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    assert loss == expected[0]
    assert all(torch.equal(g.full_tensor(), expected[1][name]) for name, g in gradients.items())  # type: ignore[attr-defined]


REJECTED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "fp32": ({}, {"dtype": "fp32"}, "requires dtype=bf16, got dtype=fp32"),
    "auto": ({}, {"dtype": "auto"}, "requires dtype=bf16, got dtype=auto"),
    "CPU": ({}, {"device": "cpu"}, "is not supported with device=cpu"),
    "uncompiled": ({"compile": False}, {}, "requires compiled layers; remove compile=false"),
    "offloaded": (
        {"activation_checkpointing": ActivationCheckpointing(offload=True)},
        {},
        "requires compiled layers",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_incompatible_settings_are_rejected(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "find_spec", lambda _name: True)
    settings, changes, message = REJECTED[case]
    arguments: dict[str, Any] = {"dtype": "bf16", "device": "auto", "enable_fsdp": False}
    Placement(fp8=True).check(**arguments)
    with pytest.raises(FieldError, match=message) as error:
        Placement(fp8=True, **settings).check(**arguments | changes)
    assert error.value.fields[0] == "placement.fp8"


def test_a_missing_package_is_reported_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(float8, "find_spec", lambda _name: None)
    with pytest.raises(FieldError, match="needs the package torchao; install it: pip install torchao"):
        Placement(fp8=True).check(dtype="bf16", enable_fsdp=False)


@pytest.mark.parametrize(
    ("hardware", "message"),
    [
        (Hardware("cpu"), "this device does not support float8 products"),
        (Hardware("cuda", (8, 6)), "this device does not support float8 products"),
        (Hardware("cuda", (8, 9), has_triton=False), "requires compiled layers, for which Triton is missing"),
    ],
)
def test_unsuitable_hardware_is_rejected(
    hardware: Hardware, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float8, "find_spec", lambda _name: True)
    with assume_hardware(hardware), pytest.raises(FieldError, match=message):
        build_model(fp8=True)


def test_layers_that_cannot_use_float8_are_named() -> None:
    with pytest.raises(FieldError, match=r"layers\.0\.\w+\.gate_proj has the widths 32 and 40, but .* 16"):
        float8.use_float8(decoder_on_meta(ffn_dim=40))
    model = decoder_on_meta()
    name = next(name for name, _ in model.named_modules() if name.endswith("1.mlp.up_proj"))

    class Custom(Linear):
        pass

    model.set_submodule(name, Custom(32, 48, device="meta"))
    with pytest.raises(FieldError, match=f"{name} is of class Custom"):
        float8.use_float8(model)
