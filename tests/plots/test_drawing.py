"""`tune plot` draws curves from few points without losing spikes, and draws images of any values."""

import io
import itertools
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.synthetic_runs import Page, plotted_run, synthetic_metrics, write_run
from tests.tune import Tune
from torchtune.plots._curves import Column, curve_of, default_smoothing, moving_average
from torchtune.plots._image import PANEL_HEIGHT, image_of, tick_label
from torchtune.plots._page import page_of
from torchtune.plots._run import Sample


def test_image_has_the_documented_size_and_is_not_blank(tmp_path: Path, tune: Tune) -> None:
    from PIL import Image

    run = write_run(tmp_path / "run", synthetic_metrics(30, validate_every=10))
    assert tune("plot", str(run), "-o", str(tmp_path / "new" / "a.png")).status == 0
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.size == (1600, 1000)
        counts = image.convert("RGB").getcolors(2**24)
    assert counts is not None
    colours = {colour: count for count, colour in counts}
    assert colours[0x00, 0x72, 0xB2] > 500  # the blue of the curve
    assert colours[255, 255, 255] > 800_000
    assert not (tmp_path / "new" / "a.html").exists()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("n_runs", [5, 20, 45])
def test_many_runs_differ_in_colour_or_dash(n_runs: int) -> None:
    from PIL import Image

    runs = [plotted_run(synthetic_metrics(12, seed=seed), f"run-{seed}") for seed in range(n_runs)]
    plotted_runs = Page(page_of(runs, 1)).data["runs"]
    assert len({(run["colour"], run["dash"]) for run in plotted_runs}) == min(n_runs, 24)
    assert [run["dash"] for run in plotted_runs[:6]] == ["none"] * min(n_runs, 6)
    with Image.open(io.BytesIO(image_of(runs, 1))) as image:
        assert image.size[0] == 1600
        assert image.size[1] >= 1000


def test_images_matched_by_a_glob_are_skipped(tmp_path: Path, tune: Tune) -> None:
    for name in "ab":
        write_run(tmp_path / name, synthetic_metrics(5))
    for _ in range(2):
        result = tune("plot", *map(str, sorted(tmp_path.iterdir())))
        assert result.status == 0, result.err
        assert [line.split()[0] for line in result.out.splitlines()[1:3]] == ["a", "b"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "plot.html", "plot.png"}


@pytest.mark.slow
def test_page_of_long_runs_is_small_and_keeps_spikes() -> None:
    lines = [{"step": s, "loss": 2.0 + s % 7, "lr": 1e-4, "grad_norm": 1.0 + s % 5} for s in range(1, 30_001)]
    lines[12_345]["grad_norm"] = 1e6
    lines[23_456]["loss"] = 0.25
    answers = [Sample(s, f"p{p}", "word " * 400) for s in range(0, 3000, 10) for p in range(4)]
    runs = [plotted_run(lines, f"r{i}", samples=answers) for i in range(4)]
    text = page_of(runs, 1201)
    assert len(text.encode()) < 2_000_000
    page = Page(text)
    assert (12_346, 1e6) in page.points(3, "grad_norm")
    assert (23_457, 0.25) in page.points(0, "loss")
    assert page.data["panels"][2]["log"]
    assert "validations; samples.jsonl contains all" in page.text


def draw_series(draw: Any) -> list[tuple[int, float]]:
    steps = sorted(draw(st.sets(st.integers(0, 400), min_size=1, max_size=120)))
    return [(step, draw(st.floats(-1e30, 1e30).map(lambda value: round(value, 9)))) for step in steps]


@given(st.data(), st.integers(1, 30))
def test_reduced_points_keep_each_columns_extremes_and_both_ends(data: st.DataObject, n_columns: int) -> None:
    series = draw_series(data.draw)
    reduced = curve_of(series, 1.0, n_columns).points
    assert set(reduced) <= set(series)
    assert reduced == sorted(reduced)
    assert len(reduced) <= 2 * n_columns + 2
    assert {series[0], series[-1]} <= set(reduced)
    first, width = series[0][0], (series[-1][0] - series[0][0] + 1) / n_columns
    values = dict(series)
    reduced_values = dict(reduced)
    for _, column in itertools.groupby(values, key=lambda step: int((step - first) / width)):
        steps = list(column)
        column_values = [reduced_values[step] for step in steps if step in reduced_values]
        assert min(column_values) == min(values[step] for step in steps)
        assert max(column_values) == max(values[step] for step in steps)


@given(st.data(), st.integers(1, 60))
def test_smoothed_curve_is_the_weighted_mean_around_each_step(data: st.DataObject, n_steps: int) -> None:
    series = [(step, value / 1e28) for step, value in draw_series(data.draw)]
    half = n_steps // 2
    for step, mean in moving_average([Column(s, v, 1) for s, v in series], n_steps):
        weighted = [(half + 1 - abs(s - step), v) for s, v in series if abs(s - step) <= half]
        expected = sum(w * v for w, v in weighted) / sum(w for w, _ in weighted)
        assert mean == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_columns_of_a_long_curve_contain_the_means() -> None:
    series = [(step, float(step**2 % 97)) for step in range(1, 1001)]
    columns = curve_of(series, 2.0, 10).columns
    assert [column.count for column in columns] == [100] * 10
    assert [c.step for c in columns][:2] == [50.5, 150.5]
    assert sum(c.mean * c.count for c in columns) == pytest.approx(2 * sum(value for _, value in series))


