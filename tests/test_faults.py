"""What happens to runs on bad days: kills, signals, a rank that ends, a checkpoint that is damaged. Real processes.

The quick tests of the same things, within one process, stand in `tests/training` and `tests/recipes`.
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
TWO = ("--nproc_per_node", "2")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from torchtune.cli import main

    return tiny_run(tmp_path_factory.mktemp("tiny"), lambda *words: main(words))


class Command:
    """One run by the command line, which may be started again and again.

    Args:
        tiny: The model and rows.
        out: Its output folder.
        of: The recipe, its config, and overrides.
        launch: torchrun's options.
        words: More overrides.
    """

    def __init__(
        self, tiny: Tiny, out: Path, of: tuple[str, ...], launch: tuple[str, ...] = (), *words: str
    ) -> None:
        recipe, config, *more = of
        self.out = out
        fixed = [*tiny.rows, f"output_dir={out}", "device=cpu", "batch_size=2", "lr_scheduler.warmup_steps=0"]
        fixed += ["validation.every_n_steps=5", "validation.prompts=[Hello]", "validation.max_new_tokens=3"]
        overrides = [*tiny.words, *fixed, *more, *words]
        tune = [sys.executable, "-m", "torchtune.cli", *launch]
        self._words = [*tune, recipe, "--config", config, "--override", *overrides]

    def start(self, *more: str) -> "subprocess.Popen[str]":
        """Start it, in a process group of its own."""
        return subprocess.Popen(
            [*self._words, *more],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *more: str, status: int = 0) -> str:
        """Run it to its end, and return what it said."""
        process = self.start(*more)
        said = process.communicate(timeout=240)[0]
        assert process.returncode == status, said
        return said

    def steps(self) -> int:
        """Count the steps in `metrics.jsonl`."""
        try:
            return (self.out / "metrics.jsonl").read_text().count('"lr"')
        except FileNotFoundError:
            return 0

    def wait_for(self, step: int, process: "subprocess.Popen[str]") -> None:
        """Wait until a step is done."""
        until = time.monotonic() + 120
        while self.steps() < step:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.01)

    def killed_after(self, step: int) -> None:
        """Run it, and kill all of its processes after a step."""
        process = self.start()
        self.wait_for(step, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (self.out / "final").exists()

    def left(self) -> dict[str, Any]:
        """All that two equal runs leave equal: metrics without the clock's, weights, the last checkpoint."""
        lines = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            line.pop("tokens_per_second", None)
            line.pop("peak_memory_bytes", None)
        (checkpoint,) = (self.out / "checkpoints").iterdir()
        files = json.loads((checkpoint / "manifest.json").read_text())["files"]
        shared = torch.load(checkpoint / "state.pt", weights_only=True)
        # Optimizer, weights and random numbers by their checksums; the other two hold the folder's name.
        sums = {name: found for name, found in files.items() if name not in (".metadata", "state.pt")}
        assert {"rank_0.pt", "__0_0.distcp"} <= sums.keys()
        (weights,) = (self.out / "final").glob("*.safetensors")
        return {
            "lines": lines,
            "checkpoint": (checkpoint.name, sums, shared),
            "weights": weights.read_bytes(),
            "best": next((self.out / "best").glob("*.safetensors")).read_bytes(),
            "answers": (self.out / "samples.jsonl").read_text(),
        }


def workers() -> list[int]:
    """Find the processes of ranks, in the order of their numbers."""
    found = subprocess.run(
        ["pgrep", "-f", "torchtune.cli._worker"], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


CASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "full": (FULL, (), ()),
    "lora, packed": (LORA, (), ("loading.packing.length=200", "gradient_accumulation_steps=2")),
    "full, packed, 2 ranks": (FULL, TWO, ("loading.packing.length=200", "enable_fsdp=true")),
    "lora, 2 ranks": (LORA, TWO, ("checkpoints.asynchronous=true",)),
}


