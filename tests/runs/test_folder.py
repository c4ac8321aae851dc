import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import yaml

from tests.config import sample
from torchtune.config import ConfigError, load
from torchtune.config.model import dotted
from torchtune.runs import LockedError, Resume, RunFolder


def run(folder: Path, *args: str, overwrite: bool = False) -> None:
    layers = sample.main.layers("tests/config/sample.py:plain", [f"output_dir={folder}", *args])
    sample.main.run(layers, Resume(overwrite=overwrite))


def test_frozen_config_includes_defaults_and_references(tmp_path: Path) -> None:
    run(tmp_path / "r", "optimizer.lr=0.5")
    frozen = yaml.safe_load((tmp_path / "r/config.yaml").read_text())
    assert frozen["optimizer"] == {
        "_component_": "tests.config.sample.Adam",
        "lr": 0.5,
        "betas": [0.9, 0.999],
        "fused": None,
    }
    assert frozen["tokenizer"]["path"] == "${output_dir}/letters"
    assert isinstance(frozen["seed"], int)
    assert sample.RUN_CONFIGS[0].seed == frozen["seed"]


def test_frozen_config_reproduces_the_run(tmp_path: Path) -> None:
    run(tmp_path / "r")
    loaded = sample.main.layers(str(tmp_path / "r/config.yaml")).build()
    assert loaded.seed == sample.RUN_CONFIGS[0].seed
    text = (tmp_path / "r/config.yaml").read_text()
    assert load(text, sample.Config).output_dir == str(tmp_path / "r")
    assert sample.main.export(sample.main.layers(str(tmp_path / "r/config.yaml"))) == text


def test_record_contains_versions_machine_and_command(tmp_path: Path) -> None:
    run(tmp_path / "r")
    record = json.loads((tmp_path / "r/run.json").read_text())
    assert {"command", "versions", "threads", "git", "machine", "started", "finished"} <= record.keys()
    assert record["versions"].keys() >= {"python", "torchtune"}


def test_finished_run_is_rejected_with_advice_and_overwritten_on_request(tmp_path: Path) -> None:
    run(tmp_path / "r")
    (tmp_path / "r/notes.txt").write_text("mine")
    with pytest.raises(
        ConfigError,
        match="has finished; to train longer, raise epochs or max_steps and pass --extend; to start a new run, choose",
    ):
        run(tmp_path / "r")
    run(tmp_path / "r", overwrite=True)
    assert len(sample.RUN_CONFIGS) == 2
    assert (tmp_path / "r/notes.txt").read_text() == "mine"


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    folder = tmp_path / "r"
    run(folder)
    record = json.loads((folder / "run.json").read_text())
    del record["finished"]
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").touch()
    return folder


def test_unfinished_run_resumes_with_its_seed(unfinished: Path) -> None:
    run(unfinished)
    assert sample.RUN_CONFIGS[1] == sample.RUN_CONFIGS[0]


def test_unfinished_run_accepts_new_values_for_changeable_fields(unfinished: Path) -> None:
    run(unfinished, "epochs=5")
    assert sample.RUN_CONFIGS[1].epochs == 5


def test_a_different_config_is_rejected_with_the_differences(unfinished: Path) -> None:
    with pytest.raises(ConfigError, match=r"has a different config \(2 values differ\)") as caught:
        run(unfinished, "batch_size=3", "optimizer.lr=0.5")
    message = str(caught.value)
    assert "batch_size: changed from 8 to 3" in message
    assert "optimizer.lr: changed from 2.0e-05 to 0.5" in message
    assert len(sample.RUN_CONFIGS) == 1


def test_output_folder_that_cannot_be_created_is_reported_as_one_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to"):
        run(tmp_path / "file" / "r")


def test_recipe_called_from_python_checks_resolves_and_freezes_the_config(tmp_path: Path) -> None:
    cfg = sample.rich()
    cfg.output_dir = str(tmp_path / "r")
    sample.main(cfg)
    (ran,) = sample.RUN_CONFIGS
    assert ran.validation is not None
    assert ran.validation.source == str(tmp_path / "r")
    assert cfg.validation is not None
    assert cfg.validation.source == "${output_dir}"
    assert (tmp_path / "r/config.yaml").exists()


def test_recipe_called_from_python_suggests_keywords_instead_of_flags(tmp_path: Path) -> None:
    cfg = sample.plain()
    cfg.output_dir, cfg.seed = str(tmp_path / "r"), 1
    sample.main(cfg)
    with pytest.raises(ConfigError, match=r"and pass extend=True; .* or pass overwrite=True") as caught:
        sample.main(cfg)
    assert "--" not in str(caught.value)
    sample.main(cfg, overwrite=True)
    record = json.loads((tmp_path / "r/run.json").read_text())
    del record["finished"]
    (tmp_path / "r/run.json").write_text(json.dumps(record))
    (tmp_path / "r/metrics.jsonl").touch()
    cfg.batch_size = 3
    with pytest.raises(ConfigError, match=r"a different config.* or pass overwrite=True") as caught:
        sample.main(cfg)
    assert "--overwrite" not in str(caught.value)
    (tmp_path / "other/final").mkdir(parents=True)
    cfg.output_dir = str(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"choose a different output_dir or pass overwrite=True"):
        sample.main(cfg)


