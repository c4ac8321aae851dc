"""Training every kind of adapter: initial state and trained parameters, on one and two ranks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from attrs import evolve
from torch import Tensor
from torch.optim import AdamW

from recipes import lora_finetune
from tests.modules import adapters
from tests.recipes.parts import InterruptOnce, lora_config, losses, metrics
from tests.tolerance import FLOAT64, assert_near, bound, roundings
from tests.training.run_ranks import run_ranks
from tests.training.steps import assert_same_step, assert_same_step_in_bf16
from tests.training.tiny import (
    SINGLE_RANK,
    build_state,
    examples,
    make_batch,
    perturb_adapters,
    place,
    step_loss,
    tiny_batches,
    tiny_decoder,
)
from tests.training.two_ranks_lora import (
    CASES,
    EMBEDDINGS,
    TRAINED,
    build_placed,
    continued_state,
    initial_adapters,
    one_step,
)
from torchtune.cli import main as tune
from torchtune.config import Trust, instantiate, lazy, only_trusting
from torchtune.formats import load_peft_adapter, save_hf_folder, save_peft_adapter
from torchtune.formats.peft._load import read_peft_tensors
from torchtune.models.phi3 import phi3_mini_4k
from torchtune.modules import Decoder, DoRA, LinearCrossEntropy, adapted_layers
from torchtune.placement import ActivationCheckpointing, Sharding, full_state
from torchtune.training import Lora, constant_with_warmup, estimate_memory

KINDS = {name: Lora(targets=["all-linear"], rank=3, **kind) for name, kind in adapters.KINDS.items()} | {
    "embeddings": EMBEDDINGS,
    "trained embeddings": TRAINED,
}
all_kinds = pytest.mark.parametrize("lora", KINDS.values(), ids=KINDS)
DORA = KINDS["rslora and dora"]
"""The adapter of the tests that another file runs with plain LoRA."""
NORM_BOUND = bound(torch.float32, 24)
"""Bound on the rounding errors of norms over up to 24 inputs."""


def build_model(lora: Lora | None, dtype: str = "fp32", **settings: Any) -> Decoder:
    with torch.device("meta"):
        model = tiny_decoder()
    if lora is not None:
        lora.add_to(model)
    place(model, SINGLE_RANK, dtype=dtype, **settings)
    return model


def backward(model: Decoder, dtype: str) -> float:
    loss = step_loss(LinearCrossEntropy(), dtype)(model, make_batch(examples()))
    torch.autograd.backward(loss)
    return loss.item()


def gradients(model: Decoder) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def trust_the_tests() -> Iterator[None]:
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        yield


@pytest.fixture
def destroy_group() -> Iterator[None]:
    """Destroy the process group that a run on one rank creates for FSDP."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.quick_cases(7)
@all_kinds
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_adapted_model_initially_matches_its_base(tmp_path: Path, lora: Lora, dtype: str) -> None:
    save_hf_folder(build_model(None), tmp_path / "hf")
    settings = {"model_directory": str(tmp_path / "hf")}
    model, base = build_model(lora, dtype, **settings), build_model(None, dtype, **settings)
    if dtype == "fp32":
        error_bound = bound(torch.float32, roundings(base.architecture, 15))
        assert backward(model, dtype) == pytest.approx(backward(base, dtype), rel=error_bound)
    else:  # magnitudes and norms have the same rounding
        assert backward(model, dtype) == backward(base, dtype)
    for _, layer, adapter in adapted_layers(model):
        if isinstance(adapter, DoRA):
            norms = layer.weight_matrix().double().norm(dim=1)
            assert_near(adapter.lora_magnitude, norms, NORM_BOUND)


@pytest.mark.parametrize(("dtype", "frozen_dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_only_adapters_have_gradients_and_optimizer_state_and_are_saved(
    tmp_path: Path, dtype: str, frozen_dtype: torch.dtype
) -> None:
    model = build_model(DORA, dtype)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    perturb_adapters(model)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, fused=True)
    backward(model, dtype)
    optimizer.step()
    parts = ("lora_a", "lora_b", "lora_magnitude")
    expected = {f"{name}.adapter.{part}" for name, _, _ in adapted_layers(model) for part in parts}
    assert len(expected) == len(parts) * 7 * 2
    assert gradients(model).keys() == expected
    assert all(g.any() and g.dtype == torch.float32 for g in gradients(model).values())
    assert len(optimizer.state) == len(expected)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) is (name not in expected), name
        assert p.dtype == (torch.float32 if name in expected else frozen_dtype)
    state = build_state(tmp_path, model, optimizer, constant_with_warmup(optimizer), tiny_batches())
    saved = {name for name, _ in state._tensors()}
    keys = ("step", "exp_avg", "exp_avg_sq")
    optimizer_tensors = {f"optimizer.{name}.{key}" for name in expected for key in keys}
    assert saved == {f"model.{name}" for name in expected} | optimizer_tensors


