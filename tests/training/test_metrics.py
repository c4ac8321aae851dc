import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.training.tiny import SINGLE_RANK, examples, make_batch, step_values
from torchtune.runs import peak_memory_bytes
from torchtune.training import Metrics
from torchtune.training._metrics import remove_later_lines
from torchtune.utils.metric_logging import MetricLogger, read_metrics

BATCHES = [make_batch(examples()[:2]), make_batch(examples()[3:5])]


class RecordingLogger(MetricLogger):
    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def log_dict(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append((step, dict(metrics)))

    def close(self) -> None:
        self.closed = True


def run(
    folder: Path, recorder: RecordingLogger | None, first: int, last: int, log_every: int = 1
) -> list[dict[str, float]]:
    with Metrics(
        str(folder), [recorder] if recorder else [], SINGLE_RANK, first, last, log_every=log_every
    ) as metrics:
        for step in range(first + 1, last + 1):
            metrics.log(step_values(step, BATCHES, loss=1 / step, is_last=step == last))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_line_contains_the_step_and_does_not_count_padding(tmp_path: Path) -> None:
    line = run(tmp_path, None, 0, 3)[2]
    n_tokens = sum(len(example.tokens) - 1 for i in (0, 1, 3, 4) for example in [examples()[i]])
    positions = 2 * 5 + 2 * 14
    assert line.pop("tokens_per_second") > 0
    assert line.pop("peak_memory_bytes") > 2**20
    assert line == {
        "step": 3,
        "loss": 1 / 3,
        "lr": 0.1,
        "grad_norm": 3.0,
        "padding_fraction": (positions - n_tokens) / positions,
    }


def test_logger_receives_every_nth_step_and_the_last_and_is_closed(tmp_path: Path) -> None:
    recorder = RecordingLogger()
    lines = run(tmp_path, recorder, 0, 7, log_every=3)
    assert [step for step, _ in recorder.calls] == [3, 6, 7]
    assert recorder.calls[0][1] == {name: value for name, value in lines[2].items() if name != "step"}
    assert recorder.closed


def test_logger_is_closed_when_the_run_fails(tmp_path: Path) -> None:
    recorder = RecordingLogger()
    with pytest.raises(RuntimeError), Metrics(str(tmp_path), [recorder], SINGLE_RANK, 0, 1):
        raise RuntimeError
    assert recorder.closed


def test_resuming_removes_lines_after_the_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, None, 0, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')
    lines = run(tmp_path, None, 3, 6)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_remove_later_lines_keeps_lines_up_to_the_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    remove_later_lines(path, 1)
    assert not path.exists()
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n[]\n{"step": 1}')
    remove_later_lines(path, 1)
    assert path.read_text() == '{"step": 1}\n'
    path.write_text('{"step": 1, "answer": "a\u2028b\u0085c"}\n{"step": 2}\n', "utf-8")
    remove_later_lines(path, 1)
    assert path.read_text("utf-8") == '{"step": 1, "answer": "a\u2028b\u0085c"}\n'
    path.write_text('{"step": 0, "validation_loss": 1.0}\n{"step": 1}\n')
    remove_later_lines(path, 0)
    assert path.read_text() == '{"step": 0, "validation_loss": 1.0}\n'
    remove_later_lines(path, -1)
    assert path.read_text() == ""


def test_a_skipped_step_has_null_metrics_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = RecordingLogger()
    with Metrics(str(tmp_path), [recorder], SINGLE_RANK, 0, 1) as metrics:
        metrics.skip(step_values(1, BATCHES), "no target token")
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["step"], line["loss"], line["lr"], line["grad_norm"]) == (1, None, None, None)
    assert "loss" not in recorder.calls[0][1]
    assert "step 1/1: skipped (1 so far): no target token" in capsys.readouterr().err


def test_plain_lines_are_written_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, None, 0, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("step 2/2: loss 0.5000, ")
    assert lines[1].endswith(" tokens/s")


def test_terminal_shows_a_progress_bar_with_loss_and_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(tmp_path, None, 0, 2)
    stderr = capsys.readouterr().err
    assert "2/2" in stderr
    assert "loss 0.5000" in stderr
    assert "tokens/s, 16% padding" in stderr


