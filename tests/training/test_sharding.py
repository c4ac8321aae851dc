"""Four processes that split a model in every way, against one that holds it whole."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from attrs import evolve

from recipes.full_finetune import main
from tests.tolerance import FLOAT64, assert_near, bound
from tests.training.four_ranks import CASES, one_step, placed
from tests.training.tiny import ALONE, tiny_decoder, tiny_model
from tests.training.together import together
from torchtune.config import ConfigError
from torchtune.formats import save_hf_folder
from torchtune.training import ActivationCheckpointing, Placement, Sharding, full_state
from torchtune.training._sharding import shard

EXACT = [name for name, case in CASES.items() if case.get("dtype") is None]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run four processes over gloo, and return what they found."""
    result: dict[str, Any] = torch.load(together(tmp_path_factory, "four_ranks", 4) / "found.pt")
    return result


@pytest.fixture
def own_group() -> Iterator[None]:
    """End the process group that a run of one process was given."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("case", EXACT)
def test_four_ranks_take_the_step_of_one(found: dict[str, Any], case: str) -> None:
    ours, alone = found["cases"][case], one_step(ALONE, lora=CASES[case].get("lora"))
    assert ours["loss"] == pytest.approx(alone["loss"], rel=FLOAT64)
    assert ours["norm"] == pytest.approx(alone["norm"], rel=FLOAT64)
    assert alone["norm"] > 0.2  # so that clipping to 0.1 does something
    for kind in ("gradients", "clipped", "parameters"):
        assert_near(ours[kind], alone[kind], FLOAT64)


@pytest.mark.slow
def test_all_ranks_end_with_the_same_parameters(found: dict[str, Any]) -> None:
    assert found["same on every rank"]


@pytest.mark.slow
def test_checkpointing_changes_no_bit_where_fsdp_casts(found: dict[str, Any]) -> None:
    ours, plain = found["cases"]["bf16 checkpointed"], found["cases"]["bf16 plain"]
    assert ours["loss"] == plain["loss"]
    assert all(torch.equal(ours["gradients"][name], g) for name, g in plain["gradients"].items())
    assert {g.dtype for g in plain["gradients"].values()} == {torch.float32}


@pytest.mark.slow
def test_pure_bf16_holds_parameters_and_gradients_in_bf16_and_is_near(found: dict[str, Any]) -> None:
    pure, wide = found["cases"]["pure bf16"], found["cases"]["bf16 plain"]
    for kind in ("gradients", "parameters"):
        assert {tensor.dtype for tensor in pure[kind].values()} == {torch.bfloat16}
    # Gradients are rounded once more, to be held in bf16.
    assert pure["loss"] == pytest.approx(wide["loss"], rel=bound(torch.bfloat16, 1))
    assert pure["norm"] == pytest.approx(wide["norm"], rel=bound(torch.bfloat16, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("case", "parts"), [("fsdp", 4), ("hsdp", 2), ("offloaded hsdp", 2), ("copies", 1)])
def test_a_rank_holds_its_part_of_a_replica(found: dict[str, Any], case: str, parts: int) -> None:
    whole = one_step(ALONE)["held"]
    assert whole / parts <= found["cases"][case]["held"] <= 1.1 * whole / parts


@pytest.mark.slow
def test_layers_stay_gathered_after_the_forward_pass_where_asked_for(found: dict[str, Any]) -> None:
    for case in ("fsdp", "hsdp", "offloaded"):
        assert found["cases"][case]["gathered"] == [False, False]
    assert found["cases"]["gathered"]["gathered"] == [True, True]


@pytest.mark.parametrize("reads_folder", [False, True])
@pytest.mark.usefixtures("own_group")
def test_one_process_offloads_too(tmp_path: Path, reads_folder: bool) -> None:
    how: dict[str, Any] = {}
    if reads_folder:
        save_hf_folder(tiny_model("fp64", world=evolve(ALONE, seed=9)), tmp_path / "hf")
        how["model_directory"] = str(tmp_path / "hf")
    alone = one_step(ALONE, **how)
    ours = one_step(ALONE, sharding=Sharding(cpu_offload=True), **how)
    assert dist.is_initialized()
    assert ours["norm"] == pytest.approx(alone["norm"], rel=FLOAT64)
    assert_near(ours["parameters"], alone["parameters"], FLOAT64)


@pytest.mark.filterwarnings("ignore")  # those of torch's own compiler
@pytest.mark.usefixtures("own_group")
def test_compiled_layers_can_be_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    how: dict[str, Any] = {"compile": True, "activation_checkpointing": ActivationCheckpointing()}
    alone, ours = one_step(ALONE), one_step(ALONE, sharding=Sharding(cpu_offload=True), **how)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert_near(ours["parameters"], alone["parameters"], FLOAT64)


@pytest.mark.usefixtures("own_group")
def test_whole_state_is_gathered_from_offloaded_parts() -> None:
    ours = full_state(placed(ALONE, sharding=Sharding(cpu_offload=True)), ALONE)
    expected = full_state(tiny_model("fp64"), ALONE)
    assert ours is not None
    assert expected is not None
    assert all(torch.equal(ours[name], p) for name, p in expected.items())


@pytest.mark.parametrize(("device", "pins"), [("cpu", False), ("cuda", True)])
def test_what_waits_in_cpu_memory_is_pinned_for_a_gpu_alone(
    device: str, pins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda module, **how: given.append(how))
    monkeypatch.setattr("torch.distributed.fsdp.register_fsdp_forward_method", lambda *_: None)
    monkeypatch.setattr("torchtune.training._sharding.make_mesh", lambda *_: None)
    with torch.device("meta"):
        model = tiny_decoder()
    world = evolve(ALONE, device=torch.device(device))
    shard(model, world, torch.bfloat16, Sharding(cpu_offload=True), split=True)
    assert [how["offload_policy"].pin_memory for how in given] == [pins] * 3
    assert {how["mp_policy"].reduce_dtype for how in given} == {torch.float32}


@pytest.mark.parametrize(
    ("replicas", "enable_fsdp", "said"),
    [
        (3, True, "sharding.replicas: 4 ranks cannot be split into 3 equal groups; set a divisor of 4"),
        (8, True, "sharding.replicas: 4 ranks cannot be split into 8 equal groups"),
        (1, False, "sharding: has no effect without enable_fsdp=true"),
    ],
)
def test_section_that_does_not_fit_the_run_is_refused(replicas: int, enable_fsdp: bool, said: str) -> None:
    section = Placement(lean_layers=False, sharding=Sharding(replicas=replicas))
    with torch.device("meta"):
        model = tiny_decoder()
    with pytest.raises(ValueError, match=said):
        section.place(model, evolve(ALONE, size=4), None, dtype="fp64", enable_fsdp=enable_fsdp)
    with pytest.raises(ValueError, match="sharding"):
        placed(ALONE, enable_fsdp=enable_fsdp, sharding=Sharding(replicas=replicas + 1))


def test_replicas_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="replicas: expected a value above 0, got 0"):
        Sharding(replicas=0)


def test_section_without_effect_is_a_mistake_before_the_run() -> None:
    layers = main.layers("smollm2_135m_full", ["placement.sharding.replicas=2"])
    with pytest.raises(ConfigError, match="sharding: has no effect without enable_fsdp=true"):
        layers.build()