@pytest.mark.parametrize("case", CASES)
def test_run_that_is_killed_at_random_steps_equals_the_unbroken_one(
    tiny: Tiny, tmp_path: Path, case: str
) -> None:
    of, launch, settings = CASES[case]
    words = [*settings, "epochs=20", "checkpoints.every_n_steps=7", "loading.workers=1"]
    unbroken = Command(tiny, tmp_path / "unbroken", of, launch, *words)
    unbroken.run()
    steps = unbroken.steps()
    broken = Command(tiny, tmp_path / "broken", of, launch, *words)
    draw = random.Random(case)
    for step in sorted(draw.sample(range(1, steps - 5), 2)):
        broken.killed_after(step)
    broken.run()
    assert broken.left() == unbroken.left()
    if launch:
        return
    again = Command(tiny, tmp_path / "again", (of[0], str(tmp_path / "unbroken" / "config.yaml")), launch)
    again._words = [*again._words[: again._words.index("--override") + 1], f"output_dir={again.out}"]
    again.run()
    assert again.left()["lines"] == unbroken.left()["lines"]
    assert again.left()["weights"] == unbroken.left()["weights"]


@pytest.mark.parametrize("ranks", [1, 4])
def test_run_goes_on_with_another_number_of_ranks_and_reads_the_same_rows(
    tiny: Tiny, tmp_path: Path, ranks: int
) -> None:
    words = [
        "epochs=60",
        "checkpoints.every_n_steps=5",
        "enable_fsdp=true",
        "batch_size=1",
        "loading.workers=0",
    ]
    unbroken = Command(tiny, tmp_path / "unbroken", FULL, TWO, *words, "gradient_accumulation_steps=2")
    unbroken.run()
    changed = Command(tiny, tmp_path / "changed", FULL, TWO, *words, "gradient_accumulation_steps=2")
    changed.killed_after(8)
    launch = ("--nproc_per_node", str(ranks))
    on = Command(
        tiny, tmp_path / "changed", FULL, launch, *words, f"gradient_accumulation_steps={4 // ranks}"
    )
    on.run()
    expected, found = unbroken.left()["lines"], on.left()["lines"]
    # Each of 180 steps starts where the roundings of those before it have led.
    rounded = bound(torch.float32, 180 * 3 * roundings(tiny_smollm2().architecture, 64))
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    assert sum("lr" in line for line in found) == 180
    assert found[:5] == expected[:5]
    for a, b in zip(found, expected, strict=True):
        (kind,) = {"loss", "validation_loss"} & a.keys()
        assert a[kind] == pytest.approx(b[kind], rel=rounded)
        assert a.get("padding_share") == b.get("padding_share")


def test_rank_that_is_killed_ends_the_run_within_seconds_and_is_named(tiny: Tiny, tmp_path: Path) -> None:
    run = Command(tiny, tmp_path / "run", LORA, TWO, "epochs=2000", "checkpoints.every_n_steps=5")
    process = run.start()
    run.wait_for(12, process)
    os.kill(workers()[1], signal.SIGKILL)
    said = process.communicate(timeout=120)[0]  # gloo would wait for the other rank for half an hour
    assert process.returncode == 1
    last = said.strip().splitlines()[-1]
    assert last == "tune: rank 1: was terminated by SIGKILL; the kernel does this when memory runs out"
    assert "Traceback" not in said
    assert run.steps() >= 12
    assert workers() == []


def test_rank_that_raises_ends_the_run_with_its_error_alone(tiny: Tiny, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": f"Say {i}.", "input": "", "output": f"{i}!"} for i in range(20_100)
    ]
    rows[20_050]["output"] = 7  # behind those that are looked at when the run starts
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (f"dataset.source={source}", "shuffle=false", "batch_size=512", "checkpoints.every_n_steps=10")
    said = Command(tiny, tmp_path / "run", LORA, TWO, *words).run(status=2)
    last = said.strip().splitlines()[-1]
    assert last.startswith("tune: rank ")
    assert last.endswith(f"{source}: line 20051: 'output': expected text, got 7")
    assert "Traceback" not in said


