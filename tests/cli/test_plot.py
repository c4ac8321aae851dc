"""`tune plot` draws what the metrics hold, and says what of a run it cannot read."""

import io
import itertools
import json
import math
import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.made_runs import made_metrics, write_run
from tests.tune import Tune
from torchtune.cli._plot_curves import Column, curve_of, smoothed, thinned, usual_smoothing
from torchtune.cli._plot_image import image_of, tick
from torchtune.cli._plot_page import page_of
from torchtune.cli._plot_run import PlottedRun, Sample, read_runs
from torchtune.cli._plot_table import NOTHING, leaves_that_differ, row_of
from torchtune.utils.metric_logging import RunMetrics

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


class Page(HTMLParser):
    """Collects a page's elements, its text, and the JSON that its script draws."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._data: list[str] = []
        self._is_data = False
        self.feed(text)
        self.close()
        self.data: dict[str, Any] = json.loads("".join(self._data))
        self.text = "\n".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._is_data = tag == "script" and dict(attrs).get("id") == "data"

    def handle_data(self, data: str) -> None:
        (self._data if self._is_data else self.texts).append(data)
        self._is_data = False

    def points(self, run: int, metric: str) -> list[tuple[int, float]]:
        return [(step, value) for step, value in self.data["runs"][run]["curves"][metric]["points"]]


def a_run(lines: list[dict[str, Any]], name: str = "a", **more: Any) -> PlottedRun:
    parts = {"config": {}, "record": {}, "samples": [], "notes": []} | more
    return PlottedRun(name, Path(), RunMetrics(lines, []), **parts)


def test_page_holds_the_metrics_of_every_run(tmp_path: Path, tune: Tune) -> None:
    lines = {name: made_metrics(60, seed=seed, every=20) for seed, name in enumerate("ab")}
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
            drawn = page.points(number, metric)
            assert [step for step, _ in drawn] == [step for step, _ in expected]
            assert [value for _, value in drawn] == pytest.approx([v for _, v in expected], rel=1e-6)
            assert len(drawn) in (4, 60)


def test_picture_has_its_size_and_is_not_blank(tmp_path: Path, tune: Tune) -> None:
    from PIL import Image

    run = write_run(tmp_path / "run", made_metrics(30, every=10))
    assert tune("plot", str(run), "-o", str(tmp_path / "new" / "a.png")).status == 0
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.size == (1600, 1000)
        counts = image.convert("RGB").getcolors(2**24)
    assert counts is not None
    colours = {colour: count for count, colour in counts}
    assert colours[0x00, 0x72, 0xB2] > 500  # the curve's blue
    assert colours[255, 255, 255] > 800_000
    assert not (tmp_path / "new" / "a.html").exists()


@pytest.mark.parametrize("n_runs", [5, 20, 45])
def test_many_runs_are_told_apart_by_colour_and_dash(n_runs: int) -> None:
    from PIL import Image

    runs = [a_run(made_metrics(12, seed=seed), f"run-{seed}") for seed in range(n_runs)]
    drawn = Page(page_of(runs, 1)).data["runs"]
    assert len({(run["colour"], run["dash"]) for run in drawn}) == min(n_runs, 24)
    assert [run["dash"] for run in drawn[:6]] == ["none"] * min(n_runs, 6)
    with Image.open(io.BytesIO(image_of(runs, 1))) as image:
        assert image.size[0] == 1600
        assert image.size[1] >= 1000


def test_names_are_what_tells_paths_apart(tmp_path: Path) -> None:
    for name in ("x/lr1/out", "x/lr2/out", "x/lr1", "y/lr3/out"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "metrics.jsonl").touch()

    def names(*words: str) -> list[str]:
        return [run.name for run in read_runs([word.replace("~", str(tmp_path)) for word in words])]

    assert names("~/x/lr1/out") == ["out"]
    assert names("~/x/lr1/out", "~/x/lr2/out/metrics.jsonl") == ["lr1", "lr2"]
    assert names("~/x/lr1/out", "~/y/lr3/out") == ["x/lr1", "y/lr3"]
    assert names("~/x/lr1", "~/x/lr1/out") == ["lr1", "lr1/out"]
    assert names("small=~/x/lr1/out", "~/x/lr2/out") == ["small", "out"]
    assert names("out=~/x/lr1/out", "~/x/lr2/out") == ["out", f"{tmp_path}/x/lr2/out"]


def test_folder_with_an_equals_sign_has_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lr=1e-4", "1e-4", "other"):
        write_run(Path(name), made_metrics(2))
    assert [(run.name, str(run.folder)) for run in read_runs(["lr=1e-4", "1e-4", "lr=2=other"])] == [
        ("lr=1e-4", "lr=1e-4"),
        ("1e-4", "1e-4"),
        ("lr=2", "other"),
    ]
    assert [(run.name, str(run.folder)) for run in read_runs(["b=lr=1e-4"])] == [("b", "lr=1e-4")]


def test_pictures_that_a_glob_finds_are_passed_over(tmp_path: Path, tune: Tune) -> None:
    for name in "ab":
        write_run(tmp_path / name, made_metrics(5))
    for _ in range(2):
        result = tune("plot", *map(str, sorted(tmp_path.iterdir())))
        assert result.status == 0, result.err
        assert [line.split()[0] for line in result.out.splitlines()[1:3]] == ["a", "b"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "plot.html", "plot.png"}


def test_table_sums_a_run_up(tmp_path: Path, tune: Tune) -> None:
    rest = {"lr": 1e-4, "grad_norm": 1.0, "peak_memory_bytes": 2**30}
    lines: list[dict[str, Any]] = [
        {"step": 0, "validation_loss": 3.0},
        {"step": 1, **rest, "loss": 2.5, "tokens_per_second": 10.0, "peak_memory_bytes": 2**29},
        {"step": 2, **rest, "loss": None, "tokens_per_second": 4000.0},
        {"step": 2, "validation_loss": 1.25},
        {"step": 3, **rest, "loss": 1.5, "tokens_per_second": 5000.0},
        {"step": 4, "validation_loss": 1.75},
    ]  # fmt: skip
    run = a_run(lines, record={"started": "now"}, config={"max_steps": 1200})
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
def test_state_is_what_the_record_tells(
    record: dict[str, Any], config: dict[str, Any], lines: list[dict[str, Any]], state: str
) -> None:
    assert row_of(a_run(lines, record=record, config=config))[-1] == state


def test_runs_with_little_to_draw_are_drawn(tmp_path: Path, tune: Tune) -> None:
    write_run(tmp_path / "empty", None, finished=False)
    write_run(tmp_path / "one", made_metrics(1), finished=False)
    write_run(tmp_path / "skipped", made_metrics(3, skipped=(1, 2, 3)), finished=False)
    for names in (["empty"], ["one"], ["skipped"], ["empty", "one", "skipped"]):
        result = tune("plot", *(str(tmp_path / name) for name in names), "-o", str(tmp_path / "p"))
        assert (result.status, result.err) == (0, "")
        page = Page((tmp_path / "p.html").read_text("utf-8"))
        assert [run["name"] for run in page.data["runs"]] == names
    assert "no step yet" in result.out
    assert "3 (3 skipped)" in result.out


def test_values_that_are_no_numbers_are_left_out() -> None:
    lines = [
        {"step": step, "loss": value} for step, value in enumerate([1.0, math.nan, math.inf, None, 2.0], 1)
    ]
    assert Page(page_of([a_run(lines)], 1)).points(0, "loss") == [(1, 1.0), (5, 2.0)]


def test_broken_lines_are_counted_and_told(tmp_path: Path, tune: Tune) -> None:
    run = write_run(tmp_path / "run", made_metrics(4))
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


def test_differences_are_leaf_by_run_without_the_runs_own_folders(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [], seed=3, lr=1e-4)
    write_run(tmp_path / "b", [], seed=4, lr=1e-4, batch_size=2)
    write_run(tmp_path / "c", [], seed=4, lr=3e-4)
    c = tmp_path / "c" / "config.yaml"
    c.write_text(c.read_text().replace("log_dir: ${output_dir}", f"log_dir: {tmp_path}/c"))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "metrics.jsonl").touch()
    leaves = leaves_that_differ(read_runs([str(tmp_path / name) for name in "abcd"]))
    assert [(leaf.path, leaf.values) for leaf in leaves] == [
        ("batch_size", ["8", "2", "8", NOTHING]),
        ("optimizer.lr", ["0.0001", "0.0001", "0.0003", NOTHING]),
        ("seed", ["3", "4", "4", NOTHING]),
    ]


def test_texts_of_a_run_are_no_markup(tmp_path: Path, tune: Tune) -> None:
    samples = [{"step": 5, "prompt": f"{HOSTILE}\ud800", "answer": HOSTILE}]
    run = write_run(tmp_path / "run", made_metrics(3), samples=samples)
    (run / "config.yaml").write_text(f"dataset: {json.dumps(HOSTILE)}")
    other = write_run(tmp_path / "other", made_metrics(3))
    assert (
        tune("plot", f"{HOSTILE.replace('/', '|')}={run}", str(other), "-o", str(tmp_path / "p")).status == 0
    )
    page = Page((tmp_path / "p.html").read_text("utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.data["runs"][0]["name"] == HOSTILE.replace("/", "|")
    assert page.text.count(HOSTILE) == 3  # the prompt, the answer and the config's leaf


def test_page_asks_for_nothing_and_runs_no_script_but_its_own() -> None:
    import base64
    import hashlib

    text = page_of([a_run(made_metrics(3))], 1)
    page = Page(text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert {"src", "href"}.isdisjoint(name for _, attributes in page.tags for name in attributes)
    (policy,) = (attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_answers_are_shown_by_prompt_and_step(tmp_path: Path) -> None:
    samples = [
        {"step": step, "prompt": f"Prompt {p}", "answer": f"answer {p} at {step}"}
        for step in (0, 10)
        for p in "xy"
    ]
    run = write_run(tmp_path / "run", made_metrics(10), samples=samples)
    page = Page(page_of(read_runs([str(run)]), 1))
    assert [tag for tag, _ in page.tags].count("details") == 2
    assert all("open" not in attributes for tag, attributes in page.tags if tag == "details")
    found = [text for text in page.texts if re.match(r"Prompt|answer [xy]", text)]
    assert found == [
        "Prompt x",
        "answer x at 0",
        "answer x at 10",
        "Prompt y",
        "answer y at 0",
        "answer y at 10",
    ]


def test_long_runs_make_a_small_page_that_keeps_the_spikes() -> None:
    lines = [{"step": s, "loss": 2.0 + s % 7, "lr": 1e-4, "grad_norm": 1.0 + s % 5} for s in range(1, 30_001)]
    lines[12_345]["grad_norm"] = 1e6
    lines[23_456]["loss"] = 0.25
    answers = [Sample(s, f"p{p}", "word " * 400) for s in range(0, 3000, 10) for p in range(4)]
    runs = [a_run(lines, f"r{i}", samples=answers) for i in range(4)]
    text = page_of(runs, 1201)
    assert len(text.encode()) < 2_000_000
    page = Page(text)
    assert (12_346, 1e6) in page.points(3, "grad_norm")
    assert (23_457, 0.25) in page.points(0, "loss")
    assert page.data["panels"][2]["log"]
    assert "validations; samples.jsonl has all" in page.text


def a_series(draw: Any) -> list[tuple[int, float]]:
    steps = sorted(draw(st.sets(st.integers(0, 400), min_size=1, max_size=120)))
    return [(step, draw(st.floats(-1e300, 1e300))) for step in steps]


@given(st.data(), st.integers(1, 30))
def test_thinned_points_keep_each_columns_extremes_and_both_ends(data: st.DataObject, n_columns: int) -> None:
    series = a_series(data.draw)
    kept = thinned(series, n_columns)
    assert set(kept) <= set(series)
    assert kept == sorted(kept)
    assert len(kept) <= 2 * n_columns + 2
    assert {series[0], series[-1]} <= set(kept)
    first, width = series[0][0], (series[-1][0] - series[0][0] + 1) / n_columns
    values = dict(series)
    kept_values = dict(kept)
    for _, column in itertools.groupby(values, key=lambda step: int((step - first) / width)):
        steps = list(column)
        there = [kept_values[step] for step in steps if step in kept_values]
        assert min(there) == min(values[step] for step in steps)
        assert max(there) == max(values[step] for step in steps)


@given(st.data(), st.integers(1, 60))
def test_smoothed_curve_is_the_weighted_mean_around_each_step(data: st.DataObject, n_steps: int) -> None:
    series = [(step, value / 1e298) for step, value in a_series(data.draw)]
    half = n_steps // 2
    for step, mean in smoothed([Column(s, v, 1) for s, v in series], n_steps):
        near = [(half + 1 - abs(s - step), v) for s, v in series if abs(s - step) <= half]
        expected = sum(w * v for w, v in near) / sum(w for w, _ in near)
        assert mean == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_columns_of_a_long_curve_have_its_means() -> None:
    series = [(step, float(step**2 % 97)) for step in range(1, 1001)]
    columns = curve_of(series, 2.0, 10).columns
    assert [column.count for column in columns] == [100] * 10
    assert [c.step for c in columns][:2] == [50.5, 150.5]
    assert sum(c.mean * c.count for c in columns) == pytest.approx(2 * sum(value for _, value in series))


def test_usual_smoothing_is_odd_and_none_for_a_short_run() -> None:
    windows = [usual_smoothing([a_run([{"step": n}])]) for n in range(1, 300)]
    assert all(window % 2 for window in windows)
    assert windows[0] == windows[20] == 1
    assert max(windows) == 11


def test_numbers_at_an_axis_are_short() -> None:
    assert [tick(v) for v in (0, 0.1 + 0.2, 6000, 2e-5, -2.5e-7, 3e7)] == [
        "0",
        "0.3",
        "6,000",
        "2e-5",
        "-2.5e-7",
        "3e7",
    ]


def test_names_in_any_script_are_drawn_without_a_warning() -> None:
    runs = [a_run(made_metrics(3), name) for name in ("模型", "$x_1$", "a\u0301\U0001f600", "\u0627\u0644")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_of(runs, 3)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "tune plot takes a run's folder, or several"),
        (["none"], "none: no such folder; name a run's output_dir"),
        (["."], ". is no run's folder: there is no metrics.jsonl in it"),
        (["a", "a/metrics.jsonl"], "a/metrics.jsonl and a are the same run; name each run once"),
        (["x=a", "x=b"], "two runs are labelled 'x'; give each another label"),
        (["notes.txt"], "notes.txt: no line of it holds metrics"),
        (["a", "--smooth", "0"], "--smooth: expected a number of steps above 0, got '0'"),
        (["a", "--smooth=x"], "--smooth: expected a number of steps above 0, got 'x'"),
        (["a", "-o"], "-o needs a value"),
        (["a", "-o", "x", "--output=y"], "--output is given twice"),
        (["a", "--x", "time"], "'--x' is not understood"),
        (["a", "-o", "notes.txt/x.png"], "notes.txt/x.png cannot be written: "),
    ],
)
def test_wrong_words_end_with_status_2_and_one_line(
    words: list[str], part: str, tmp_path: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_run(tmp_path / name, made_metrics(2))
    (tmp_path / "notes.txt").write_text("hello\n")
    result = tune("plot", *words)
    assert (result.status, result.out) == (2, "")
    assert part in result.err
    assert result.err.count("\n") == 1
    assert not list(tmp_path.rglob("plot.*"))


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
def test_output_is_a_folder_a_name_or_a_file(
    output: str | None, files: list[str], tmp_path: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", made_metrics(2))
    (tmp_path / "b").mkdir()
    before = set(tmp_path.rglob("*"))
    result = tune("plot", "a", *([] if output is None else ["-o", output]))
    written = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert sorted(str(path.relative_to(tmp_path)) for path in written) == files
    assert sorted(re.findall("wrote (.*)", result.out)) == files


@pytest.mark.parametrize(
    ("output", "without"), [("p", ["torch", "tyro"]), ("p.html", ["torch", "numpy", "matplotlib"])]
)
def test_plot_loads_nothing_that_it_does_not_need(output: str, without: list[str], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", made_metrics(3))
    code = (
        "import sys; from torchtune.cli import main;"
        f"assert main(['plot', {str(run)!r}, '-o', {str(tmp_path / output)!r}]) == 0;"
        f"print([name for name in {[*without, 'matplotlib.pyplot']} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""
