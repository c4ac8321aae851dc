"""Saved folders contain the trained parameters, even if the model was validated just before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.run_ranks import run_ranks
from tests.training.saved_ranks import LORA, PRECISIONS, SHARDINGS, train_and_save
from tests.training.tiny import SINGLE_RANK
from torchtune.cli import main as tune
from torchtune.placement import DTYPES, Sharding
from torchtune.training import Lora

KINDS: dict[str, Lora | None] = {"full": None, "lora": LORA}
by_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run two ranks over gloo, and return their results."""
    result: dict[str, Any] = torch.load(run_ranks(tmp_path_factory, "saved_ranks", 2) / "results.pt")
    return result


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


def assert_saved(result: dict[str, Any], kind: str, dtype: str) -> None:
    """Check that full models are saved in the compute precision, and adapters in the precision of the parameters.

    `best/`, which the validator saves, must have the same files as `final/`, which is saved after the validation.
    """
    assert result["different"] == []
    trained = result["trained"]
    assert len(trained) > 10
    assert_equal(result["gathered"], trained)
    if kind == "full":
        trained = {name: tensor.to(DTYPES[dtype]) for name, tensor in trained.items()}
    assert result["dtypes"] == {tensor.dtype for tensor in trained.values()}
    assert_equal({name: tensor.to(trained[name].dtype) for name, tensor in result["saved"].items()}, trained)


@pytest.mark.quick_cases(3)
@by_kind
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("placement", ["unsharded", "resharded", "gathered"])
@pytest.mark.usefixtures("destroy_group")
def test_one_process_saves_the_trained_parameters(
    tmp_path: Path, placement: str, precision: str, kind: str
) -> None:
    settings = PRECISIONS[precision]
    if placement != "unsharded":  # on one rank, FSDP is used only to offload weights
        sharding = Sharding(cpu_offload=True, reshard_after_forward=placement == "resharded")
        settings = {**settings, "enable_fsdp": True, "sharding": sharding}
    result = train_and_save(SINGLE_RANK, tmp_path, KINDS[kind], **settings)
    assert result is not None
    assert_saved(result, kind, settings["dtype"])


@pytest.mark.slow
@by_kind
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_two_ranks_save_the_trained_parameters(results: dict[str, Any], sharding: str, kind: str) -> None:
    assert_saved(results[f"{sharding} {kind}"], kind, "bf16")


def transformers_dtype(folder: Path) -> torch.dtype:
    from transformers import AutoModelForCausalLM

    dtype: torch.dtype = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype
    return dtype


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_transformers_loads_saved_and_converted_models_in_the_precision_of_the_run(
    tmp_path: Path, dtype: str
) -> None:
    train_and_save(SINGLE_RANK, tmp_path / "full", None, dtype=dtype)
    base = tmp_path / "full/final"
    assert transformers_dtype(base) == DTYPES[dtype]
    train_and_save(SINGLE_RANK, tmp_path / "lora", LORA, dtype=dtype)
    adapter = tmp_path / "lora/final"
    assert tune(["convert", str(adapter), str(tmp_path / "merged"), "--base", str(base)]) == 0
    assert transformers_dtype(tmp_path / "merged") == DTYPES[dtype]
    for name in ("bfloat16", "float32"):
        assert tune(["convert", str(base), str(tmp_path / name), "--dtype", name]) == 0
        assert transformers_dtype(tmp_path / name) == getattr(torch, name)


@pytest.mark.slow
@by_kind
def test_training_continues_after_saving(results: dict[str, Any], kind: str) -> None:
    expected = results[f"sharded {kind}"]["resumed"]
    for sharding in SHARDINGS:
        result = results[f"{sharding} {kind}"]
        assert_equal(result["resumed"], expected)
        assert not any(torch.equal(result["resumed"][name], p) for name, p in result["trained"].items())
