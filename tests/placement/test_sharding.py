"""Four ranks that shard a model in every supported way, compared with one rank that stores the full model."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from attrs import evolve

from recipes.full_finetune import main
from tests.tolerance import FLOAT64, assert_near, bound
from tests.training.four_ranks import CASES, REDUCED_ONCE, build_model, one_step
from tests.training.run_ranks import run_ranks
from tests.training.tiny import SINGLE_RANK, tiny_decoder, tiny_model
from torchtune.config import ConfigError
from torchtune.formats import save_hf_folder
from torchtune.placement import ActivationCheckpointing, Placement, Sharding, full_state
from torchtune.placement._sharding import shard

EXACT = [name for name, case in CASES.items() if case.get("dtype") is None]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run four ranks over gloo, and return their results."""
    result: dict[str, Any] = torch.load(run_ranks(tmp_path_factory, "four_ranks", 4) / "results.pt")
    return result


@pytest.mark.slow
@pytest.mark.parametrize("case", EXACT)
def test_step_on_four_ranks_matches_the_step_on_one_rank(results: dict[str, Any], case: str) -> None:
    model = {name: CASES[case][name] for name in ("lora", "tied_embeddings") if name in CASES[case]}
    actual, single = results["cases"][case], one_step(SINGLE_RANK, **model)
    assert actual["loss"] == pytest.approx(single["loss"], rel=FLOAT64)
    assert actual["norm"] == pytest.approx(single["norm"], rel=FLOAT64)
    assert single["norm"] > 0.2  # so that clipping to 0.1 has an effect
    for kind in ("gradients", "clipped", "parameters"):
        assert_near(actual[kind], single[kind], FLOAT64)


@pytest.mark.slow
@pytest.mark.parametrize("case", REDUCED_ONCE)
def test_gradients_can_be_reduced_only_in_the_last_micro_batch(results: dict[str, Any], case: str) -> None:
    assert results["cases"][f"reduced once, {case}"]["is_reduced"] == [False, True]
    assert results["cases"]["fsdp"]["is_reduced"] == [True, True]


@pytest.mark.slow
def test_gradients_reduced_once_are_accumulated_in_float32(results: dict[str, Any]) -> None:
    once, plain = results["cases"]["reduced once, bf16"], results["cases"]["bf16 plain"]
    assert once["loss"] == plain["loss"]
    assert_near(once["gradients"], plain["gradients"], bound(torch.float32, 8))


@pytest.mark.slow
def test_all_ranks_end_with_the_same_parameters(results: dict[str, Any]) -> None:
    assert results["same on every rank"]


@pytest.mark.slow
def test_checkpointing_is_bitwise_identical_when_fsdp_casts(results: dict[str, Any]) -> None:
    actual, plain = results["cases"]["bf16 checkpointed"], results["cases"]["bf16 plain"]
    assert actual["loss"] == plain["loss"]
    assert all(torch.equal(actual["gradients"][name], g) for name, g in plain["gradients"].items())
    assert {g.dtype for g in plain["gradients"].values()} == {torch.float32}


@pytest.mark.slow
def test_pure_bf16_stores_parameters_and_gradients_in_bf16_and_is_close_to_one_rank(
    results: dict[str, Any],
) -> None:
    pure, fp32_weights = results["cases"]["pure bf16"], results["cases"]["bf16 plain"]
    for kind in ("gradients", "parameters"):
        assert {tensor.dtype for tensor in pure[kind].values()} == {torch.bfloat16}
    # Gradients have one additional rounding, to bf16.
    assert pure["loss"] == pytest.approx(fp32_weights["loss"], rel=bound(torch.bfloat16, 1))
    assert pure["norm"] == pytest.approx(fp32_weights["norm"], rel=bound(torch.bfloat16, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "parts"), [("fsdp", 4), ("hsdp", 2), ("offloaded hsdp", 2), ("replicated", 1)]
)
def test_rank_stores_only_its_shard_of_a_replica(results: dict[str, Any], case: str, parts: int) -> None:
    full = one_step(SINGLE_RANK)["n_stored"]
    assert full / parts <= results["cases"][case]["n_stored"] <= 1.1 * full / parts


@pytest.mark.slow
def test_layers_stay_gathered_after_the_forward_pass_without_resharding(results: dict[str, Any]) -> None:
    for case in ("fsdp", "hsdp", "offloaded"):
        assert results["cases"][case]["gathered"] == [False, False]
    assert results["cases"]["gathered"]["gathered"] == [True, True]


