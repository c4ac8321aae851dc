"""Each probed feature has a complete declaration and a passing probe, and can be disabled."""

import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.training_sides.cases import ABLATIONS
from tests.tune import Tune
from torchtune.internals import OUTCOMES, PROBED_FEATURES, ProbedFeature, _glibc

ROOT = Path(__file__).resolve().parents[2]
each_feature = pytest.mark.parametrize("feature", PROBED_FEATURES, ids=lambda feature: feature.name)


@each_feature
def test_probe_passes(feature: ProbedFeature, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNE_PLAIN", raising=False)
    monkeypatch.delitem(OUTCOMES, feature.name, raising=False)
    assert feature.is_enabled()


@each_feature
def test_declaration_is_complete(feature: ProbedFeature) -> None:
    assert all(feature)
    assert re.fullmatch(r"\w+ \d+(\.\d+)+", feature.tested_with)


def test_names_are_unique() -> None:
    assert len({feature.name for feature in PROBED_FEATURES}) == len(PROBED_FEATURES)


@each_feature
def test_command_that_demonstrates_the_benefit_exists(
    feature: ProbedFeature, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = re.search(r"(python -m benchmarks\.|tune ).*", feature.benefit)
    assert command is not None
    args = shlex.split(command[0])
    if args[0] == "tune":
        monkeypatch.chdir(ROOT)
        assert tune(*args[1:]).status == 0
        return
    program = ROOT / f"{args[2].replace('.', '/')}.py"
    for option in (arg for arg in args if arg.startswith("--")):
        assert f'"{option}"' in program.read_text()
    (line,) = re.findall(r'the line "(.+?)"', feature.benefit)
    assert line in ABLATIONS


def feature_with_counted_probe(calls: list[int], *, passes: bool = True) -> ProbedFeature:
    def probe() -> bool:
        calls.append(1)
        if not passes:
            raise AttributeError("'Optimizer' object has no attribute 'x'")
        return True

    return ProbedFeature("test feature", "attrs 1.2", "nothing", "the fallback is used", probe)


@pytest.mark.parametrize("passes", [True, False])
def test_a_probe_runs_once_and_its_failure_is_logged_once(
    passes: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("TUNE_PLAIN", raising=False)
    monkeypatch.delitem(OUTCOMES, "test feature", raising=False)
    calls: list[int] = []
    feature = feature_with_counted_probe(calls, passes=passes)
    with caplog.at_level(logging.WARNING):
        assert [feature.is_enabled(), feature.is_enabled()] == [passes, passes]
    del OUTCOMES["test feature"]
    assert calls == [1]
    failure = (
        "test feature: attrs .+ behaves differently from the tested version 1.2 (AttributeError: .*); the"
        " fallback is used"
    )
    assert len(caplog.messages) == (not passes)
    assert all(
        re.fullmatch(failure.replace("(", r"\(").replace(")", r"\)"), text) for text in caplog.messages
    )


@pytest.mark.parametrize(("value", "is_enabled"), [("1", False), ("0", True), ("", True)])
def test_the_environment_variable_disables_features_without_running_their_probes(
    value: str, is_enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_PLAIN", value)
    monkeypatch.delitem(OUTCOMES, "test feature", raising=False)
    calls: list[int] = []
    assert feature_with_counted_probe(calls).is_enabled() == is_enabled
    OUTCOMES.pop("test feature", None)
    assert calls == [1] * is_enabled


CONVOLUTIONS = """
import os
os.environ["ONEDNN_VERBOSE"] = "2"
from torchtune.internals import _glibc
_glibc.CACHES = {{name: "{capacity}" for name in _glibc.CACHES}}
os.environ["GLIBC_TUNABLES"] = ""
_glibc.limit_heap_growth()
import torch
for _ in range(2):
    for width in (64, 65, 66, 67):
        torch.nn.functional.conv2d(torch.ones(4, 16, width, width), torch.ones(16, 16, 3, 3))
"""


HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONEDNN, reason="torch is built without oneDNN")
def test_onednn_cache_capacity_follows_the_environment_variable() -> None:
    hits = []
    for capacity in (1, 64):
        result = subprocess.run(
            [sys.executable, "-c", CONVOLUTIONS.format(capacity=capacity)],
            # A run in this process may have set these variables.
            env={n: v for n, v in os.environ.items() if n not in ("TUNE_PLAIN", *_glibc.CACHES)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line for line in result.stdout.splitlines() if "create:" in line and ",convolution," in line]
        assert len(lines) >= 4
        hits.append(sum("cache_hit" in line for line in lines))
    assert hits[0] == 0
    assert hits[1] >= 4


def test_code_next_to_attrs_is_not_treated_as_part_of_attrs() -> None:
    import attrs

    from torchtune.internals import _attrs

    site_packages = Path(attrs.__file__).parents[1]
    assert str(site_packages / "attr" / "_make.py").startswith(_attrs._GENERATED)
    assert str(site_packages / "attrs" / "__init__.py").startswith(_attrs._GENERATED)
    assert not str(site_packages / "configs_py" / "smollm2.py").startswith(_attrs._GENERATED)
