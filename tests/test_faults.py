"""Runs in separate processes that are killed or interrupted, or that lose a rank or a checkpoint.

Faster in-process tests of the same cases are in `tests/training` and `tests/recipes`.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import tiny_smollm2
from tests.tiny_run import Tiny, tiny_run
from tests.tolerance import bound, roundings

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
LORA = ("lora_finetune", "smollm2_135m_lora", "lora.dropout=0.2", "lora.rank=4")
FULL = ("full_finetune", "smollm2_135m_full")
TWO_RANKS = ("--nproc_per_node", "2")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from torchtune.cli import main

    return tiny_run(tmp_path_factory.mktemp("tiny"), lambda *args: main(args))


class Command:
    """A command-line run that can be started several times.

    Args:
        tiny: The model and rows.
        out: The output folder.
        recipe: The recipe, its config, and overrides.
        launch: torchrun options.
        overrides: Further overrides.
    """

    def __init__(
        self, tiny: Tiny, out: Path, recipe: tuple[str, ...], launch: tuple[str, ...] = (), *overrides: str
    ) -> None:
        name, config, *settings = recipe
        self.out = out
        fixed = [*tiny.rows, f"output_dir={out}", "device=cpu", "batch_size=2", "lr_scheduler.warmup_steps=0"]
        fixed += ["validation.every_n_steps=5", "validation.prompts=[Hello]", "validation.max_new_tokens=3"]
        arguments = [*tiny.overrides, *fixed, *settings, *overrides]
        tune = [sys.executable, "-m", "torchtune.cli", *launch]
        self.arguments = [*tune, name, "--config", config, "--override", *arguments]

    def start(self, *overrides: str) -> "subprocess.Popen[str]":
        """Start the run in a new process group."""
        return subprocess.Popen(
            [*self.arguments, *overrides],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *overrides: str, status: int = 0) -> str:
        """Run to the end and return the output."""
        process = self.start(*overrides)
        output = process.communicate(timeout=240)[0]
        assert process.returncode == status, output
        return output

    def steps(self) -> int:
        """Count the steps in `metrics.jsonl`."""
        try:
            return (self.out / "metrics.jsonl").read_text().count('"lr"')
        except FileNotFoundError:
            return 0

    def wait_for(self, step: int, process: "subprocess.Popen[str]") -> None:
        """Wait until a step is complete."""
        deadline = time.monotonic() + 120
        while self.steps() < step:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill_after(self, step: int) -> None:
        """Start the run and kill all its processes after a step."""
        process = self.start()
        self.wait_for(step, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (self.out / "final").exists()

    def results(self) -> dict[str, Any]:
        """Return the weights, checkpoint and samples of a run, and its metrics except speed and memory."""
        lines = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            line.pop("tokens_per_second", None)
            line.pop("peak_memory_bytes", None)
        (checkpoint,) = (self.out / "checkpoints").iterdir()
        files = json.loads((checkpoint / "manifest.json").read_text())["files"]
        shared = torch.load(checkpoint / "state.pt", weights_only=True)
        # Optimizer, weights and random states are compared by checksum; the two other files contain the folder's name.
        sums = {name: checksum for name, checksum in files.items() if name not in (".metadata", "state.pt")}
        assert {"rank_0.pt", "__0_0.distcp"} <= sums.keys()
        (weights,) = (self.out / "final").glob("*.safetensors")
        return {
            "lines": lines,
            "checkpoint": (checkpoint.name, sums, shared),
            "weights": weights.read_bytes(),
            "best": next((self.out / "best").glob("*.safetensors")).read_bytes(),
            "answers": (self.out / "samples.jsonl").read_text(),
        }


def rank_pids() -> list[int]:
    """Return the process ids of the ranks, in order."""
    pids = subprocess.run(
        ["pgrep", "-f", "torchtune.cli._worker"], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in pids.stdout.split()]


CASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "full": (FULL, (), ()),
    "lora, packed": (LORA, (), ("loading.packing.length=200", "gradient_accumulation_steps=2")),
    "full, packed, 2 ranks": (FULL, TWO_RANKS, ("loading.packing.length=200", "enable_fsdp=true")),
    "lora, 2 ranks": (LORA, TWO_RANKS, ("checkpoints.asynchronous=true",)),
}


@pytest.mark.parametrize("case", CASES)
def test_run_killed_at_random_steps_matches_an_uninterrupted_one(
    tiny: Tiny, tmp_path: Path, case: str
) -> None:
    recipe, launch, settings = CASES[case]
    overrides = [*settings, "epochs=20", "checkpoints.every_n_steps=7", "loading.workers=1"]
    uninterrupted = Command(tiny, tmp_path / "uninterrupted", recipe, launch, *overrides)
    uninterrupted.run()
    steps = uninterrupted.steps()
    killed = Command(tiny, tmp_path / "killed", recipe, launch, *overrides)
    draw = random.Random(case)
    for step in sorted(draw.sample(range(1, steps - 5), 2)):
        killed.kill_after(step)
    killed.run()
    assert killed.results() == uninterrupted.results()
    if launch:
        return
    repeated = Command(
        tiny, tmp_path / "repeated", (recipe[0], str(tmp_path / "uninterrupted" / "config.yaml")), launch
    )
    arguments = repeated.arguments
    repeated.arguments = [*arguments[: arguments.index("--override") + 1], f"output_dir={repeated.out}"]
    repeated.run()
    assert repeated.results()["lines"] == uninterrupted.results()["lines"]
    assert repeated.results()["weights"] == uninterrupted.results()["weights"]


@pytest.mark.parametrize("ranks", [1, 4])
def test_run_resumes_on_a_different_number_of_ranks_and_reads_the_same_rows(
    tiny: Tiny, tmp_path: Path, ranks: int
) -> None:
    overrides = [
        "epochs=60",
        "checkpoints.every_n_steps=5",
        "enable_fsdp=true",
        "batch_size=1",
        "loading.workers=0",
    ]
    uninterrupted = Command(
        tiny, tmp_path / "uninterrupted", FULL, TWO_RANKS, *overrides, "gradient_accumulation_steps=2"
    )
    uninterrupted.run()
    killed = Command(tiny, tmp_path / "changed", FULL, TWO_RANKS, *overrides, "gradient_accumulation_steps=2")
    killed.kill_after(8)
    launch = ("--nproc_per_node", str(ranks))
    resumed = Command(
        tiny, tmp_path / "changed", FULL, launch, *overrides, f"gradient_accumulation_steps={4 // ranks}"
    )
    resumed.run()
    expected, lines = uninterrupted.results()["lines"], resumed.results()["lines"]
    # Roundings accumulate over 180 steps.
    tolerance = bound(torch.float32, 180 * 3 * roundings(tiny_smollm2().architecture, 64))
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    assert sum("lr" in line for line in lines) == 180
    assert lines[:5] == expected[:5]
    for a, b in zip(lines, expected, strict=True):
        (kind,) = {"loss", "validation_loss"} & a.keys()
        assert a[kind] == pytest.approx(b[kind], rel=tolerance)
        assert a.get("padding_fraction") == b.get("padding_fraction")


def test_killed_rank_ends_the_run_within_seconds_and_is_named(tiny: Tiny, tmp_path: Path) -> None:
    run = Command(tiny, tmp_path / "run", LORA, TWO_RANKS, "epochs=2000", "checkpoints.every_n_steps=5")
    process = run.start()
    run.wait_for(12, process)
    os.kill(rank_pids()[1], signal.SIGKILL)
    output = process.communicate(timeout=120)[0]  # gloo would wait for the other rank for half an hour
    assert process.returncode == 1
    last = output.strip().splitlines()[-1]
    assert last == "tune: rank 1 was terminated by SIGKILL; the kernel sends this signal when memory runs out"
    assert "Traceback" not in output
    assert run.steps() >= 12
    assert rank_pids() == []


def test_error_in_a_rank_ends_the_run_and_is_the_only_error_reported(tiny: Tiny, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": f"Say {i}.", "input": "", "output": f"{i}!"} for i in range(20_100)
    ]
    rows[20_050]["output"] = 7  # after the rows that are checked when the run starts
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = (
        f"dataset.source={source}",
        "shuffle=false",
        "batch_size=512",
        "checkpoints.every_n_steps=10",
    )
    output = Command(tiny, tmp_path / "run", LORA, TWO_RANKS, *overrides).run(status=2)
    last = output.strip().splitlines()[-1]
    assert last.startswith("tune: rank ")
    assert last.endswith(f"{source}: line 20051: 'output': expected text, got 7")
    assert "Traceback" not in output


@pytest.mark.parametrize("launch", [(), TWO_RANKS], ids=["1 rank", "2 ranks"])
@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_run_stopped_by_a_signal_saves_and_resumes_to_the_same_result(
    tiny: Tiny, tmp_path: Path, launch: tuple[str, ...], stop_signal: signal.Signals
) -> None:
    overrides = ["epochs=20", "checkpoints.every_n_steps=null", "checkpoints.at_epoch_ends=false"]
    uninterrupted = Command(
        tiny, tmp_path / "uninterrupted", LORA, launch, *overrides, "checkpoints.every_n_steps=60"
    )
    uninterrupted.run()
    run = Command(tiny, tmp_path / "run", LORA, launch, *overrides)
    process = run.start()
    run.wait_for(9, process)
    if stop_signal == signal.SIGINT:
        os.killpg(process.pid, stop_signal)  # as the terminal does
    else:
        process.send_signal(stop_signal)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + stop_signal, output
    (saved,) = (run.out / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step_"))
    assert (
        f"tune: stopped by {stop_signal.name} after step {step} of {uninterrupted.steps()}; checkpoint written to"
        f" {saved}; run the same command to resume\n"
    ) in output
    assert "Traceback" not in output
    run.run()
    lines = run.results()["lines"] if (run.out / "checkpoints").exists() else []
    assert lines == uninterrupted.results()["lines"]


@pytest.mark.parametrize("launch", [(), TWO_RANKS], ids=["1 rank", "2 ranks"])
def test_second_interrupt_ends_the_run_immediately_without_a_traceback(
    tiny: Tiny, tmp_path: Path, launch: tuple[str, ...]
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps({"instruction": "Say 1.", "input": "", "output": "1!"}) + "\n")
    source.write_text(source.read_text() * 16_000)
    overrides = (
        f"dataset.source={source}",
        "gradient_accumulation_steps=300",
    )  # a step takes several seconds
    run = Command(tiny, tmp_path / "run", LORA, launch, *overrides)
    process = run.start()
    run.wait_for(1, process)
    for _ in range(2):
        time.sleep(0.5)  # the second step is in progress
        process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "Traceback" not in output
    # With multiple ranks, rank 0 may be waiting in a collective and print nothing.
    message = "tune: terminated by SIGINT" if launch else "interrupted twice; run the same command to resume"
    assert message in output
    assert "checkpoint written to" not in output
    assert run.steps() == 1
    assert not list((run.out / "checkpoints").glob("*"))


def test_damaged_checkpoint_ends_the_run_and_the_message_names_the_previous_one(
    tiny: Tiny, tmp_path: Path
) -> None:
    run = Command(
        tiny, tmp_path / "run", FULL, (), "epochs=40", "checkpoints.every_n_steps=4", "checkpoints.keep=2"
    )
    run.kill_after(30)
    saved = sorted(
        (run.out / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:].split(".")[0])
    )
    saved = [path for path in saved if path.suffix == ""]
    data = saved[-1] / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-100])
    output = run.run(status=2)
    assert output.strip().splitlines()[-1] == (
        f"tune: {saved[-1]} is damaged: __0_0.distcp is {data.stat().st_size} bytes; expected"
        f" {data.stat().st_size + 100}; delete that folder to continue from step"
        f" {saved[-2].name.removeprefix('step_')}, or choose a different output_dir"
    )


def test_killed_data_worker_is_reported_and_does_not_affect_the_results(tiny: Tiny, tmp_path: Path) -> None:
    overrides = ("epochs=40", "loading.workers=2", "loading.packing.length=200")
    uninterrupted = Command(tiny, tmp_path / "uninterrupted", LORA, (), *overrides)
    uninterrupted.run()
    run = Command(tiny, tmp_path / "run", LORA, (), *overrides)
    process = run.start()
    run.wait_for(5, process)
    readers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    for pid in readers.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "a data worker exited with status -9; from now on, rows are encoded in the main process" in output
    assert run.results() == uninterrupted.results()


def test_restarted_ranks_resume(tiny: Tiny, tmp_path: Path) -> None:
    overrides = ("epochs=60", "checkpoints.every_n_steps=5")
    uninterrupted = Command(tiny, tmp_path / "uninterrupted", LORA, TWO_RANKS, *overrides)
    uninterrupted.run()
    run = Command(tiny, tmp_path / "run", LORA, (*TWO_RANKS, "--max-restarts", "1"), *overrides)
    process = run.start()
    run.wait_for(12, process)
    os.kill(rank_pids()[1], signal.SIGKILL)
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 0, output
    assert run.results() == uninterrupted.results()


def test_full_disk_while_writing_metrics_is_reported_without_a_traceback(tiny: Tiny, tmp_path: Path) -> None:
    run = Command(tiny, tmp_path / "run", LORA, ())
    run.kill_after(2)
    (run.out / "metrics.jsonl").unlink()
    (run.out / "metrics.jsonl").symlink_to("/dev/full")
    output = run.run(status=1)
    assert output.strip().splitlines()[-1].endswith("No space left on device")
    assert "Traceback" not in output


def test_two_nodes_log_the_same_metrics_as_one(tiny: Tiny, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    overrides = ["epochs=3", "enable_fsdp=true", "gradient_accumulation_steps=2"]
    one_node = Command(tiny, tmp_path / "alone", FULL, TWO_RANKS, *overrides)
    one_node.run()
    common = ("--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_id", "tiny")
    launch = (*common, "--rdzv_endpoint", f"127.0.0.1:{port}")
    nodes = [Command(tiny, tmp_path / "nodes", FULL, launch, *overrides).start() for _ in range(2)]
    outputs = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    run = Command(tiny, tmp_path / "nodes", FULL)
    assert run.results()["lines"] == one_node.results()["lines"]
