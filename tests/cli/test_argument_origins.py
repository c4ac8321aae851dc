"""A component that cannot be built is reported at the arguments that were set after it was named."""

from pathlib import Path

import pytest

from tests.tune import Tune

RECIPE = """
from pathlib import Path

from attrs import define

from torchtune import config
from torchtune.config import Component, lazy


class Rows:
    def __init__(self, source: str, column: str = "text", share: float = 1.0) -> None:
        if share > 1:
            raise ValueError("share and column do not go together")
        if column == "broken":
            raise KeyError(column)
        if not Path(source).exists():
            raise FileNotFoundError(f"{source}: no such file")


@define(kw_only=True)
class RowsConfig:
    folder: str = "rows"
    rows: Component[Rows]


@config.parse
def main(cfg: RowsConfig) -> None:
    config.instantiate(cfg.rows)


def whole() -> RowsConfig:
    return RowsConfig(rows=lazy(Rows, source="none.json"))
"""
NAMED = "{file}:32: rows: {stem}.Rows: none.json: no such file\n"
SAID = {
    "": NAMED,
    "rows.column=a": NAMED,
    "rows.source=chat.jsonl": "--override rows.source=chat.jsonl: rows.source: chat.jsonl: no such file\n",
    "rows.source=chat.jsonl rows.column=a": (
        "--override rows.source=chat.jsonl: rows.source: chat.jsonl: no such file\n"
    ),
    "folder=chat rows.source=${folder}": "--override folder=chat: folder: chat: no such file\n",
    "rows.column=a rows.share=2": (
        "--override rows.column=a, --override rows.share=2: rows: share and column do not go together\n"
    ),
}


@pytest.mark.parametrize("words", SAID)
def test_component_that_fails_is_reported_where_its_arguments_were_set(
    words: str, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stem = f"rows_{tmp_path.name}"
    Path(f"{stem}.py").write_text(RECIPE)
    found = tune(f"./{stem}.py", "--config", f"{stem}.py:whole", *words.split())
    assert found.status == 2
    assert SAID[words].format(file=f"{stem}.py", stem=stem) in found.err


def test_argument_of_a_file_above_that_which_names_the_component_is_reported_there(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stem = f"layered_{tmp_path.name}"
    Path(f"{stem}.py").write_text(RECIPE)
    Path("base.yaml").write_text(f"rows:\n  _component_: {stem}.Rows\n  source: none.json\n")
    Path("mine.yaml").write_text("_base_: base.yaml\nrows:\n  source: chat.jsonl\n")
    found = tune(f"./{stem}.py", "--config", "mine.yaml")
    assert found.err.endswith("mine.yaml:3: rows.source: chat.jsonl: no such file\n")
    same = tune(f"./{stem}.py", "--config", "base.yaml")
    assert same.err.endswith(f"base.yaml:2: rows: {stem}.Rows: none.json: no such file\n")
