"""The dataset of the page "Write a custom dataset" works in `tune data` and in a run."""

from pathlib import Path

import pytest

from tests.test_any_model import write_model
from tests.test_docs import SNIPPETS
from tests.tune import Tune
from torchtune.config import Trust, only_trusting

PAGE = "docs/custom_dataset.md"
MODEL = ["model_directory=models/tiny", "model=torchtune.formats.hf_decoder", "model.path=${model_directory}"]


def test_preview_and_run_use_the_custom_dataset_of_the_page(
    tmp_path: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "models").mkdir()
    write_model(tmp_path / "models/tiny")
    for snippet in SNIPPETS:
        if snippet.page == PAGE and snippet.file:
            (tmp_path / snippet.file).write_text(snippet.text)
    (tmp_path / "qa.tsv").write_text("Who?\tMe.\nWhere?\tHere.\nWhen?\t\n")

    with only_trusting(Trust()):
        preview = tune("data", "lora_finetune", "--config", "qa.yaml", "--allow", "qa_dataset", *MODEL)
        assert preview.status == 0, preview.err
        assert "«M" in preview.out  # the first token of the answer "Me.", a target
        assert "1 of 3 rows has no answer" in preview.out
        overrides = [*MODEL, "max_steps=1", "output_dir=runs/qa", "device=cpu"]
        run = tune("lora_finetune", "--config", "qa_config.py:qa", *overrides)
    assert run.status == 0, run.err
    assert (tmp_path / "runs/qa/final/adapter_config.json").is_file()