def test_unfinished_run_resumes_for_any_spelling_of_the_folder_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["tokenizer.path=${output_dir}/letters", "seed=3"]
    sample.main.prepare(sample.main.layers(None, ["output_dir=run", *args]))
    (tmp_path / "run/metrics.jsonl").touch()
    for folder in ("run/", "./run", str(tmp_path / "run")):
        assert sample.main.prepare(sample.main.layers(None, [f"output_dir={folder}", *args]))[1] is not None
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = sample.main.layers("moved", ["output_dir=moved"])
    assert sample.main.prepare(moved)[1] is not None
    with pytest.raises(ConfigError) as caught:
        sample.main.prepare(
            sample.main.layers(None, ["output_dir=moved", "seed=3", "tokenizer.path=elsewhere"])
        )
    assert [dotted(m.path) for m in caught.value.mistakes] == ["output_dir", "tokenizer.path"]
    assert str(caught.value.mistakes[1].location) == "--override tokenizer.path=elsewhere"


def test_folder_of_a_run_without_progress_can_be_reused(tmp_path: Path) -> None:
    sample.main.prepare(sample.main.layers(None, [f"output_dir={tmp_path}", "batch_size=3"]))
    assert (
        sample.main.prepare(sample.main.layers(None, [f"output_dir={tmp_path}", "batch_size=5"]))[1]
        is not None
    )
    assert "batch_size: 5" in (tmp_path / "config.yaml").read_text()


def test_empty_frozen_config_is_reported_as_one_mistake(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(
        ConfigError,
        match=r"config\.yaml is not a config; to start a new run, choose a different output_dir or pass",
    ):
        sample.main.prepare(sample.main.layers(None, [f"output_dir={tmp_path}"]))


def test_a_folder_in_use_is_not_changed(unfinished: Path) -> None:
    before = (unfinished / "config.yaml").read_text()
    with RunFolder(unfinished).lock("a run"):
        for overwrite in (False, True):
            with pytest.raises(
                ConfigError, match=r" is in use by a run \(.*, process \d+\); wait until it ends, stop it, or"
            ):
                run(unfinished, "epochs=7", overwrite=overwrite)
    assert (unfinished / "config.yaml").read_text() == before
    run(unfinished, "epochs=7")


def test_a_run_waits_for_a_concurrent_start_in_the_same_folder(
    unfinished: Path,
) -> None:
    def hold_lock() -> None:
        with RunFolder(unfinished).lock("the start of a run"):
            is_locked.set()
            time.sleep(0.3)

    is_locked = threading.Event()
    other = threading.Thread(target=hold_lock)
    other.start()
    is_locked.wait()
    run(unfinished)
    other.join()


def test_a_lock_is_released_and_identifies_its_holder(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            RunFolder(tmp_path).lock("a run"),
            pytest.raises(LockedError, match=r" is in use by a run \("),
            RunFolder(tmp_path).lock("another"),
        ):
            pass
    with (
        RunFolder(tmp_path).lock("a start"),
        pytest.raises(LockedError, match=r" is in use by a start \("),
        RunFolder(tmp_path).lock("b", timeout=0.1),
    ):
        pass


def test_folder_of_a_failed_start_can_be_reused(tmp_path: Path) -> None:
    run(tmp_path / "r", "optimizer.lr=0.5")
    record = json.loads((tmp_path / "r/run.json").read_text())
    del record["finished"]
    (tmp_path / "r/run.json").write_text(json.dumps(record))
    assert (tmp_path / "r/.lock").exists()
    (tmp_path / "r/.config.yaml.part").write_text("partial")
    run(tmp_path / "r", "optimizer.lr=0.25")


def test_a_kill_during_overwriting_leaves_no_checkpoints(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (unfinished / "checkpoints/step_6").mkdir(parents=True)
    (unfinished / "metrics.jsonl").write_text("{}")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("rmtree", "unlink"):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", interrupt) if name == "rmtree" else patch.setattr(
                Path, "unlink", interrupt
            )
            with pytest.raises(KeyboardInterrupt):
                run(unfinished, overwrite=True)
        assert (unfinished / "config.yaml").exists()
    assert not (unfinished / "checkpoints").exists()
    run(unfinished, overwrite=True)
    assert not list(unfinished.glob("*checkpoints*"))


def test_the_resume_hint_mentions_omitting_the_overwrite_option(unfinished: Path) -> None:
    assert RunFolder(unfinished).resume_hint() == "run the same command to resume"
    record = json.loads((unfinished / "run.json").read_text())
    record["command"] += ["--overwrite"]
    (unfinished / "run.json").write_text(json.dumps(record))
    assert RunFolder(unfinished).resume_hint() == "run the same command without --overwrite to resume"
    assert RunFolder(unfinished / "nowhere").resume_hint() == "run the same command to resume"
