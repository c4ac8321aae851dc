"""The fallback of a disabled feature yields the same results."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from attrs import define, field
from torch.optim import AdamW

from tests.config.printed_mistakes import RECIPE, printed_mistakes
from tests.modules.test_lean import FAMILIES, decoder, results
from tests.tolerance import FLOAT64, assert_near
from tests.training.tiny import tiny_decoder
from tests.tune import Tune
from torchtune.config import lazy
from torchtune.config._validators import not_empty, one_of, rules
from torchtune.internals import OUTCOMES, PROBED_FEATURES, avoid_dynamo_import_in_step, limit_heap_growth
from torchtune.modules import Hardware, lean
from torchtune.modules._lean import LeanLayer
from torchtune.training import estimate_memory

Disable = Callable[[str], None]


@pytest.fixture(params=["TUNE_PLAIN=1", "the probe fails"])
def disable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Disable:
    """Return a function that disables a probed feature by name."""

    def disable_feature(name: str) -> None:
        assert name in {feature.name for feature in PROBED_FEATURES}
        if request.param == "TUNE_PLAIN=1":
            monkeypatch.setenv("TUNE_PLAIN", "1")
        else:
            monkeypatch.setitem(OUTCOMES, name, False)  # noqa: FBT003 -- the outcome of the probe

    return disable_feature


def test_the_process_is_not_restarted(disable: Disable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("the process was restarted"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    disable("heap settings")
    limit_heap_growth()
    assert "GLIBC_TUNABLES" not in os.environ


def test_kernel_caches_are_not_limited(disable: Disable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    disable("kernel caches")
    limit_heap_growth()
    assert not os.environ.keys() & {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"}


def optimizer_without_dynamo(monkeypatch: pytest.MonkeyPatch) -> tuple[AdamW, torch.nn.Parameter]:
    """Build an optimizer as if torch's compiler had not been imported."""
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 5))
    optimizer = AdamW([parameter], lr=0.1)
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "torch._dynamo", raising=False)
        avoid_dynamo_import_in_step(optimizer)
    return optimizer, parameter


def test_optimizer_step_matches_torch(disable: Disable, monkeypatch: pytest.MonkeyPatch) -> None:
    patched, parameter_of_patched = optimizer_without_dynamo(monkeypatch)
    disable("optimizer step")
    plain, expected = optimizer_without_dynamo(monkeypatch)
    assert ("step" in vars(patched), "step" in vars(plain)) == (True, False)
    for i in range(4):
        for optimizer, parameter in ((patched, parameter_of_patched), (plain, expected)):
            parameter.grad = torch.linspace(-i, 2 * i, 5)
            optimizer.step()
    assert torch.equal(parameter_of_patched, expected)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_lean_layers_fall_back_to_standard_layers(disable: Disable, family: str) -> None:
    lean_model, standard = (decoder(FAMILIES[family], "lora") for _ in range(2))
    lean(lean_model)
    disable("activation backward")
    lean(standard)
    assert any(isinstance(module, LeanLayer) and module.is_lean for module in lean_model.modules())
    assert not any(isinstance(module, LeanLayer) and module.is_lean for module in standard.modules())
    assert_near(results(lean_model), results(standard), FLOAT64)


def test_an_estimate_omits_activations(disable: Disable) -> None:
    with torch.device("meta"):
        models = tiny_decoder(), tiny_decoder()
    full_estimate = estimate_memory(models[0], lazy(AdamW, lr=1e-3), batch=(2, 8), hardware=Hardware("cpu"))
    assert full_estimate.activations > 0
    disable("memory of activations")
    reduced_estimate = estimate_memory(
        models[1], lazy(AdamW, lr=1e-3), batch=(2, 8), hardware=Hardware("cpu")
    )
    assert reduced_estimate == attrs.evolve(full_estimate, activations=0, loss=0, heap=0, peak=0)


FUNCTION = """from tests.config.sample import *
from torchtune.config import lazy

def c() -> Config:
    cfg = Config(
        output_dir="x",
        optimizer=lazy(
            Adam,
            lr=0.5,
        ),
    )
    cfg.epochs = 3
    return cfg
"""


def origins(file: Path, tune: Tune) -> tuple[str, dict[str, str]]:
    """Return the frozen config of `c` and the line of each value."""
    output = tune("show", RECIPE, "--config", f"{file}:c", "--origins").out
    lines = (line.split("# ") for line in output.splitlines() if f"{file}:" in line)
    line_numbers = {value.split(":")[0].strip(): origin.rpartition(":")[2].strip() for value, origin in lines}
    return tune("export", RECIPE, "--config", f"{file}:c").out, line_numbers


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("line numbers of calls", {"output_dir": "6", "optimizer.lr": "7", "epochs": "12"}),
        ("recording of config functions", {"output_dir": "4", "optimizer.lr": "9", "epochs": "4"}),
    ],
)
def test_a_value_is_located_at_an_enclosing_line(
    disable: Disable,
    name: str,
    lines: dict[str, str],
    tmp_path: Path,
    tune: Tune,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / f"{tmp_path.name}.py"
    file.write_text(FUNCTION)
    frozen, line_numbers = origins(file, tune)
    assert {key: line_numbers[key] for key in lines} == {
        "output_dir": "6",
        "optimizer.lr": "9",
        "epochs": "12",
    }
    disable(name)
    if "TUNE_PLAIN" in os.environ:  # both features are disabled
        lines = dict.fromkeys(lines, "4")
    sys.modules.pop(file.stem)
    plain, line_numbers = origins(file, tune)
    assert plain == frozen
    assert {key: line_numbers[key] for key in lines} == lines
    sys.modules.pop(file.stem)


HEAD = """from tests.config.sample import *
from attrs import define

def c() -> Config:
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "return Config(output_dir='x', batch_sizee=3)",
            "5: TypeError: .*unexpected keyword argument 'batch_sizee'",
        ),
        ("return Config()", "5: TypeError: .*missing 1 required keyword-only argument: 'output_dir'"),
        ("return Config(output_dir='x', batch_size=0)", "4: batch_size: expected an int above 0, got 0"),
        ("c = Config(output_dir='x')\n    c.epochss = 3\n    return c", "6: AttributeError: .*'epochss'.*"),
        (
            "c = Loose(output_dir='x')\n    c.epochss = 3\n    return c",
            "4: epochss: unknown field 'epochss'; did you mean 'epochs'.",
        ),
    ],
)
def test_a_mistake_in_a_config_function_is_reported(
    disable: Disable, body: str, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / f"{tmp_path.name}.py"
    loose = "@define(kw_only=True, slots=False)\nclass Loose(Config): pass\n"
    file.write_text(f"{HEAD}    {body}\n{loose}")
    disable("recording of config functions")
    (mistake,) = printed_mistakes(["validate", RECIPE, "--config", f"{file}:c"], tmp_path)
    assert re.fullmatch(f"{file.name}:{expected}", mistake)


@define
class Combined:
    """A config class whose field has two validators."""

    word: str = field(validator=[one_of("a", "b"), not_empty()])


def test_combined_validators_still_run(disable: Disable) -> None:
    (word,) = attrs.fields(Combined)
    assert len(rules(word.validator)) == 2
    disable("combined validators")
    assert rules(word.validator) == []
    with pytest.raises(ValueError, match="word: expected a value"):
        Combined("c")
