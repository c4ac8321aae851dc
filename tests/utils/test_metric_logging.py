from pathlib import Path

import pytest

from torchtune.utils.metric_logging import DiskLogger, StdoutLogger


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
