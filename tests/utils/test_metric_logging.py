from pathlib import Path

import pytest

from torchtune.utils.metric_logging import (
    DiskLogger,
    StdoutLogger,
    TensorBoardLogger,
    WandBLogger,
    read_metrics,
)


def test_disk_logger_appends_one_line_per_step(tmp_path: Path) -> None:
    logger = DiskLogger(str(tmp_path / "logs"), "x.txt")
    logger.log_dict({"loss": 0.1 + 0.2, "lr": 2e-5}, 3)
    assert logger.path.read_text() == "step=3 | loss=0.30000000000000004 | lr=2e-05\n"
    logger.close()
    reopened = DiskLogger(str(tmp_path / "logs"), "x.txt")
    reopened.log("loss", 2, 4)
    reopened.close()
    reopened.close()
    assert reopened.path.read_text().splitlines()[1] == "step=4 | loss=2"


def test_disk_logger_creates_its_file_with_the_first_line(tmp_path: Path) -> None:
    logger = DiskLogger(str(tmp_path / "logs"))
    logger.close()
    assert logger.path.name == "log.txt"
    assert not logger.path.parent.exists()


def test_stdout_logger_prints_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    StdoutLogger().log_dict({"loss": 1.5, "step_time": 2}, 7)
    assert capsys.readouterr().out == "step=7 | loss=1.5 | step_time=2\n"


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars that TensorBoard reads from event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder)).Reload()
    return {
        name: [(e.step, e.value) for e in accumulator.Scalars(name)] for name in accumulator.Tags()["scalars"]
    }


def test_tensorboard_reads_the_scalars_and_a_resumed_run_replaces_repeated_steps(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "logs"
    logger = TensorBoardLogger(str(folder))
    assert not folder.exists()
    for step in (1, 2, 3):
        logger.log_dict({"loss": 1.5 * step, "lr": 0.25}, step)
    logger.log_dict({"validation_loss": 2.5}, 3)
    # The events are readable before the logger is closed.
    assert scalars(folder)["loss"] == [(1, 1.5), (2, 3.0), (3, 4.5)]
    logger.close()
    logger.close()
    resumed = TensorBoardLogger(str(folder))
    resumed.log_dict({"loss": 0.5}, 3)
    resumed.close()
    assert scalars(folder) == {
        "loss": [(1, 1.5), (2, 3.0), (3, 0.5)],
        "lr": [(1, 0.25), (2, 0.25)],
        "validation_loss": [],
    }


@pytest.mark.slow  # wandb starts a separate service
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_writes_config_and_metrics_to_offline_files(tmp_path: Path) -> None:
    folder = tmp_path / "run7"
    folder.mkdir()
    (folder / "config.yaml").write_text("optimizer:\n  lr: 0.125\n")
    for first in (1, 3):
        logger = WandBLogger(str(folder), project="p", mode="offline")
        for step in (first, first + 1):
            logger.log_dict({"loss": 1.5 * step}, step)
        logger.close()
        logger.close()
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    run_id = (folder / "wandb_id.txt").read_text()
    assert len(files) == 2
    assert {file.stem for file in files} == {f"run-{run_id}"}
    assert b"run7" in files[0].read_bytes()
    assert b"0.125" in files[0].read_bytes()
    assert b"loss" in files[0].read_bytes()


def test_error_for_a_missing_logger_package_contains_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torchtune.utils.metric_logging.find_spec", lambda name: None)
    for logger in (TensorBoardLogger, WandBLogger):
        package = logger.packages[0]
        with pytest.raises(
            ValueError,
            match=f"{logger.__name__} needs the package {package}; install it: pip install {package}",
        ):
            logger("anywhere")


LINES = [
    '{"step": 0, "validation_loss": 3.0}',
    '{"step": 1, "loss": 2.5, "lr": 0.1}',
    '{"step": 2, "loss": null, "lr": null}',
    '{"step": 2, "validation_loss": 2.0}',
    '{"step": 3, "loss": NaN, "lr": 0.2, "grad_norm": 1' + "0" * 400 + "}",
    "[]",
    '{"loss": 1.0}',
    '{"step": 3, "loss": 1.5, "lr": 0.2}',
    '{"step": 4, "lo',
]


def test_metrics_are_read_back_and_unreadable_lines_are_reported(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("\n".join(LINES))
    run_metrics = read_metrics(tmp_path)
    assert run_metrics == read_metrics(tmp_path / "metrics.jsonl")
    assert run_metrics.broken == [6, 7, 9]
    assert run_metrics.series("loss") == [(1, 2.5), (3, 1.5)]
    assert run_metrics.series("validation_loss") == [(0, 3.0), (2, 2.0)]
    assert run_metrics.series("unknown") == run_metrics.series("grad_norm") == []
    with pytest.raises(FileNotFoundError, match=r"is not a run.s folder: it contains no metrics\.jsonl"):
        read_metrics(tmp_path / "nowhere")


def test_frame_has_one_row_per_step(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("\n".join(LINES))
    table = read_metrics(tmp_path).frame()
    assert list(table.index) == [0, 1, 2, 3]
    assert list(table.columns) == ["validation_loss", "loss", "lr", "grad_norm"]
    assert table["loss"].dropna().to_dict() == {1: 2.5, 3: 1.5}
    assert table["validation_loss"].dropna().to_dict() == {0: 3.0, 2: 2.0}
    (tmp_path / "metrics.jsonl").write_text("")
    assert len(read_metrics(tmp_path).frame()) == 0