@pytest.mark.parametrize("reads_folder", [False, True])
@pytest.mark.usefixtures("destroy_group")
def test_offloading_works_on_one_rank(tmp_path: Path, reads_folder: bool) -> None:
    settings: dict[str, Any] = {}
    if reads_folder:
        save_hf_folder(tiny_model("fp64", world=evolve(SINGLE_RANK, seed=9)), tmp_path / "hf")
        settings["model_directory"] = str(tmp_path / "hf")
    single = one_step(SINGLE_RANK, **settings)
    actual = one_step(SINGLE_RANK, sharding=Sharding(cpu_offload=True), **settings)
    assert dist.is_initialized()
    assert actual["norm"] == pytest.approx(single["norm"], rel=FLOAT64)
    assert_near(actual["parameters"], single["parameters"], FLOAT64)


@pytest.mark.filterwarnings("ignore")  # warnings from torch's compiler
@pytest.mark.usefixtures("destroy_group")
def test_compiled_layers_can_be_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    settings: dict[str, Any] = {"compile": True, "activation_checkpointing": ActivationCheckpointing()}
    single, actual = (
        one_step(SINGLE_RANK),
        one_step(SINGLE_RANK, sharding=Sharding(cpu_offload=True), **settings),
    )
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert_near(actual["parameters"], single["parameters"], FLOAT64)


@pytest.mark.usefixtures("destroy_group")
def test_full_state_gathers_offloaded_shards() -> None:
    actual = full_state(build_model(SINGLE_RANK, sharding=Sharding(cpu_offload=True)), SINGLE_RANK)
    expected = full_state(tiny_model("fp64"), SINGLE_RANK)
    assert actual is not None
    assert expected is not None
    assert all(torch.equal(actual[name], p) for name, p in expected.items())


@pytest.mark.parametrize(("device", "pins"), [("cpu", False), ("cuda", True)])
def test_offloaded_memory_is_pinned_only_for_a_gpu(
    device: str, pins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        "torch.distributed.fsdp.fully_shard", lambda module, **settings: calls.append(settings)
    )
    monkeypatch.setattr("torch.distributed.fsdp.register_fsdp_forward_method", lambda *_: None)
    monkeypatch.setattr("torchtune.placement._sharding.make_mesh", lambda *_: None)
    with torch.device("meta"):
        model = tiny_decoder()
    world = evolve(SINGLE_RANK, device=torch.device(device))
    shard(model, world, torch.bfloat16, Sharding(cpu_offload=True), split=True)
    assert [settings["offload_policy"].pin_memory for settings in calls] == [pins] * 3
    assert {settings["mp_policy"].reduce_dtype for settings in calls} == {torch.float32}


@pytest.mark.parametrize(
    ("replicas", "enable_fsdp", "message"),
    [
        (
            3,
            True,
            "sharding.replicas: 4 ranks cannot be split into 3 equal groups; set replicas to a divisor of 4",
        ),
        (8, True, "sharding.replicas: 4 ranks cannot be split into 8 equal groups"),
        (1, False, "sharding: this section has no effect without enable_fsdp=true"),
    ],
)
def test_a_section_incompatible_with_the_run_is_rejected(
    replicas: int, enable_fsdp: bool, message: str
) -> None:
    section = Placement(lean_layers=False, sharding=Sharding(replicas=replicas))
    with torch.device("meta"):
        model = tiny_decoder()
    with pytest.raises(ValueError, match=message):
        section.place(model, evolve(SINGLE_RANK, size=4), None, dtype="fp64", enable_fsdp=enable_fsdp)
    with pytest.raises(ValueError, match="sharding"):
        build_model(SINGLE_RANK, enable_fsdp=enable_fsdp, sharding=Sharding(replicas=replicas + 1))


def test_replicas_below_one_are_rejected() -> None:
    with pytest.raises(ValueError, match="replicas: expected a value above 0, got 0"):
        Sharding(replicas=0)


def test_a_section_without_effect_is_reported_before_the_run() -> None:
    layers = main.layers("smollm2_135m_full", ["placement.sharding.replicas=2"])
    with pytest.raises(ConfigError, match="sharding: this section has no effect without enable_fsdp=true"):
        layers.build()