class FailingLogger(RecordingLogger):
    """A logger that raises on every call after the first, and when it is closed."""

    def log_dict(self, metrics: Mapping[str, float], step: int) -> None:
        if self.calls:
            raise ConnectionError("the server is gone\nand more")
        super().log_dict(metrics, step)

    def close(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_logger_that_raises_is_reported_once_and_the_run_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, also_failing, recorder = FailingLogger(), FailingLogger(), RecordingLogger()
    with Metrics(str(tmp_path), [failing, also_failing, recorder], SINGLE_RANK, 0, 4) as metrics:
        also_failing.calls.clear()
        for step in range(1, 5):
            also_failing.calls.clear()
            metrics.log(step_values(step, BATCHES, loss=1.0))
    assert [step for step, _ in recorder.calls] == [1, 2, 3, 4]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    stderr = capsys.readouterr().err
    expected = "note: FailingLogger failed at step 2; the run continues without it: ConnectionError: "
    assert stderr.count(expected + "the server is gone (metrics.jsonl has every step)") == 1
    assert (
        "FailingLogger could not be closed; the run continues without it: OSError: [Errno 28] No space left"
        in stderr
    )


def test_validation_has_a_separate_line_and_is_sent_to_loggers_and_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = RecordingLogger()
    with Metrics(str(tmp_path), [recorder], SINGLE_RANK, 0, 2) as metrics:
        metrics.validated(0, 2.5, 40, {}, is_best=True)
        metrics.log(step_values(1, BATCHES, loss=2.0))
        metrics.validated(1, 1.5, 40, {}, [("Who are\nyou?", "I am " + "long " * 40)], is_best=True)
        metrics.log(step_values(2, BATCHES, loss=1.0))
        metrics.validated(2, None, 40, {}, is_best=False)
    table = read_metrics(tmp_path)
    assert [line["step"] for line in table.lines] == [0, 1, 1, 2, 2]
    assert table.series("validation_loss") == [(0, 2.5), (1, 1.5)]
    assert table.lines[-1] == {"step": 2, "validation_loss": None, "validation_targets": 40}
    assert [call for call in recorder.calls if "loss" not in call[1]] == [
        (0, {"validation_loss": 2.5}),
        (1, {"validation_loss": 1.5}),
    ]
    stderr = capsys.readouterr().err
    assert "step 0: validation loss 2.5000\n" in stderr
    assert "step 1: validation loss 1.5000 (lowest so far)\n  “Who are you?” “I am long" in stderr
    assert "long…”\n" in stderr
    assert "step 2: validation loss is NaN or infinite\n" in stderr


def test_excluded_time_does_not_affect_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    with Metrics(str(tmp_path), [], SINGLE_RANK, 0, 2) as metrics:
        for step in (1, 2):
            clock[0] += 2.0
            metrics.log(step_values(step, BATCHES, seconds=metrics.step_seconds(clock[0])))
            clock[0] += 50.0
            metrics.exclude_time(50.0)
    speeds = [value for _, value in read_metrics(tmp_path).series("tokens_per_second")]
    n_tokens = sum(batch.n_tokens for batch in BATCHES)
    assert speeds == [round(n_tokens / 2.0, 1)] * 2


def test_mfu_is_the_fraction_of_the_peak(tmp_path: Path) -> None:
    with Metrics(str(tmp_path), [], SINGLE_RANK, 0, 1, peak=1e10) as metrics:
        metrics.log(step_values(1, BATCHES, flops=12e9, seconds=2.0))
    assert read_metrics(tmp_path).lines[0]["mfu"] == 0.6


def test_recipe_terms_metrics_and_values_are_written_and_sent_to_loggers(tmp_path: Path) -> None:
    recorder = RecordingLogger()
    with Metrics(str(tmp_path), [recorder], SINGLE_RANK, 0, 2) as metrics:
        metrics.log(step_values(1, BATCHES, reported={"reward": 0.5, "margin": float("nan")}))
        metrics.validated(1, 2.0, 40, {"reward": 0.25}, is_best=True)
    line, validation = read_metrics(tmp_path).lines
    assert (line["reward"], "margin" in line) == (0.5, False)
    assert validation["validation_reward"] == 0.25
    assert [numbers.get("reward", numbers.get("validation_reward")) for _, numbers in recorder.calls] == [
        0.5,
        0.25,
    ]


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="compares with a count by the Linux kernel"
)
def test_peak_process_memory_matches_the_system_count() -> None:
    peak_kib = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    # Linux updates its counts in batches of pages, and the peak includes the memory of the program before `exec`. A
    # wrong unit would change the result by a factor of 1,024.
    assert 0.9 < peak_memory_bytes(torch.device("cpu")) / (peak_kib * 1024) < 100
