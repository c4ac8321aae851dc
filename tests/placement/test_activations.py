"""Layers with activation checkpointing or compilation, compared with standard layers."""

import shutil
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from tests.tolerance import FLOAT64, assert_near, bound, roundings
from tests.training.tiny import (
    SINGLE_RANK,
    examples,
    make_batch,
    perturb_adapters,
    place,
    step_loss,
    tiny_decoder,
)
from torchtune.data import Batch, collate
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder, KVCache, LinearCrossEntropy
from torchtune.placement import ActivationCheckpointing
from torchtune.placement._activations import _SAVED_OPERATORS
from torchtune.training import Lora

INPUTS, MATMULS = ActivationCheckpointing(keep="inputs"), ActivationCheckpointing(keep="matmuls")
SECTIONS = {
    "inputs": INPUTS,
    "matmuls": MATMULS,
    "every second": evolve(INPUTS, every_n_layers=2),
    "offload": evolve(INPUTS, offload=True),
}
LORA_WITH_DROPOUT = Lora(targets=["all-linear"], rank=3, dropout=0.5)
PADDED = make_batch(examples())
PACKED = collate([examples()[:4], examples()[4:7], examples()[7:]], pad_id=0)


def build_model(
    section: ActivationCheckpointing | None, lora: Lora | None, dtype: str, **settings: Any
) -> Decoder:
    with torch.device("meta"):
        model = tiny_decoder()
    if lora is not None:
        lora.add_to(model)
    place(model, SINGLE_RANK, dtype=dtype, activation_checkpointing=section, **settings)
    perturb_adapters(model)
    return model


def loss_and_gradients(model: Decoder, batch: Batch, dtype: str) -> dict[str, Tensor]:
    torch.manual_seed(5)
    loss = step_loss(LinearCrossEntropy(), dtype)(model, batch)
    torch.autograd.backward(loss)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, "random": torch.get_rng_state()}


