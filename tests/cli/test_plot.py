"""`tune plot` plots the metrics of runs and reports unreadable lines."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.synthetic_runs import Page, plotted_run, synthetic_metrics, write_run
from tests.tune import Tune
from torchtune.plots._page import page_of
from torchtune.plots._run import read_runs
from torchtune.plots._table import NO_VALUE, differing_leaves, row_of

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


@pytest.mark.slow
def test_page_contains_the_metrics_of_every_run(tmp_path: Path, tune: Tune) -> None:
    lines = {name: synthetic_metrics(60, seed=seed, validate_every=20) for seed, name in enumerate("ab")}
    runs = [str(write_run(tmp_path / name, lines[name])) for name in lines]
    result = tune("plot", *runs)
    assert result.status == 0
    assert result.out.endswith(f"wrote {tmp_path}/plot.png\nwrote {tmp_path}/plot.html\n")
    page = Page((tmp_path / "plot.html").read_text("utf-8"))
    scales = {
        "loss": 1,
        "validation_loss": 1,
        "lr": 1,
        "grad_norm": 1,
        "tokens_per_second": 1,
        "peak_memory_bytes": 2**-30,
    }
    for number, name in enumerate(lines):
        assert page.data["runs"][number]["name"] == name
        for metric, scale in scales.items():
            expected = [(line["step"], line[metric] * scale) for line in lines[name] if metric in line]
            points = page.points(number, metric)
            assert [step for step, _ in points] == [step for step, _ in expected]
            assert [value for _, value in points] == pytest.approx([v for _, v in expected], rel=1e-6)
            assert len(points) in (4, 60)


def test_runs_are_named_after_the_differing_parts_of_their_paths(tmp_path: Path) -> None:
    for name in ("x/lr1/out", "x/lr2/out", "x/lr1", "y/lr3/out"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "metrics.jsonl").touch()

    def names(*args: str) -> list[str]:
        return [run.name for run in read_runs([arg.replace("~", str(tmp_path)) for arg in args])]

    assert names("~/x/lr1/out") == ["out"]
    assert names("~/x/lr1/out", "~/x/lr2/out/metrics.jsonl") == ["lr1", "lr2"]
    assert names("~/x/lr1/out", "~/y/lr3/out") == ["x/lr1", "y/lr3"]
    assert names("~/x/lr1", "~/x/lr1/out") == ["lr1", "lr1/out"]
    assert names("small=~/x/lr1/out", "~/x/lr2/out") == ["small", "out"]
    assert names("out=~/x/lr1/out", "~/x/lr2/out") == ["out", f"{tmp_path}/x/lr2/out"]


def test_folder_name_with_an_equals_sign_is_not_split_into_a_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lr=1e-4", "1e-4", "other"):
        write_run(Path(name), synthetic_metrics(2))
    assert [(run.name, str(run.folder)) for run in read_runs(["lr=1e-4", "1e-4", "lr=2=other"])] == [
        ("lr=1e-4", "lr=1e-4"),
        ("1e-4", "1e-4"),
        ("lr=2", "other"),
    ]
    assert [(run.name, str(run.folder)) for run in read_runs(["b=lr=1e-4"])] == [("b", "lr=1e-4")]


def test_table_summarises_a_run(tmp_path: Path, tune: Tune) -> None:
    common = {"lr": 1e-4, "grad_norm": 1.0, "peak_memory_bytes": 2**30}
    lines: list[dict[str, Any]] = [
        {"step": 0, "validation_loss": 3.0},
        {"step": 1, **common, "loss": 2.5, "tokens_per_second": 10.0, "peak_memory_bytes": 2**29},
        {"step": 2, **common, "loss": None, "tokens_per_second": 4000.0},
        {"step": 2, "validation_loss": 1.25},
        {"step": 3, **common, "loss": 1.5, "tokens_per_second": 5000.0},
        {"step": 4, "validation_loss": 1.75},
    ]  # fmt: skip
    run = plotted_run(lines, record={"started": "now"}, config={"max_steps": 1200})
    assert row_of(run) == [
        "a", "3 (1 skipped)", "1.5000", "1.2500 at step 2", "4,000", "1.00 GiB", "unfinished, step 4 of 1,200",
    ]  # fmt: skip
    folder = write_run(tmp_path / "r", lines)
    out = tune("plot", str(folder)).out.splitlines()
    assert out[0].split("  ")[0] == "run"
    assert out[1].endswith("1.00 GiB  finished")


@pytest.mark.parametrize(
    ("record", "config", "lines", "state"),
    [
        ({"finished": "now"}, {}, [{"step": 3, "loss": 1.0}], "finished"),
        ({"started": "now"}, {}, [{"step": 3, "loss": 1.0}], "unfinished, step 3"),
        (
            {"started": "now"},
            {"max_steps": None, "epochs": 2, "max_steps_per_epoch": 50},
            [{"step": 3}],
            "unfinished, step 3 of at most 100",
        ),
        ({}, {}, [{"step": 3, "loss": 1.0}], "step 3"),
        ({"started": "now"}, {}, [], "no step yet"),
    ],
)
def test_run_state_is_derived_from_the_record(
    record: dict[str, Any], config: dict[str, Any], lines: list[dict[str, Any]], state: str
) -> None:
    assert row_of(plotted_run(lines, record=record, config=config))[-1] == state


@pytest.mark.slow
def test_runs_without_metrics_or_with_one_step_are_plotted(tmp_path: Path, tune: Tune) -> None:
    write_run(tmp_path / "empty", None, finished=False)
    write_run(tmp_path / "one", synthetic_metrics(1), finished=False)
    write_run(tmp_path / "skipped", synthetic_metrics(3, skipped=(1, 2, 3)), finished=False)
    for names in (["empty"], ["one"], ["skipped"], ["empty", "one", "skipped"]):
        result = tune("plot", *(str(tmp_path / name) for name in names), "-o", str(tmp_path / "p"))
        assert (result.status, result.err) == (0, "")
        page = Page((tmp_path / "p.html").read_text("utf-8"))
        assert [run["name"] for run in page.data["runs"]] == names
    assert "no step yet" in result.out
    assert "3 (3 skipped)" in result.out


def test_null_nan_and_infinite_values_are_omitted() -> None:
    lines = [
        {"step": step, "loss": value} for step, value in enumerate([1.0, math.nan, math.inf, None, 2.0], 1)
    ]
    assert Page(page_of([plotted_run(lines)], 1)).points(0, "loss") == [(1, 1.0), (5, 2.0)]


def test_unreadable_lines_are_reported(tmp_path: Path, tune: Tune) -> None:
    run = write_run(tmp_path / "run", synthetic_metrics(4))
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"step": 5, "lo')
    (run / "samples.jsonl").write_text('{"step": 1}\n')
    (run / "config.yaml").write_text("a: [")
    result = tune("plot", str(run))
    assert result.status == 0
    assert "note: run: 3 lines (5, 6, 7) of metrics.jsonl cannot be read\n" in result.err
    assert "note: run: line 1 of samples.jsonl cannot be read\n" in result.err
    assert result.err.count("note: run: ") == 3
    page = Page((run / "plot.html").read_text("utf-8"))
    assert len(page.points(0, "loss")) == 4
    assert "3 lines (5, 6, 7) of metrics.jsonl" in page.text


def test_config_differences_omit_run_folders(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [], seed=3, lr=1e-4)
    write_run(tmp_path / "b", [], seed=4, lr=1e-4, batch_size=2)
    write_run(tmp_path / "c", [], seed=4, lr=3e-4)
    c = tmp_path / "c" / "config.yaml"
    c.write_text(c.read_text().replace("log_dir: ${output_dir}", f"log_dir: {tmp_path}/c"))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "metrics.jsonl").touch()
    leaves = differing_leaves(read_runs([str(tmp_path / name) for name in "abcd"]))
    assert [(leaf.path, leaf.values) for leaf in leaves] == [
        ("batch_size", ["8", "2", "8", NO_VALUE]),
        ("optimizer.lr", ["0.0001", "0.0001", "0.0003", NO_VALUE]),
        ("seed", ["3", "4", "4", NO_VALUE]),
    ]


@pytest.mark.slow
def test_text_from_a_run_is_escaped_in_the_page(tmp_path: Path, tune: Tune) -> None:
    samples = [{"step": 5, "prompt": f"{HOSTILE}\ud800", "answer": HOSTILE}]
    run = write_run(tmp_path / "run", synthetic_metrics(3), samples=samples)
    (run / "config.yaml").write_text(f"dataset: {json.dumps(HOSTILE)}")
    other = write_run(tmp_path / "other", synthetic_metrics(3))
    assert tune("plot", f"{HOSTILE}={run}", str(other), "-o", str(tmp_path / "p")).status == 0
    page = Page((tmp_path / "p.html").read_text("utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.data["runs"][0]["name"] == HOSTILE
    assert page.text.count(HOSTILE) == 8  # title, head, three tables, leaf, prompt, answer


def test_page_loads_nothing_and_allows_only_its_own_script() -> None:
    import base64
    import hashlib

    text = page_of([plotted_run(synthetic_metrics(3))], 1)
    page = Page(text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert {"src", "href"}.isdisjoint(name for _, attributes in page.tags for name in attributes)
    (policy,) = (attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_answers_are_grouped_by_prompt_and_step(tmp_path: Path) -> None:
    samples = [
        {"step": step, "prompt": f"Prompt {p}", "answer": f"answer {p} at {step}"}
        for step in (0, 10)
        for p in "xy"
    ]
    run = write_run(tmp_path / "run", synthetic_metrics(10), samples=samples)
    page = Page(page_of(read_runs([str(run)]), 1))
    assert [tag for tag, _ in page.tags].count("details") == 2
    assert all("open" not in attributes for tag, attributes in page.tags if tag == "details")
    texts = [text for text in page.texts if re.match(r"Prompt|answer [xy]", text)]
    assert texts == [
        "Prompt x",
        "answer x at 0",
        "answer x at 10",
        "Prompt y",
        "answer y at 0",
        "answer y at 10",
    ]


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize(
    ("args", "part"),
    [
        ([], "tune: expected one or more run folders"),
        (["none"], "none does not exist; expected a run's output_dir"),
        (["x.png", "y.html"], "x.png does not exist; expected a run's output_dir"),
        (["."], "tune: . is a folder of runs; plot them with `tune plot *`"),
        (["a", "empty"], "empty is not a run's folder: it contains no metrics.jsonl"),
        (["a", "a/metrics.jsonl"], "a/metrics.jsonl and a are the same run; pass each run once"),
        (["x=a", "x=b"], "two runs have the label 'x'; use different labels"),
        (["notes.txt"], "notes.txt contains no metrics"),
        (["a", "--smooth", "0"], "--smooth: expected an integer above 0, got '0'"),
        (["a", "--smooth=x"], "--smooth: expected an integer above 0, got 'x'"),
        (["a", "-o"], "-o: expected a value"),
        (["a", "-o", "x", "--output=y"], "--output is given twice"),
        (["a", "--x", "time"], "--x: unknown option; tune plot --help lists the options"),
        (["a", "-o", "notes.txt/x.png"], "notes.txt/x.png cannot be written: "),
    ],
)
def test_invalid_arguments_exit_with_status_2_and_one_line(
    args: list[str], part: str, tmp_path: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_run(tmp_path / name, synthetic_metrics(2))
    (tmp_path / "notes.txt").write_text("hello\n")
    (tmp_path / "empty").mkdir()
    result = tune("plot", *args)
    assert (result.status, result.out) == (2, "")
    assert part in result.err
    assert result.err.removeprefix("1 mistake on the command line:\n").count("\n") == 1
    assert not list(tmp_path.rglob("plot.*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "files"),
    [
        (None, ["a/plot.html", "a/plot.png"]),
        ("out/", ["out/plot.html", "out/plot.png"]),
        ("b", ["b/plot.html", "b/plot.png"]),
        ("name.v2", ["name.v2.html", "name.v2.png"]),
        ("x.html", ["x.html"]),
    ],
)
def test_output_can_be_a_folder_a_name_or_a_file(
    output: str | None, files: list[str], tmp_path: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", synthetic_metrics(2))
    (tmp_path / "b").mkdir()
    before = set(tmp_path.rglob("*"))
    result = tune("plot", "a", *([] if output is None else ["-o", output]))
    outputs = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert sorted(str(path.relative_to(tmp_path)) for path in outputs) == files
    assert sorted(re.findall("wrote (.*)", result.out)) == files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "unneeded"), [("p", ["torch", "tyro"]), ("p.html", ["torch", "numpy", "matplotlib"])]
)
def test_plot_does_not_import_unneeded_modules(output: str, unneeded: list[str], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", synthetic_metrics(3))
    code = (
        "import sys; from torchtune.cli import main;"
        f"assert main(['plot', {str(run)!r}, '-o', {str(tmp_path / output)!r}]) == 0;"
        f"print([name for name in {[*unneeded, 'matplotlib.pyplot']} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert result.stderr == ""
