from pathlib import Path

import pytest

from torchtune.utils.metric_logging import (
    DiskLogger,
    StdoutLogger,
    TensorBoardLogger,
    WandBLogger,
    read_metrics,
)


def test_disk_logger_appends_a_line_a_step(tmp_path: Path) -> None:
    logger = DiskLogger(str(tmp_path / "made"), "x.txt")
    logger.log_dict({"loss": 0.1 + 0.2, "lr": 2e-5}, 3)
    assert logger.path.read_text() == "step=3 | loss=0.30000000000000004 | lr=2e-05\n"
    logger.close()
    again = DiskLogger(str(tmp_path / "made"), "x.txt")
    again.log("loss", 2, 4)
    again.close()
    again.close()
    assert again.path.read_text().splitlines()[1] == "step=4 | loss=2"


def test_disk_logger_makes_no_file_before_its_first_line(tmp_path: Path) -> None:
    logger = DiskLogger(str(tmp_path / "made"))
    logger.close()
    assert logger.path.name == "log.txt"
    assert not logger.path.parent.exists()


def test_stdout_logger_prints_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    StdoutLogger().log_dict({"loss": 1.5, "step_time": 2}, 7)
    assert capsys.readouterr().out == "step=7 | loss=1.5 | step_time=2\n"


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read event files with TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_tensorboard_reads_what_was_written_and_a_continued_run_replaces_what_it_repeats(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "made"
    logger = TensorBoardLogger(str(folder))
    assert not folder.exists()
    for step in (1, 2, 3):
        logger.log_dict({"loss": 1.5 * step, "lr": 0.25}, step)
    logger.log_dict({"validation_loss": 2.5}, 3)
    assert scalars(folder)["loss"] == [(1, 1.5), (2, 3.0), (3, 4.5)]  # at once, not when it is closed
    logger.close()
    logger.close()
    again = TensorBoardLogger(str(folder))
    again.log_dict({"loss": 0.5}, 3)
    again.close()
    assert scalars(folder) == {
        "loss": [(1, 1.5), (2, 3.0), (3, 0.5)],
        "lr": [(1, 0.25), (2, 0.25)],
        "validation_loss": [],
    }


@pytest.mark.slow  # wandb starts a service of its own
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_leaves_offline_files_of_config_and_metrics(tmp_path: Path) -> None:
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
    kept = (folder / "wandb_id.txt").read_text()
    assert len(files) == 2
    assert {file.stem for file in files} == {f"run-{kept}"}
    assert b"run7" in files[0].read_bytes()
    assert b"0.125" in files[0].read_bytes()
    assert b"loss" in files[0].read_bytes()


def test_a_logger_whose_package_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchtune.utils.metric_logging.find_spec", lambda name: None)
    for logger in (TensorBoardLogger, WandBLogger):
        package = logger.packages[0]
        with pytest.raises(
            ValueError, match=f"{logger.__name__} needs the package {package}; pip install {package}"
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


def test_metrics_are_read_back_and_broken_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("\n".join(LINES))
    found = read_metrics(tmp_path)
    assert found == read_metrics(tmp_path / "metrics.jsonl")
    assert found.broken == [6, 7, 9]
    assert found.series("loss") == [(1, 2.5), (3, 1.5)]
    assert found.series("validation_loss") == [(0, 3.0), (2, 2.0)]
    assert found.series("nothing") == found.series("grad_norm") == []
    with pytest.raises(FileNotFoundError, match=r"is no run.s folder: there is no metrics\.jsonl in it"):
        read_metrics(tmp_path / "nowhere")


def test_metrics_are_a_data_frame_with_a_row_a_step(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("\n".join(LINES))
    table = read_metrics(tmp_path).frame()
    assert list(table.index) == [0, 1, 2, 3]
    assert list(table.columns) == ["validation_loss", "loss", "lr", "grad_norm"]
    assert table["loss"].dropna().to_dict() == {1: 2.5, 3: 1.5}
    assert table["validation_loss"].dropna().to_dict() == {0: 3.0, 2: 2.0}
    (tmp_path / "metrics.jsonl").write_text("")
    assert len(read_metrics(tmp_path).frame()) == 0
