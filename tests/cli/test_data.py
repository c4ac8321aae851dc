"""`tune data` shows what a run reads, and what is likely to be wrong with it."""

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
    return tiny_run(tmp_path, lambda *words: tune(*words).status)


def show(tune: Tune, tiny: Tiny, *words: str) -> Any:
    return tune(*CALL, *tiny.words, f"dataset.source={tiny.folder / 'rows.json'}", "seed=1", *words)


def test_rows_are_shown_with_their_targets_and_numbers(tune: Tune, tiny: Tiny) -> None:
    done = show(tune, tiny, "shuffle=false", "--rows", "1")
    assert done.status == 0, done.err
    first, rest = done.out.split("\n\n«trained to predict» · given\n\n")
    head, *lines = first.splitlines()
    assert head.startswith("row 1: ")
    assert head.endswith(" tokens")
    text = "\n".join(lines).replace("|", "").replace("⏎", "")
    assert text.endswith(f"«{ROWS[0]['output']}<im_end>»")
    facts = dict(line.split(None, 1) for line in rest.splitlines())
    assert facts["rows"] == f"{len(ROWS)}"
    assert {"tokens", "targets", "length", "padding", "lengths"} <= facts.keys()
    assert "warning:" not in rest


def test_packed_rows_show_each_example(tune: Tune, tiny: Tiny) -> None:
    done = show(tune, tiny, "loading.packing.length=200", "--rows", "1")
    assert "row 1, example 1 of " in done.out
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORCE_COLOR", "1")
        assert "\x1b[1;32m" in show(tune, tiny).out


def test_held_out_rows_that_are_trained_on_are_told(tune: Tune, tiny: Tiny) -> None:
    held_out = tiny.folder / "held_out.jsonl"
    rows = [{**ROWS[0], "instruction": "Of what?"}, ROWS[3], {**ROWS[4], "output": "Who knows?"}]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = show(tune, tiny, "--held-out", str(held_out))
    assert "held out  3 rows; 1 is trained on, 1 by their prompt alone" in done.out
    assert (
        f"1 of 3 held-out rows stands among the rows that are trained on; the first: {held_out}: line 2"
        in done.out
    )
    missing = show(tune, tiny, "--held-out", "nowhere.jsonl")
    assert (missing.status, "nowhere.jsonl: no such file" in missing.err) == (2, True)
    part = f"{{_component_: torchtune.datasets.InstructDataset, source: {held_out}}}"
    several = ["dataset=torchtune.datasets.ConcatDataset", f"dataset.datasets=[{part}]"]
    mixed = tune(*CALL, *tiny.words, *several, "--held-out", str(held_out))
    assert (mixed.status, "--held-out: ConcatDataset reads no source" in mixed.err) == (2, True)


def test_what_is_likely_to_be_wrong_is_said(tune: Tune, tiny: Tiny) -> None:
    (tiny.folder / "rows.json").write_text(json.dumps([*ROWS, *ROWS, {**ROWS[0], "output": ""}]))
    out = show(
        tune, tiny, "dataset.train_on_input=true", "dataset.max_seq_len=60", "dataset.truncate=right"
    ).out
    assert "every token is a target: what is given, the prompts, is learnt too" in out
    assert "examples stand there twice or more" in out
    assert "do not end with a token that ends an answer" in out
    assert "rows has no answer and is left out; the first: " in out


class Reader(HTMLParser):
    """Reads a page's text, and of which kind it is."""

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


def test_the_page_holds_the_same_and_needs_nothing_else(tune: Tune, tiny: Tiny) -> None:
    rows = [{"instruction": "Say <b>&amp;", "input": "", "output": "</span><script>alert(1)</script>"}]
    (tiny.folder / "rows.json").write_text(json.dumps(rows))
    page = tiny.folder / "data.html"
    done = show(tune, tiny, "--rows", "1", "--html", str(page))
    assert done.out.endswith(f"\nwrote {page}\n")
    text = page.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.targets.endswith("</span><script>alert(1)</script><|im_end|>")
    assert "<script" not in text
    assert reader.links == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rows", "none"), "--rows: expected a number above 0, got 'none'"),
        (("--rows", "²"), "--rows: expected a number above 0, got '²'"),
        (("--limit=0",), "--limit: expected a number above 0, got '0'"),
        (("--html",), "--html: needs a value"),
        (("dataset.source=none.jsonl",), "none.jsonl: no such file"),
        (
            ("dataset.columns={instruction: question}",),
            "no column 'question', which is to be the instruction",
        ),
    ],
)
def test_what_is_wrong_ends_in_one_line(tune: Tune, tiny: Tiny, words: tuple[str, ...], message: str) -> None:
    done = show(tune, tiny, *words)
    assert done.status == 2
    assert message in done.err
    assert not done.out


def test_a_recipe_without_data_says_so(tune: Tune) -> None:
    done = tune("data", "alpaca_generate", "--config", "smollm2_135m_generate", "prompt=x")
    assert (done.status, "alpaca_generate reads no dataset" in done.err) == (2, True)