@pytest.mark.quick_cases(9)
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("lora", [None, LORA_WITH_DROPOUT], ids=["full", "lora"])
@pytest.mark.parametrize("batch", [PADDED, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16"])
def test_checkpointing_is_bitwise_identical(
    dtype: str, batch: Batch, lora: Lora | None, section: str
) -> None:
    # In bf16, trained parameters are fp32 and cast during the forward pass; recomputation must use the cast parameters.
    plain = loss_and_gradients(build_model(None, lora, dtype), batch, dtype)
    checkpointed = loss_and_gradients(build_model(SECTIONS[section], lora, dtype), batch, dtype)
    assert checkpointed.keys() == plain.keys()
    assert len(plain) > 20
    assert all(torch.equal(checkpointed[name], tensor) for name, tensor in plain.items())


def test_dropout_and_packing_affect_the_loss() -> None:
    padded, packed = (
        loss_and_gradients(build_model(None, LORA_WITH_DROPOUT, "fp64"), b, "fp64") for b in (PADDED, PACKED)
    )
    assert not torch.equal(padded["loss"], packed["loss"])
    no_dropout = loss_and_gradients(
        build_model(None, evolve(LORA_WITH_DROPOUT, dropout=0.0), "fp64"), PADDED, "fp64"
    )
    assert not torch.equal(padded["loss"], no_dropout["loss"])


class _LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves __init_subclass__ untyped
    """Tracks the live storages that operators allocate, except weights, and counts the matrix multiplications."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._storages = WeakIdKeyDictionary(ref_type=weakref.ref)
        self.n_matmuls = 0

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        self.n_matmuls += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self._weights:
                self._storages[tensor.untyped_storage()] = None
        return out


def measure_cost(section: ActivationCheckpointing | None, lora: Lora | None = None) -> tuple[int, int]:
    """Return the bytes stored between the forward and backward passes, and the number of matrix products per step."""
    model = build_model(section, lora, "fp64")
    with _LiveMemory(model) as live:
        loss = step_loss(LinearCrossEntropy(), "fp64")(model, PADDED)
        stored_bytes = live.bytes
        torch.autograd.backward(loss)
    return stored_bytes, live.n_matmuls


@pytest.mark.parametrize("lora", [None, LORA_WITH_DROPOUT], ids=["full", "lora"])
def test_checkpointing_stores_less_and_computes_more(lora: Lora | None) -> None:
    n_bytes, n_products = {}, {}
    for name, section in {"plain": None, **SECTIONS}.items():
        n_bytes[name], n_products[name] = measure_cost(section, lora)
    assert n_bytes["inputs"] < n_bytes["matmuls"] < n_bytes["plain"]
    assert n_bytes["inputs"] < n_bytes["every second"] < n_bytes["plain"]
    assert n_products["plain"] == n_products["matmuls"] < n_products["every second"] < n_products["inputs"]


def test_saved_operator_names_exist_in_torch() -> None:
    for operator_name in _SAVED_OPERATORS - {"flex_attention"}:
        namespace, operator, overload = operator_name.split(".")
        assert str(getattr(getattr(getattr(torch.ops, namespace), operator), overload)) == operator_name
    assert str(torch.ops.higher_order.flex_attention) in _SAVED_OPERATORS


def test_a_checkpointed_layer_stores_only_its_input() -> None:
    stored_bytes = []
    for n_layers in (2, 5):
        with torch.device("meta"):
            model = smollm2(31, n_layers, embed_dim=16, num_heads=4, num_kv_heads=2, ffn_dim=24)
        place(model, SINGLE_RANK, dtype="fp64", activation_checkpointing=INPUTS)
        with _LiveMemory(model) as live:
            loss = step_loss(LinearCrossEntropy(), "fp64")(model, PADDED)
            stored_bytes.append(live.bytes)
        del loss
    assert (
        stored_bytes[1] - stored_bytes[0] == 3 * PADDED.tokens.numel() * 16 * 8
    )  # three tensors [b, s, d] in fp64


@pytest.mark.parametrize("section", ["inputs", "matmuls"])
def test_generation_with_a_cache_is_unchanged(section: str) -> None:
    checkpointed, plain = build_model(SECTIONS[section], None, "fp64"), build_model(None, None, "fp64")
    tokens = PADDED.tokens[:1, :6]
    with torch.no_grad():
        expected = plain(tokens)
        assert torch.equal(checkpointed(tokens), expected)
    for grad in (False, True):
        cache = KVCache(2, 8)
        with torch.set_grad_enabled(grad):
            steps = [checkpointed(tokens[:, i : i + 1], cache=cache) for i in range(6)]
        assert cache.length == 6
        assert_near(torch.cat(steps, dim=1), expected, FLOAT64)


def test_parameters_keep_their_names() -> None:
    names = [name for name, _ in build_model(None, LORA_WITH_DROPOUT, "fp32").named_parameters()]
    assert [name for name, _ in build_model(MATMULS, LORA_WITH_DROPOUT, "fp32").named_parameters()] == names
    assert list(build_model(MATMULS, LORA_WITH_DROPOUT, "fp32").state_dict()) == names


def test_settings_without_effect_are_rejected() -> None:
    with pytest.raises(
        ValueError, match="offload: only the inputs of layers can be offloaded; set keep=inputs"
    ):
        ActivationCheckpointing(keep="matmuls", offload=True)
    with pytest.raises(ValueError, match="every_n_layers: expected a value above 0, got 0"):
        ActivationCheckpointing(every_n_layers=0)
    with pytest.raises(
        ValueError,
        match=r"compile: the activations of compiled layers cannot be offloaded; set compile=false",
    ):
        build_model(SECTIONS["offload"], None, "fp32", compile=True)


def compare_compiled(section: ActivationCheckpointing | None, lora: Lora | None) -> int:
    """Compare two steps of a compiled model with a plain model; return the number of compiled graphs."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    plain, compiled = build_model(None, lora, "fp32"), build_model(section, lora, "fp32", compile=True)
    for batch in (make_batch(examples()[:4]), PADDED):  # two lengths
        expected, actual = (loss_and_gradients(model, batch, "fp32") for model in (plain, compiled))
        longest = max(len(example.tokens) for example in examples())
        assert_near(actual, expected, bound(torch.float32, 3 * roundings(plain.architecture, longest)))
    assert not counters["graph_break"]
    n_graphs: int = counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    return n_graphs


@pytest.mark.filterwarnings("ignore")  # warnings from torch's compiler
def test_traced_layers_match_plain_layers_and_share_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    # All layers share one graph for the first length and one graph for all other lengths.
    assert compare_compiled(MATMULS, None) == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile requires the C++ compiler g++")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("section", [None, INPUTS, MATMULS], ids=["plain", "inputs", "matmuls"])
def test_compiled_layers_match_plain_layers(section: ActivationCheckpointing | None) -> None:
    assert compare_compiled(section, None) == 2
    # With LoRA, only the input of the first layer needs no gradient, so this layer has separate graphs.
    assert compare_compiled(section, evolve(LORA_WITH_DROPOUT, dropout=0.0)) == 4