def test_default_smoothing_is_odd_and_grows_with_the_run() -> None:
    windows = [default_smoothing([plotted_run([{"step": n}])]) for n in range(1, 2000)]
    assert all(window % 2 for window in windows)
    assert windows == sorted(windows)
    assert [windows[n - 1] for n in (1, 9, 30, 75, 300, 1000)] == [1, 1, 7, 15, 15, 41]


def test_axis_labels_are_short() -> None:
    assert [tick_label(v) for v in (0, 0.1 + 0.2, 6000, 2e-5, -2.5e-7, 3e7)] == [
        "0",
        "0.3",
        "6,000",
        "2e-5",
        "-2.5e-7",
        "3e7",
    ]


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    ("first", "second"), [(1e308, -1e308), (1e308, 5e-324), (1e-300, 10**30), (5e-324, 0.0), (-1e300, -1e300)]
)
def test_extreme_floats_are_drawn_without_a_warning(first: float, second: float) -> None:
    steps = enumerate((first, second), start=1)
    lines = [{"step": step, "loss": value, "grad_norm": abs(value)} for step, value in steps]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_of([plotted_run(lines)], 3)
    assert len(Page(page_of([plotted_run(lines)], 3)).points(0, "loss")) == 2


def test_names_in_any_script_are_drawn_without_a_warning() -> None:
    runs = [
        plotted_run(synthetic_metrics(3), name)
        for name in ("模型", "$x_1$", "a\u0301\U0001f600", "\u0627\u0644")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_of(runs, 3)


def test_recipe_specific_metrics_have_separate_panels() -> None:
    from PIL import Image

    lines = synthetic_metrics(30, validate_every=10)
    for line in lines:
        is_step = "loss" in line
        line.update({"accuracy": 0.5, "reward": line["step"]} if is_step else {"validation_accuracy": 0.25})
    recipe = plotted_run(lines, "recipe")
    page = Page(page_of([plotted_run(synthetic_metrics(30), "plain"), recipe], 1))
    others = [panel for panel in page.data["panels"] if panel["title"] == panel["metric"]]
    assert [panel["metric"] for panel in others] == ["accuracy", "reward"]
    assert page.points(1, "reward") == [(step, step) for step in range(1, 31)]
    assert page.points(1, "validation_accuracy") == [(step, 0.25) for step in (0, 10, 20, 30)]
    assert page.points(0, "reward") == []
    heights = []
    for runs in ([plotted_run(synthetic_metrics(30))], [recipe]):
        with Image.open(io.BytesIO(image_of(runs, 1))) as image:
            heights.append(image.size[1])
    assert heights == [1000, 1000 + PANEL_HEIGHT]


@pytest.mark.slow
def test_browser_draws_every_point_and_smooths_like_the_image(tmp_path: Path) -> None:
    """Compare the SVG paths that the script draws with the metrics; the scale is inferred from the raw points."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium is installed on this machine")
    runs = [plotted_run(synthetic_metrics(60, seed=seed, validate_every=20), f"r{seed}") for seed in range(2)]
    (tmp_path / "p.html").write_text(page_of(runs, 9), "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    call = [browser, *options, "--virtual-time-budget=3000", "--dump-dom", f"file://{tmp_path}/p.html"]
    text = subprocess.run(call, capture_output=True, text=True, check=True, timeout=120).stdout
    page = Page(text)
    assert [attributes["class"] for tag, attributes in page.tags if tag == "button"] == ["run", "run"]
    loss = text.partition("<figure")[2].partition("</figure>")[0]
    paths = re.findall(r'<path class="([^"]*)" d="([^"]*)"', loss)
    assert [kind for kind, _ in paths] == ["curve raw"] * 2 + ["curve"] * 2 + ["curve between"] * 2
    # The odd paths belong to the first run, which is drawn on top.
    raw, curve, markers = (_coordinates(paths[i][1]) for i in (1, 3, 5))
    series = runs[0].metrics.series("loss")
    low, high = (pick(range(60), key=lambda i: series[i][1]) for pick in (min, max))
    unit = (series[high][1] - series[low][1]) / (raw[high][1] - raw[low][1])

    def values(points: list[tuple[float, float]]) -> list[float]:
        return [series[low][1] + (y - raw[low][1]) * unit for _, y in points]

    approx = pytest.approx  # coordinates in a path are rounded to a tenth of a pixel
    assert values(raw) == approx([value for _, value in series], abs=0.2 * abs(unit))
    means = moving_average(curve_of(series, 1.0, 1000).columns, 9)
    assert values(curve) == approx([value for _, value in means], abs=0.2 * abs(unit))
    validations = runs[0].metrics.series("validation_loss")
    assert values(markers) == approx([value for _, value in validations], abs=0.2 * abs(unit))
    assert [x for x, _ in curve] == [x for x, _ in raw]


def _coordinates(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+?) ([^ML]+)", path)]
