"""If a component cannot be built, the error is reported at the location of the arguments that cause it."""

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


def build() -> RowsConfig:
    return RowsConfig(rows=lazy(Rows, source="none.json"))
"""
AT_COMPONENT = "{file}:32: rows: {stem}.Rows: none.json: no such file\n"
MESSAGES = {
    "": AT_COMPONENT,
    "rows.column=a": AT_COMPONENT,
    "rows.source=chat.jsonl": "--override rows.source=chat.jsonl: rows.source: chat.jsonl: no such file\n",
    "rows.source=chat.jsonl rows.column=a": (
        "--override rows.source=chat.jsonl: rows.source: chat.jsonl: no such file\n"
    ),
    "folder=chat rows.source=${folder}": "--override folder=chat: folder: chat: no such file\n",
    "rows.column=a rows.share=2": (
        "--override rows.column=a, --override rows.share=2: rows: share and column do not go together\n"
    ),
}


@pytest.mark.parametrize("args", MESSAGES)
def test_failing_component_is_reported_at_the_location_of_its_arguments(
    args: str, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stem = f"rows_{tmp_path.name}"
    Path(f"{stem}.py").write_text(RECIPE)
    result = tune(f"./{stem}.py", "--config", f"{stem}.py:build", *args.split())
    assert result.status == 2
    assert MESSAGES[args].format(file=f"{stem}.py", stem=stem) in result.err


def test_overriding_argument_is_reported_in_the_overriding_file(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stem = f"layered_{tmp_path.name}"
    Path(f"{stem}.py").write_text(RECIPE)
    Path("base.yaml").write_text(f"rows:\n  _component_: {stem}.Rows\n  source: none.json\n")
    Path("mine.yaml").write_text("_base_: base.yaml\nrows:\n  source: chat.jsonl\n")
    overriding = tune(f"./{stem}.py", "--config", "mine.yaml")
    assert overriding.err.endswith("mine.yaml:3: rows.source: chat.jsonl: no such file\n")
    base = tune(f"./{stem}.py", "--config", "base.yaml")
    assert base.err.endswith(f"base.yaml:2: rows: {stem}.Rows: none.json: no such file\n")
