"""Uses of other libraries' internals: each has a complete declaration and a passing probe, and can be disabled."""

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
from torchtune.internals import INTERNALS, OUTCOMES, Internal, _glibc

ROOT = Path(__file__).resolve().parents[2]
each = pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: internal.name)


@each
def test_probe_passes(internal: Internal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNE_PLAIN", raising=False)
    monkeypatch.delitem(OUTCOMES, internal.name, raising=False)
    assert internal.is_enabled()


@each
def test_declaration_is_complete(internal: Internal) -> None:
    assert all(internal)
    assert re.fullmatch(r"\w+ \d+(\.\d+)+", internal.written_for)


def test_names_are_unique() -> None:
    assert len({internal.name for internal in INTERNALS}) == len(INTERNALS)


@each
def test_command_that_measures_the_gain_exists(
    internal: Internal, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = re.search(r"(python -m benchmarks\.|tune ).*", internal.gain)
    assert command is not None
    words = shlex.split(command[0])
    if words[0] == "tune":
        monkeypatch.chdir(ROOT)
        assert tune(*words[1:]).status == 0
        return
    program = ROOT / f"{words[2].replace('.', '/')}.py"
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in program.read_text()
    (line,) = re.findall(r'the line "(.+?)"', internal.gain)
    assert line in ABLATIONS


def internal_counting(calls: list[int], *, passes: bool = True) -> Internal:
    def probe() -> bool:
        calls.append(1)
        if not passes:
            raise AttributeError("'Optimizer' object has no attribute 'x'")
        return True

    return Internal("made for a test", "attrs 1.2", "nothing", "the plain way is used", probe)


@pytest.mark.parametrize("passes", [True, False])
def test_a_probe_runs_once_and_its_failure_is_logged_once(
    passes: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("TUNE_PLAIN", raising=False)
    monkeypatch.delitem(OUTCOMES, "made for a test", raising=False)
    calls: list[int] = []
    internal = internal_counting(calls, passes=passes)
    with caplog.at_level(logging.WARNING):
        assert [internal.is_enabled(), internal.is_enabled()] == [passes, passes]
    del OUTCOMES["made for a test"]
    assert calls == [1]
    failure = (
        "made for a test: attrs .+ behaves differently from the tested version 1.2 (AttributeError: .*); the plain way"
        " is used"
    )
    assert len(caplog.messages) == (not passes)
    assert all(
        re.fullmatch(failure.replace("(", r"\(").replace(")", r"\)"), text) for text in caplog.messages
    )


@pytest.mark.parametrize(("value", "is_on"), [("1", False), ("0", True), ("", True)])
def test_the_environment_variable_disables_internals_without_a_probe(
    value: str, is_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_PLAIN", value)
    monkeypatch.delitem(OUTCOMES, "made for a test", raising=False)
    calls: list[int] = []
    assert internal_counting(calls).is_enabled() == is_on
    OUTCOMES.pop("made for a test", None)
    assert calls == [1] * is_on


CACHED = """
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


@pytest.mark.skipif(not HAS_ONEDNN, reason="torch is built without oneDNN")
def test_onednn_cache_capacity_follows_the_environment_variable() -> None:
    hits = []
    for capacity in (1, 64):
        result = subprocess.run(
            [sys.executable, "-c", CACHED.format(capacity=capacity)],
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
