"""`tune selftest` finds faults in every part that it checks, and none in the library as it is."""

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.selftest.mutations import mutated
from tests.tune import Tune
from torchtune import cli
from torchtune.modules import LinearCrossEntropy, LoRA, RMSNorm, _attend, _lean, _linear_cross_entropy
from torchtune.selftest import Check, Result, Unavailable, run_check, table
from torchtune.selftest import _attention as attention
from torchtune.selftest._check import Difference, compare
from torchtune.selftest._layers import adapter_checks, layer_checks
from torchtune.selftest._loss import loss_checks
from torchtune.selftest._runs import run_checks
from torchtune.selftest._updates import update_checks
from torchtune.training import LossScale

CPU = torch.device("cpu")
PRECISIONS = ["fp32", "bf16"]
PARTS: dict[str, Callable[[], Iterator[Check]]] = {
    "attention": lambda: attention.attention_checks(["fp32"]),
    "loss": lambda: loss_checks(PRECISIONS),
    "lean layers": lambda: layer_checks(PRECISIONS),
    "adapters": lambda: adapter_checks(PRECISIONS),
    "updates": update_checks,
}


@pytest.fixture
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the attention of two families only, one of them with windows and soft caps."""
    models = {name: attention.MODELS[name] for name in ("smollm2 135M", "gemma2 2B")}
    monkeypatch.setattr(attention, "MODELS", models)


def results_of(part: str) -> list[Result]:
    return [run_check(check, CPU) for check in PARTS[part]()]


def is_wrong(part: str) -> bool:
    return any(result.status == "wrong" for result in results_of(part))


@pytest.mark.usefixtures("few_models")
@pytest.mark.parametrize("part", PARTS)
def test_every_check_is_ok_without_a_fault(part: str) -> None:
    assert [result for result in results_of(part) if result.status != "ok"] == []


@pytest.mark.slow
@pytest.mark.parametrize("check", list(run_checks()), ids=lambda check: check.part)
def test_runs_are_ok_without_a_fault(check: Check) -> None:
    result = run_check(check, CPU)
    assert result.status == "ok", result.detail


def scaled_scores(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return _ATTEND(q * 1.01, *args, **kwargs)


_ATTEND = _attend.attend
_CROSS_ENTROPY = LinearCrossEntropy.forward


FAULTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "attention scores are 1% too large": (
        "attention",
        lambda patch: patch.setattr(attention, "attend", scaled_scores),
    ),
    "the soft cap of the loss is ignored": (
        "loss",
        lambda patch: patch.setattr(
            LinearCrossEntropy,
            "forward",
            lambda self, hidden, weight, labels, softcap=None: _CROSS_ENTROPY(self, hidden, weight, labels),
        ),
    ),
    "the standard norm ignores eps": (
        "lean layers",
        lambda patch: patch.setattr(
            RMSNorm,
            "forward",
            lambda self, x: nn.functional.rms_norm(x, x.shape[-1:], self.weight + self.offset, 0.0),
        ),
    ),
    "the low-rank update is not scaled": (
        "adapters",
        lambda patch: patch.setattr(LoRA, "scale", property(lambda _: 1.0)),
    ),
    "the loss scale is kept after an overflow": (
        "updates",
        lambda patch: patch.setattr(LossScale, "update", lambda self, has_overflowed: None),
    ),
}


@pytest.mark.usefixtures("few_models")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_in_its_part(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part, plant = FAULTS[fault]
    plant(monkeypatch)
    assert is_wrong(part)


MUTABLE: list[tuple[str, Any, str]] = [
    ("lean layers", _lean._RMSNorm, "forward"),
    ("lean layers", _lean._RMSNorm, "backward"),
    ("lean layers", _lean._GatedProduct, "backward"),
    ("lean layers", _lean, "_rotate_pairs"),
    ("adapters", _lean._LoRALinear, "backward"),
    ("loss", _linear_cross_entropy.ChunkSoftmax, "logit_gradients"),
    ("updates", LossScale, "update"),
    ("attention", _attend, "attend_by_scores"),
]
"""Functions whose operators are replaced, with the part that checks them."""


@pytest.mark.usefixtures("few_models")
@pytest.mark.parametrize("seed", range(8))
def test_a_random_mutation_of_the_code_is_found_in_its_part(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, owner, name = MUTABLE[seed % len(MUTABLE)]
    function = inspect.unwrap(getattr(owner, name))
    replacement, change = mutated(function, seed)
    is_static = isinstance(inspect.getattr_static(owner, name), staticmethod)
    monkeypatch.setattr(owner, name, staticmethod(replacement) if is_static else replacement)
    assert is_wrong(part), f"{name}: {change}"


def test_an_error_in_a_check_is_a_wrong_result() -> None:
    def fail(_: torch.device) -> list[Difference]:
        raise RuntimeError("no kernel\nsecond line")

    result = run_check(Check("attention", "case", fail), CPU)
    assert (result.status, result.detail) == ("wrong", "RuntimeError: no kernel")


def test_a_missing_requirement_is_not_wrong() -> None:
    def skip(_: torch.device) -> list[Difference]:
        raise Unavailable("requires a GPU")

    result = run_check(Check("attention", "case", skip), CPU)
    assert (result.status, result.detail) == ("not available", "requires a GPU")
    assert "  not available: case: requires a GPU" in table([result])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0])
def test_errors_that_are_too_large_or_not_finite_are_wrong(value: float) -> None:
    def differ(_: torch.device) -> list[Difference]:
        return [Difference("output", 0.0, 1.0), Difference("gradient of x", value, 1.0)]

    result = run_check(Check("loss", "case", differ), CPU)
    assert result.status == "wrong"
    assert result.detail.startswith("gradient of x: error")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_missing_gradient_is_found(dtype: torch.dtype) -> None:
    x = {"x": torch.linspace(-1, 1, 10, dtype=torch.float64)}
    errors = compare(lambda x: x["x"] * x["x"].detach(), lambda x: x["x"] ** 2, x, dtype, CPU)
    assert [d.name for d in errors if d.error > d.allowed] == ["gradient of x"]


def test_the_command_reports_json_and_its_exit_status(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    selected = list(update_checks())
    monkeypatch.setattr("torchtune.selftest.checks", lambda _: iter(selected))
    result = tune("selftest", "--json")
    report = json.loads(result.out)
    assert result.status == 0
    assert (report["ok"], report["wrong"]) == (len(selected), 0)
    assert report["machine"]["torch"] == torch.__version__
    assert report["results"][0].keys() == {
        "part", "name", "status", "detail", "error", "allowed", "seconds",
    }  # fmt: skip
    monkeypatch.setattr(LossScale, "update", lambda self, has_overflowed: None)
    result = tune("selftest")
    assert result.status == 1
    assert "wrong: overflow: factor after an overflow: error" in result.out
    assert cli.commands()["selftest"]
