import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.training.tiny import ALONE, batch_of, examples
from torchtune.training import Metrics
from torchtune.training._metrics import cut_back, peak_memory_bytes

BATCHES = [batch_of(examples()[:2]), batch_of(examples()[3:5])]


class Probe:
    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def log_dict(self, metrics: Mapping[str, float], step: int) -> None:
        self.seen.append((step, dict(metrics)))

    def close(self) -> None:
        self.closed = True


def run(
    folder: Path, probe: Probe | None, first: int, last: int, log_every: int = 1
) -> list[dict[str, float]]:
    with Metrics(str(folder), probe, ALONE, first, last, log_every=log_every) as metrics:
        for step in range(first + 1, last + 1):
            metrics.log(step, BATCHES, loss=1 / step, lr=0.1, grad_norm=3.0)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_holds_the_step_and_counts_no_padding(tmp_path: Path) -> None:
    line = run(tmp_path, None, 0, 3)[2]
    useful = sum(len(example.tokens) - 1 for i in (0, 1, 3, 4) for example in [examples()[i]])
    slots = 2 * 5 + 2 * 14
    assert line.pop("tokens_per_second") > 0
    assert line.pop("peak_memory_bytes") > 2**20
    assert line == {
        "step": 3,
        "loss": 1 / 3,
        "lr": 0.1,
        "grad_norm": 3.0,
        "padding_share": 1 - useful / slots,
    }


def test_logger_gets_every_nth_step_and_the_last_and_is_closed(tmp_path: Path) -> None:
    probe = Probe()
    lines = run(tmp_path, probe, 0, 7, log_every=3)
    assert [step for step, _ in probe.seen] == [3, 6, 7]
    assert probe.seen[0][1] == {name: value for name, value in lines[2].items() if name != "step"}
    assert probe.closed


def test_logger_is_closed_when_the_run_fails(tmp_path: Path) -> None:
    probe = Probe()
    with pytest.raises(RuntimeError), Metrics(str(tmp_path), probe, ALONE, 0, 1):
        raise RuntimeError
    assert probe.closed


def test_going_on_cuts_the_file_back_to_the_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, None, 0, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')
    lines = run(tmp_path, None, 3, 6)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_cutting_back_keeps_what_is_not_after_the_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    cut_back(path, 1)
    assert not path.exists()
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n[]\n{"step": 1}')
    cut_back(path, 1)
    assert path.read_text() == '{"step": 1}\n'


def test_skipped_step_is_a_line_of_nulls_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = Probe()
    with Metrics(str(tmp_path), probe, ALONE, 0, 1) as metrics:
        metrics.skip(1, BATCHES, "no target token")
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["step"], line["loss"], line["lr"], line["grad_norm"]) == (1, None, None, None)
    assert "loss" not in probe.seen[0][1]
    assert "step 1/1: skipped (1 so far): no target token" in capsys.readouterr().err


def test_without_a_terminal_plain_lines_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, None, 0, 2)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 2
    assert shown[1].startswith("step 2/2: loss 0.5000, ")
    assert shown[1].endswith(" tokens/s")


def test_on_a_terminal_a_bar_shows_loss_and_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(tmp_path, None, 0, 2)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "loss 0.5000" in shown
    assert "tokens/s" in shown


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="compares with Linux's own count")
def test_peak_memory_of_a_process_is_what_the_system_says() -> None:
    peak_kib = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    assert peak_memory_bytes(torch.device("cpu")) == pytest.approx(peak_kib * 1024, rel=0.01)
