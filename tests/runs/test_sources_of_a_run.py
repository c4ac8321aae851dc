"""A resumed run detects changed data and model files, regardless of the config field that names them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_any_model import write_model
from tests.tune import Tune

QUESTION = {"role": "user", "content": "Who?"}
ROWS = [{"messages": [QUESTION, {"role": "assistant", "content": f"Number {i}."}]} for i in range(4)]
CHANGED_ROWS = [*ROWS[:-1], {"messages": [QUESTION, {"role": "assistant", "content": "Number 9."}]}]
HELD_OUT = (
    "validation={fraction: null, dataset: {_component_: torchtune.datasets.ChatDataset, source: held.jsonl}}"
)


def write(name: str, rows: list[Any]) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("\n".join(map(json.dumps, rows)))


def edit_template() -> None:
    path = Path("model/tokenizer_config.json")
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "chat_template": settings["chat_template"] + " "}))


CASES: dict[str, tuple[str, str, Callable[[], object]]] = {
    "a file": ("dataset.source=a/1.jsonl", "dataset.source", lambda: write("a/1.jsonl", CHANGED_ROWS)),
    "a file in a folder": ("dataset.source=a", "dataset.source", lambda: write("a/2.jsonl", CHANGED_ROWS)),
    "an additional file in a folder": (
        "dataset.source=a",
        "dataset.source",
        lambda: write("a/3.jsonl", ROWS),
    ),
    "a file that a pattern no longer matches": (
        "dataset.source=a/*.jsonl",
        "dataset.source",
        Path("a/2.jsonl").unlink,
    ),
    "held-out rows": (HELD_OUT, "validation.dataset.source", lambda: write("held.jsonl", CHANGED_ROWS)),
    "a custom template": (
        "tokenizer.chat_template=own.jinja",
        "tokenizer.chat_template",
        lambda: shutil.copy("other.jinja", "own.jinja"),
    ),
    "the model's template": ("dtype=fp32", "model_directory", edit_template),
}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("case", CASES)
def test_an_edited_source_prevents_resuming(
    case: str, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    for name in ("a/1.jsonl", "a/2.jsonl", "held.jsonl"):
        write(name, ROWS)
    template = json.loads(Path("model/tokenizer_config.json").read_text())["chat_template"]
    Path("own.jinja").write_text(template)
    Path("other.jinja").write_text(template + "\n")
    override, field, edit = CASES[case]
    args = ["model_directory=model", "dataset.source=a/1.jsonl", "validation=null", "device=cpu", override]
    args += ["dtype=fp32", "loading.workers=0", "max_steps=1", "output_dir=run"]
    assert tune("lora_finetune", "--config", "lora", *args).status == 0
    record = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps({k: v for k, v in record.items() if k != "finished"}))
    edit()
    result = tune("lora_finetune", "--config", "lora", *args)
    assert result.status == 2
    assert "code, data or versions have changed since the run in run started" in result.err
    assert [line.partition(" changed from ")[0] for line in result.err.splitlines()[2:]] == [
        f"  sources.{field}"
    ]


@pytest.mark.parametrize("kind", ["yaml", "python"])
def test_config_files_and_their_bases_are_copied_into_the_run(
    kind: str, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    write("rows.jsonl", ROWS)
    texts = {
        "yaml": {
            "mine.yaml": "_base_: below/ours.yaml\nmax_steps: 1\n",
            "below/ours.yaml": "_base_: lora\nmodel_directory: model\nvalidation: null\n",
        },
        "python": {
            "config_of_a_copied_run.py": "from configs_py.any_model import lora\n\n"
            "from values_of_a_copied_run import MODEL\n\n\n"
            "def mine():\n    cfg = lora()\n    cfg.model_directory = MODEL\n    cfg.max_steps = 1\n"
            "    cfg.validation = None\n    return cfg\n",
            "values_of_a_copied_run.py": 'MODEL = "model"\n',
        },
    }[kind]
    Path("below").mkdir()
    for name, text in texts.items():
        Path(name).write_text(text)
    config = "mine.yaml" if kind == "yaml" else "config_of_a_copied_run.py:mine"
    args = ["dataset.source=rows.jsonl", "device=cpu", "loading.workers=0", "output_dir=run"]
    result = tune("lora_finetune", "--config", config, *args)
    assert result.status == 0, result.err
    copies = {path.name: path.read_text() for path in Path("run/code").rglob("*") if path.is_file()}
    assert copies == {Path(name).name: text for name, text in texts.items()}