@pytest.mark.parametrize("launch", [(), TWO], ids=["1 rank", "2 ranks"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_that_is_asked_to_end_saves_and_goes_on_to_the_same_end(
    tiny: Tiny, tmp_path: Path, launch: tuple[str, ...], number: signal.Signals
) -> None:
    words = ["epochs=20", "checkpoints.every_n_steps=null", "checkpoints.at_epoch_ends=false"]
    unbroken = Command(tiny, tmp_path / "unbroken", LORA, launch, *words, "checkpoints.every_n_steps=60")
    unbroken.run()
    run = Command(tiny, tmp_path / "run", LORA, launch, *words)
    process = run.start()
    run.wait_for(9, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as the terminal does
    else:
        process.send_signal(number)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, said
    (saved,) = (run.out / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step_"))
    assert (
        f"tune: stopped by {number.name} after step {step} of {unbroken.steps()}; {saved} is written" in said
    )
    assert "Traceback" not in said
    run.run()
    lines = run.left()["lines"] if (run.out / "checkpoints").exists() else []
    assert lines == unbroken.left()["lines"]


def test_second_interrupt_ends_at_once_in_one_line(tiny: Tiny, tmp_path: Path) -> None:
    run = Command(
        tiny, tmp_path / "run", LORA, (), "epochs=2000", "batch_size=12", "gradient_accumulation_steps=40"
    )
    process = run.start()
    run.wait_for(1, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "stopped by SIGINT" in said or "interrupted twice; run the same command to resume" in said


def test_damaged_checkpoint_ends_the_run_and_the_one_before_is_offered(tiny: Tiny, tmp_path: Path) -> None:
    run = Command(
        tiny, tmp_path / "run", FULL, (), "epochs=40", "checkpoints.every_n_steps=4", "checkpoints.keep=2"
    )
    run.killed_after(30)
    saved = sorted(
        (run.out / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:].split(".")[0])
    )
    saved = [path for path in saved if path.suffix == ""]
    data = saved[-1] / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-100])
    said = run.run(status=2)
    assert said.strip().splitlines()[-1] == (
        f"tune: {saved[-1]} is damaged: __0_0.distcp has {data.stat().st_size} bytes, {data.stat().st_size + 100} were"
        f" written; delete that folder to continue from {saved[-2].name}, or set another output_dir"
    )


def test_reader_that_is_killed_is_told_and_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    words = ("epochs=40", "loading.workers=2", "loading.packing.length=200")
    unbroken = Command(tiny, tmp_path / "unbroken", LORA, (), *words)
    unbroken.run()
    run = Command(tiny, tmp_path / "run", LORA, (), *words)
    process = run.start()
    run.wait_for(5, process)
    readers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    for pid in readers.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert (
        "a process that encodes rows ahead ended with status -9; from here on, rows are encoded when" in said
    )
    assert run.left() == unbroken.left()


def test_ranks_that_are_started_again_go_on(tiny: Tiny, tmp_path: Path) -> None:
    words = ("epochs=60", "checkpoints.every_n_steps=5")
    unbroken = Command(tiny, tmp_path / "unbroken", LORA, TWO, *words)
    unbroken.run()
    run = Command(tiny, tmp_path / "run", LORA, (*TWO, "--max-restarts", "1"), *words)
    process = run.start()
    run.wait_for(12, process)
    os.kill(workers()[1], signal.SIGKILL)
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 0, said
    assert run.left() == unbroken.left()


def test_metrics_on_a_full_disk_are_one_line(tiny: Tiny, tmp_path: Path) -> None:
    run = Command(tiny, tmp_path / "run", LORA, ())
    run.out.mkdir()
    (run.out / "metrics.jsonl").symlink_to("/dev/full")
    said = run.run(status=1)
    assert said.strip().splitlines()[-1].endswith("No space left on device")
    assert "Traceback" not in said


def test_two_nodes_train_as_one(tiny: Tiny, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["epochs=3", "enable_fsdp=true", "gradient_accumulation_steps=2"]
    alone = Command(tiny, tmp_path / "alone", FULL, TWO, *words)
    alone.run()
    common = ("--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_id", "tiny")
    launch = (*common, "--rdzv_endpoint", f"127.0.0.1:{port}")
    nodes = [Command(tiny, tmp_path / "nodes", FULL, launch, *words).start() for _ in range(2)]
    said = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    found = Command(tiny, tmp_path / "nodes", FULL)
    assert found.left()["lines"] == alone.left()["lines"]
