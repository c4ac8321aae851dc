"""Each benchmark starts, imports only existing names, and runs with its smallest settings."""

import ast
import importlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import data, growth, loading, process_memory
from benchmarks.fresh_process import FreshProcess, in_fresh_process, module_name
from benchmarks.training_sides.trl_side import step_lengths
from tests.tiny_run import Tiny, tiny_run

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))
BENCHMARKS = [file.stem for file in FILES if "= benchmark_parser(" in file.read_text(encoding="utf-8")]
PROJECT = ("torchtune", "recipes", "configs_py", "benchmarks")


def benchmark(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark on the command line."""
    call = [sys.executable, "-m", f"benchmarks.{name}", *args]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)


def project_imports(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the module and name of everything that a file imports from this project."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PROJECT:
            yield from ((str(node.module), alias.name) for alias in node.names)


def test_every_benchmark_has_a_test() -> None:
    programs = {file.stem for file in FILES if file.parent.name == "benchmarks"}
    assert programs - set(BENCHMARKS) == {"__init__", "command_line", "fresh_process", "process_memory"}
    assert set(BENCHMARKS) == {*SMALLEST, "config"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_shows_the_docstring_and_the_command(name: str) -> None:
    result = benchmark(name, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    docstring = importlib.import_module(f"benchmarks.{name}").__doc__
    assert docstring is not None
    assert docstring.strip() in result.stdout
    assert f"python -m benchmarks.{name} " in docstring


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imported_names_exist(file: Path) -> None:
    for module, name in project_imports(file):
        package = importlib.import_module(module)
        assert hasattr(package, name) or find_spec(f"{module}.{name}"), f"{module}.{name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_string_contains_python_code(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert not [text for text in texts if isinstance(text, str) and "\nimport " in text]


def test_in_fresh_process_calls_a_function_in_a_new_interpreter() -> None:
    assert in_fresh_process(growth.exponent, 9.0, smaller=1.0, factor=3.0).strip() == "2.00"
    assert in_fresh_process(process_memory.peak_bytes) < process_memory.peak_bytes() / 2  # without torch
    logged = FreshProcess(options=("-X", "importtime")).call(process_memory.resident_bytes)
    assert logged.stderr.startswith("import time:")


def test_failing_call_exits_with_the_error_message() -> None:
    with pytest.raises(SystemExit, match=r"(?s)benchmarks\.growth\.exponent failed:.*ValueError"):
        in_fresh_process(growth.exponent, 1.0, 1.0, factor=0.0)


def test_module_name_of_a_function_is_importable() -> None:
    assert module_name(growth.take_steps) == "benchmarks.growth"


def test_growth_measures_steps_and_batches() -> None:
    steps = growth.take_steps(length=4, batch_size=2, vocab_size=16)
    assert steps["seconds"] > 0
    first_batch = growth.build_first_batch(100)
    assert first_batch["seconds"] > 0


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponent_of_a_power_law_is_its_power(power: float) -> None:
    assert float(growth.exponent(3.0 * 4**power, 3.0, 4)) == power
    assert growth.exponent(0, 3.0, 4).strip() == "-"


def test_trl_step_lengths_exclude_the_last_token_of_each_example() -> None:
    assert step_lengths([[3], [4, 5], [6]], batch_size=2) == [[2, 3, 4], [5]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Return a tiny model and rows."""
    from torchtune.cli import main

    return tiny_run(tmp_path_factory.mktemp("tiny"), lambda *args: main(list(args)))


def test_loading_measures_torchtune_and_transformers(tiny: Tiny) -> None:
    folder = str(tiny.folder / "model")
    measurement, peer = loading.load(folder), loading.load_with_transformers(folder)
    assert measurement["size"] == peer["size"] > 0


@pytest.mark.parametrize("is_packed", [True, False])
def test_data_measures_torchtunes_batches(is_packed: bool, tiny: Tiny) -> None:
    file = tiny.folder / "synthetic.jsonl"
    data.write_rows(file, 20)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 20
    result = data.build_batches(
        str(file), str(tiny.folder / "model"), is_packed=is_packed, workers=0, seconds=60.0
    )
    assert 0 < result["useful"] <= 1
    assert 0 < result["tokens_per_second"] < math.inf


SMALLEST: dict[str, Callable[[Tiny], list[str]]] = {
    "conversations": lambda tiny: [str(tiny.folder / "model"), "1", "2", "--runs=1"],
    "data": lambda tiny: [str(tiny.folder / "model"), "20", "--seconds=0.2", "--no-trl"],
    "first_step": lambda tiny: [*model_and_rows(tiny), "--repeats=1"],
    "growth": lambda tiny: [
        "--first=1",
        f"--tokenizer={tiny.folder / 'model'}",
        "--settings",
        "length",
        "rows",
        "ranks, replicated",
    ],
    "layer_traffic": lambda _: ["--tokens=64"],
    "loading": lambda tiny: [str(tiny.folder / "model"), "--layers=0", "--runs=1"],
    "startup": lambda _: ["--runs=1"],
    "training": lambda tiny: [
        *model_and_rows(tiny),
        "--no-trl",
        "--steps=5",
        "--repeats=1",
        "--cases",
        "lora bf16",
        "lora fp32, same batches",
    ],
}
"""The arguments of the shortest possible run of each benchmark."""


def model_and_rows(tiny: Tiny) -> list[str]:
    rows = tiny.folder / "many.jsonl"
    data.write_rows(rows, 80)
    return [str(tiny.folder / "model"), str(rows)]


@pytest.mark.slow
def test_too_few_rows_for_the_steps_are_rejected_with_a_fix(tiny: Tiny) -> None:
    result = benchmark("training", str(tiny.folder / "model"), str(tiny.folder / "rows.json"), "--no-trl")
    assert result.returncode == 1
    assert "12 rows, but 12 steps need 192; pass a file with more rows, or lower --steps" in result.stderr
    assert "Traceback" not in result.stderr


def test_too_few_steps_are_rejected() -> None:
    result = benchmark("training", "model", "rows.json", "--no-trl", "--steps=4")
    assert result.returncode == 2
    assert "--steps must be at least 5" in result.stderr


def test_chart_requires_both_libraries() -> None:
    result = benchmark("training", "model", "rows.json", "--no-trl", "--chart=bars.svg")
    assert result.returncode == 2
    assert "--chart compares both libraries" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_benchmark_runs_with_its_smallest_settings(name: str, tiny: Tiny) -> None:
    result = benchmark(name, *SMALLEST[name](tiny))
    exceeded_bound = 1  # times depend on the machine; tests do not check them
    assert result.returncode in {0, exceeded_bound * (name in {"loading", "startup"})}, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout
