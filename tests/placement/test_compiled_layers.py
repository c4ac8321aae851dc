"""With the settings for a GPU, every layer is compiled as one graph, and no feature of a run undoes this."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modules.kernels import uncompiled_flex
from tests.training.tiny import SINGLE_RANK, examples, make_batch, place, step_loss
from torchtune.data import Batch, collate
from torchtune.generation import generate_batch
from torchtune.models.smollm2 import smollm2
from torchtune.modules import (
    Decoder,
    DecoderLayer,
    Hardware,
    KVCache,
    LinearCrossEntropy,
    PassContext,
    assume_hardware,
)
from torchtune.placement import ActivationCheckpointing, Placement, _activations, compile_layers
from torchtune.training import Lora

H100 = Hardware("cuda", (9, 0))
N_LAYERS, N_STEPS = 4, 11


class CountingCompiler:
    """A compiler that runs graphs as they are, and counts the graphs and their calls."""

    def __init__(self) -> None:
        self.n_graphs = 0
        self.calls: Counter[int] = Counter()

    def __call__(self, graph: Any, _inputs: Any) -> Any:
        number = self.n_graphs
        self.n_graphs += 1

        def run(*args: Any) -> Any:
            self.calls[number] += 1
            return graph.forward(*args)

        return run


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingCompiler]:
    """Use the settings for a GPU, with a counting compiler."""
    counting = CountingCompiler()
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counting))
    with assume_hardware(H100), uncompiled_flex():
        yield counting
    torch._dynamo.reset()


def build_model(keep: str | None, *, lora: bool, windows: bool) -> Decoder:
    with torch.device("meta"):
        model = smollm2(31, N_LAYERS, embed_dim=64, num_heads=4, num_kv_heads=2, ffn_dim=24)
        if windows:  # in every other layer, as in Gemma 2
            model = Decoder(model.architecture.evolve(window=5, full_attention_every=2))
    if lora:
        Lora(targets=["all-linear"], rank=3).add_to(model)
    section = None if keep is None else ActivationCheckpointing(keep=keep)  # type: ignore[arg-type]
    place(model, SINGLE_RANK, dtype="bf16", activation_checkpointing=section)
    return model


def batches(*, packed: bool) -> Iterator[Batch]:
    """Yield batches of random rows, with the batch width used on a GPU."""
    for step in range(N_STEPS):
        rows = random.Random(step).sample(examples(), 6)
        batch = collate([rows[:3], rows[3:]], pad_id=0) if packed else make_batch(rows)
        yield batch.padded(128, pad_id=0)


CASES = list(itertools.product([True, False], [None, "inputs", "matmuls"], [True, False], [True, False]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packed", "keep", "lora", "windows"),
    [
        pytest.param(*case, marks=[] if i in {5, 8, 15, 22} else pytest.mark.slow)
        for i, case in enumerate(CASES)
    ],
)
@pytest.mark.filterwarnings("ignore")  # warnings from torch's compiler
def test_all_layers_stay_compiled_through_validations_and_prompts(
    compiler: CountingCompiler, packed: bool, keep: str | None, lora: bool, windows: bool
) -> None:
    model = build_model(keep, lora=lora, windows=windows)
    assert Placement().compiles(H100)
    loss_of = step_loss(LinearCrossEntropy(), "bf16")
    for step, batch in enumerate(batches(packed=packed)):
        if step == 4:
            graphs_after_three_steps = compiler.n_graphs
        compiler.calls.clear()
        torch.autograd.backward(loss_of(model, batch))
        assert compiler.calls.total() >= N_LAYERS, f"step {step}"
        with torch.no_grad():
            loss_of(model, batch)
        if step in {1, 5}:
            generate_batch(model, [[1, 2, 3], [4, 5]], max_new_tokens=12)
    assert compiler.n_graphs == graphs_after_three_steps
    structures = 2 if windows and not packed else 1  # plain causal layers and layers with a window
    assert compiler.n_graphs <= structures * 2 + 2 * lora


@pytest.mark.filterwarnings("ignore")
def test_gradients_of_compiled_layers_match_plain_layers(compiler: CountingCompiler) -> None:
    results: list[dict[str, Tensor]] = []
    for compiles in (False, True):
        torch.manual_seed(0)
        with torch.device("meta"):
            model = Decoder(
                smollm2(31, 2, embed_dim=64, num_heads=4, num_kv_heads=2, ffn_dim=24).architecture.evolve(
                    window=5, full_attention_every=2
                )
            )
        place(model, SINGLE_RANK, dtype="fp64", compile=compiles, lean_layers=False)
        torch.autograd.backward(step_loss(LinearCrossEntropy(), "fp64")(model, next(batches(packed=True))))
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert compiler.n_graphs
    assert all(torch.equal(results[1][name], gradient) for name, gradient in results[0].items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("compiler")
def test_graph_break_is_an_error_that_names_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_back(_self: DecoderLayer, x: Tensor, _context: PassContext) -> Tensor:
        return x if x.sum() > 0 else -x

    model = build_model(None, lora=False, windows=False)
    monkeypatch.setattr(DecoderLayer, "_residual_stream", read_back)
    with pytest.raises(
        ValueError, match=r"a layer cannot be compiled: .*branching.*read_back\); set placement"
    ):
        model(torch.zeros(1, 5, dtype=torch.long))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("compiler")
def test_exceeding_the_number_of_graphs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_activations, "_MAX_GRAPHS", 2)
    model = build_model(None, lora=False, windows=False)
    for length in (2, 3):
        model(torch.zeros(1, length, dtype=torch.long))
    with pytest.raises(ValueError, match=r"compiled 2 times, for different shapes.*pack the rows, or set"):
        model(torch.zeros(1, 4, dtype=torch.long))


@pytest.mark.filterwarnings("ignore")
def test_passes_with_a_cache_are_not_compiled(compiler: CountingCompiler) -> None:
    model = build_model(None, lora=False, windows=False)
    model(torch.zeros(1, 3, dtype=torch.long), cache=KVCache(N_LAYERS, 8))
    assert compiler.n_graphs == 0


@pytest.mark.parametrize(
    ("hardware", "section", "compiles"),
    [
        (Hardware("cpu"), None, False),
        (H100, None, True),
        (Hardware("cuda", (9, 0), has_triton=False), None, False),
        (H100, ActivationCheckpointing(offload=True), False),
        (Hardware("mps"), None, False),
    ],
)
def test_auto_compiles_on_cuda(
    hardware: Hardware, section: ActivationCheckpointing | None, compiles: bool
) -> None:
    placement = Placement(activation_checkpointing=section)
    assert placement.compiles(hardware) == compiles
    assert placement.uses_lean_layers(hardware) != compiles
    assert not Placement(compile=False).compiles(H100)
    assert Placement(compile=True).compiles(Hardware("cpu"))


def test_compile_layers_keeps_the_names_of_parameters() -> None:
    model = smollm2(31, 2, embed_dim=16, num_heads=4, num_kv_heads=2, ffn_dim=24)
    names = [name for name, _ in model.named_parameters()]
    compile_layers(model)
    assert [name for name, _ in model.named_parameters()] == names