@pytest.mark.parametrize("keep", ["inputs", "matmuls"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_checkpointing_is_bitwise_identical(keep: Any, dtype: str) -> None:
    results = []
    for section in (None, ActivationCheckpointing(keep=keep)):
        model = build_model(DORA, dtype, activation_checkpointing=section)
        perturb_adapters(model)
        results.append((backward(model, dtype), gradients(model)))
    (plain_loss, plain), (loss, actual) = results
    assert loss == plain_loss
    assert all(torch.equal(actual[name], g) for name, g in plain.items())


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "lora", [DORA, EMBEDDINGS, TRAINED], ids=["dora", "embeddings", "trained embeddings"]
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_memory_estimate_matches_the_memory_of_a_run(dtype: str, lora: Lora) -> None:
    with torch.device("meta"):
        meta_model = tiny_decoder()
    lora.add_to(meta_model)
    estimate = estimate_memory(meta_model, lazy(AdamW, lr=1e-3), dtype=dtype, batch=(2, 16))
    model = build_model(lora, dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trained, lr=1e-3)
    backward(model, dtype)
    optimizer.step()
    assert estimate.trainable == sum(p.numel() for p in trained)
    assert estimate.weights == sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    assert estimate.gradients == sum(g.nbytes for g in gradients(model).values())
    state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    assert estimate.optimizer == sum(t.nbytes for t in state)
    assert estimate.activations > 0


@pytest.mark.slow
@pytest.mark.usefixtures("trust_the_tests")
def test_resumed_dora_run_matches_an_uninterrupted_run(tmp_path: Path) -> None:
    lora = evolve(DORA, dropout=0.2)
    changes: dict[str, Any] = {
        "optimizer": lazy(AdamW, lr=1e-2, fused=True),
        "epochs": 3,
        "checkpoints.every_n_steps": 2,
        "lora": lora,
    }
    lora_finetune.main(lora_config(tmp_path, "uninterrupted", **changes))
    cut = changes | {"metric_logger": lazy(InterruptOnce, step=5, marker=str(tmp_path / "marker"))}
    with pytest.raises(KeyboardInterrupt):
        lora_finetune.main(lora_config(tmp_path, "cut", **cut))
    lora_finetune.main(lora_config(tmp_path, "cut", **cut))
    assert metrics(tmp_path, "cut") == metrics(tmp_path, "uninterrupted")
    name = "adapter_model.safetensors"
    actual, expected = (tmp_path / run / "final" / name for run in ("cut", "uninterrupted"))
    assert actual.read_bytes() == expected.read_bytes()
    loss = losses(tmp_path, "cut")
    assert loss[-1] < loss[0] - 0.1


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("kind", ["rslora", "rslora and dora", "embeddings", "trained embeddings"])
@pytest.mark.usefixtures("trust_the_tests")
def test_final_folder_contains_the_trained_adapter(tmp_path: Path, kind: str) -> None:
    lora = KINDS[kind]
    config = lora_config(tmp_path, "run", lora=lora, optimizer=lazy(AdamW, lr=1e-2, fused=True))
    lora_finetune.main(config)
    with torch.device("meta"):
        model = instantiate(config.model)
    place(model, SINGLE_RANK, dtype="fp32")
    base = model(torch.arange(9)[None])
    load_peft_adapter(model, tmp_path / "run" / "final")
    assert (model(torch.arange(9)[None]) - base).abs().max() > 1e-3
    for _, layer, adapter in adapted_layers(model):
        assert isinstance(adapter, DoRA) is (lora.kind == "dora")
        assert adapter.rank_stabilized is lora.rank_stabilized
        if isinstance(adapter, DoRA):
            assert not torch.allclose(adapter.lora_magnitude, layer.weight_matrix().norm(dim=1))


def test_dora_unsupported_by_peft_is_rejected_before_a_run() -> None:
    with torch.device("meta"):
        model = phi3_mini_4k()
    with pytest.raises(ValueError, match=r"qkv_proj.*self_attn.k_proj would have none; adapt all of q_proj"):
        Lora(kind="dora").add_to(model)


@pytest.mark.usefixtures("destroy_group")
def test_dora_magnitudes_are_computed_from_offloaded_weights(tmp_path: Path) -> None:
    save_hf_folder(build_model(None), tmp_path / "hf")
    settings = {"dtype": "bf16", "model_directory": str(tmp_path / "hf")}
    single = full_state(build_model(DORA, **settings), SINGLE_RANK)
    offloaded = build_model(DORA, **settings, enable_fsdp=True, sharding=Sharding(cpu_offload=True))
    actual = full_state(offloaded, SINGLE_RANK)
    assert single is not None
    assert actual is not None
    torch.testing.assert_close(actual, single, rtol=0, atol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two ranks over gloo, and return the folder with their results."""
    return run_ranks(tmp_path_factory, "two_ranks", 2)


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = torch.load(folder / "results.pt")["dora"]
    return result


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_step_on_two_ranks_matches_the_step_on_one_rank(results: dict[str, Any], case: str) -> None:
    actual, single = results[case], one_step(SINGLE_RANK, **CASES[case])
    part = {"embeddings sharded": "embed_tokens.adapter.lora_b"}.get(case, "embed_tokens.weight")
    assert any(
        name.endswith(part if "embeddings" in case else "lora_magnitude") for name in single["parameters"]
    )
    assert_near(actual["initial"], single["initial"], NORM_BOUND if "bf16" in case else FLOAT64)
    if "bf16" in case:
        assert_same_step_in_bf16(actual, single)
    else:
        assert_same_step(actual, single)


@pytest.mark.slow
def test_dora_magnitudes_are_computed_from_sharded_weights(folder: Path, results: dict[str, Any]) -> None:
    single = initial_adapters(SINGLE_RANK, folder / "dora")
    assert single is not None
    actual = results["from a folder"]
    assert_near(actual, single, NORM_BOUND)
    model = build_placed(SINGLE_RANK, dtype="bf16", model_directory=str(folder / "dora" / "base"))
    for name, layer, _ in adapted_layers(model):
        norms = layer.weight_matrix().double().norm(dim=1)
        assert_near(actual[f"{name}.adapter.lora_magnitude"], norms, NORM_BOUND)


@pytest.mark.slow
def test_continued_adapter_is_loaded_into_shards(folder: Path, results: dict[str, Any]) -> None:
    expected = read_peft_tensors(folder / "dora" / "adapter")
    assert results["continued"].keys() == {name for name, _ in lora_parameters(results["continued"])}
    assert len(results["continued"]) == len(expected)
    single = continued_state(SINGLE_RANK, folder / "dora")
    assert single is not None
    for name, tensor in results["continued"].items():
        assert tensor.equal(single[name])
        assert any(tensor.to(other.dtype).equal(other) for other in expected.values())


def lora_parameters(state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in state.items() if ".adapter." in name]


@pytest.mark.quick_cases(1)
@all_kinds
def test_training_can_continue_from_an_adapter(tmp_path: Path, lora: Lora) -> None:
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        lora_finetune.main(
            lora_config(tmp_path, "first", lora=lora, epochs=3, optimizer=lazy(AdamW, lr=1e-2))
        )
        base = {"model_directory": None, "epochs": 1, "optimizer": lazy(AdamW, lr=1e-2), "seed": 1}
        further = evolve(lora, adapter_directory=str(tmp_path / "first" / "final"))
        lora_finetune.main(lora_config(tmp_path, "second", lora=further, **base))
    assert losses(tmp_path, "second")[0] < losses(tmp_path, "first")[0] - 0.01
    second = json.loads((tmp_path / "second/final/adapter_config.json").read_text())
    assert second["base_model_name_or_path"] is None, (
        "the saved adapter must refer to the base model, not to the earlier adapter"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 4}, "lora.rank is 4, but the adapter in .* has 3 .*; set it to 3"),
        ({"alpha": 8.0}, "lora.alpha is 8.0, but the adapter in .* has 16.0"),
        ({"rank_stabilized": True}, "lora.rank_stabilized is True, but the adapter in .* has False"),
        ({"kind": "dora"}, "lora.kind is dora, but the adapter in .* has lora"),
        (
            {"targets": ["q_proj"]},
            "lora.targets: the adapter in .* adapts different layers: .* is only in the adapter",
        ),
        (
            {"targets": ["all-linear"]},
            "lora.targets: the adapter in .* adapts different layers: .* is only in the config",
        ),
    ],
)
def test_adapter_with_different_settings_cannot_be_continued(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    lora = Lora(targets=["q_proj", "v_proj"], rank=3)
    save_peft_adapter(build_model(lora), tmp_path / "adapter", base_model=None)
    other = evolve(lora, adapter_directory=str(tmp_path / "adapter"), **changes)
    with pytest.raises(ValueError, match=message):
        build_model(other)


def test_validate_reports_an_adapter_that_cannot_be_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["validate", "lora_finetune", "--config", "smollm2_135m_lora", "validation=null"]
    assert tune([*args, f"lora.adapter_directory={tmp_path / 'nowhere'}"]) == 2
    assert "nowhere does not exist; expected a PEFT adapter folder" in capsys.readouterr().err
