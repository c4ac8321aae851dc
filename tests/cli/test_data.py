"""`tune data` shows the data that a run reads, and warns about likely errors in the data."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_run import ROWS, Tiny, tiny_run
from tests.tune import Tune

CALL = ("data", "lora_finetune", "--config", "smollm2_135m_lora")


@pytest.fixture
def tiny(tune: Tune, tmp_path: Path) -> Tiny:
    return tiny_run(tmp_path, lambda *args: tune(*args).status)


def show_data(tune: Tune, tiny: Tiny, *args: str) -> Any:
    return tune(*CALL, *tiny.overrides, f"dataset.source={tiny.folder / 'rows.json'}", "seed=1", *args)


def test_rows_are_shown_with_their_targets_and_statistics(tune: Tune, tiny: Tiny) -> None:
    result = show_data(tune, tiny, "shuffle=false", "--rows", "1")
    assert result.status == 0, result.err
    row, statistics = result.out.split("\n\n«target» · context\n\n")
    head, *lines = row.splitlines()
    assert head.startswith("row 1: ")
    assert head.endswith(" tokens")
    text = "\n".join(lines).replace("|", "").replace("⏎", "")
    assert text.endswith(f"«{ROWS[0]['output']}<im_end>»")
    facts = dict(line.split(None, 1) for line in statistics.splitlines())
    assert facts["rows"] == f"{len(ROWS)}"
    assert {"tokens", "targets", "length", "padding", "lengths"} <= facts.keys()
    assert "warning:" not in statistics


def test_packed_rows_show_each_example(tune: Tune, tiny: Tiny) -> None:
    result = show_data(tune, tiny, "loading.packing.length=200", "--rows", "1")
    assert "row 1, example 1 of " in result.out
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORCE_COLOR", "1")
        assert "\x1b[1;32m" in show_data(tune, tiny).out


def test_held_out_rows_in_the_training_data_are_reported(tune: Tune, tiny: Tiny) -> None:
    held_out = tiny.folder / "held_out.jsonl"
    rows = [{**ROWS[0], "instruction": "Of what?"}, ROWS[3], {**ROWS[4], "output": "Who knows?"}]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = show_data(tune, tiny, "--held-out", str(held_out))
    assert (
        "held out   3 rows; 1 also in the training data, 1 with the prompt of a training example but a different answer"
        in result.out
    )
    assert (
        f"1 of 3 held-out rows is also in the training data; first occurrence: {held_out}: line 2"
        in result.out
    )
    missing = show_data(tune, tiny, "--held-out", "nowhere.jsonl")
    assert (missing.status, "nowhere.jsonl: no such file" in missing.err) == (2, True)
    part = f"{{_component_: torchtune.datasets.InstructDataset, source: {held_out}}}"
    concatenated = ["dataset=torchtune.datasets.ConcatDataset", f"dataset.datasets=[{part}]"]
    concatenation_result = tune(*CALL, *tiny.overrides, *concatenated, "--held-out", str(held_out))
    assert (
        concatenation_result.status,
        "--held-out: ConcatDataset has no argument `source`" in concatenation_result.err,
    ) == (2, True)


def test_likely_errors_in_the_data_cause_warnings(tune: Tune, tiny: Tiny) -> None:
    (tiny.folder / "rows.json").write_text(json.dumps([*ROWS, *ROWS, {**ROWS[0], "output": ""}]))
    out = show_data(
        tune, tiny, "dataset.train_on_input=true", "dataset.max_seq_len=60", "dataset.truncate=right"
    ).out
    assert "every token is a target: the model is trained on the prompts too" in out
    assert "examples repeat an earlier example" in out
    assert "do not end with a stop token" in out
    assert "rows has no answer and is skipped; first occurrence: " in out


class TargetReader(HTMLParser):
    """Collects the target tokens of a page and counts the page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.targets, self.kinds, self.links = "", [""], 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.kinds.append(dict(attrs).get("class") or "")
        self.links += any(name in ("src", "href") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        self.kinds.pop()

    def handle_data(self, data: str) -> None:
        if "target" in self.kinds[-1]:
            self.targets += data


def test_the_html_page_escapes_text_and_is_self_contained(tune: Tune, tiny: Tiny) -> None:
    rows = [{"instruction": "Say <b>&amp;", "input": "", "output": "</span><script>alert(1)</script>"}]
    (tiny.folder / "rows.json").write_text(json.dumps(rows))
    page = tiny.folder / "data.html"
    result = show_data(tune, tiny, "--rows", "1", "--html", str(page))
    assert result.out.endswith(f"\nwrote {page}\n")
    text = page.read_text(encoding="utf-8")
    reader = TargetReader()
    reader.feed(text)
    assert reader.targets.endswith("</span><script>alert(1)</script><|im_end|>")
    assert "<script" not in text
    assert reader.links == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--rows", "none"), "--rows: expected an integer above 0, got 'none'"),
        (("--rows", "²"), "--rows: expected an integer above 0, got '²'"),
        (("--limit=0",), "--limit: expected an integer above 0, got '0'"),
        (("--html",), "--html: expected a value"),
        (("dataset.source=none.jsonl",), "none.jsonl: no such file"),
        (
            ("dataset.columns={instruction: question}",),
            "no column 'question' for the instruction",
        ),
    ],
)
def test_invalid_arguments_are_rejected_with_a_message(
    tune: Tune, tiny: Tiny, args: tuple[str, ...], message: str
) -> None:
    result = show_data(tune, tiny, *args)
    assert result.status == 2
    assert message in result.err
    assert not result.out


def test_a_recipe_without_a_dataset_is_rejected(tune: Tune) -> None:
    result = tune("data", "alpaca_generate", "--config", "smollm2_135m_generate", "prompt=x")
    assert (result.status, "alpaca_generate does not read a dataset" in result.err) == (2, True)
