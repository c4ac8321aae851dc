"""Missing ranks and nodes are reported while a run waits for them, and Ctrl-C or a time limit ends the wait."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = ("--master_addr", "127.0.0.1", "--master_port", "PORT")
RECIPE = '''"""Starts ranks."""

import os

from attrs import define

from torchtune import config, training


@define(kw_only=True)
class StartConfig:
    """The config of this recipe."""

    output_dir: str
    device: str = "cpu"
    seed: int | None = 0
    fails_on: list[int] = []
    fails_before: bool = False


def check(cfg: StartConfig) -> None:
    if int(os.environ["RANK"]) in cfg.fails_on:
        raise config.InstantiationError("rows.jsonl: line 7: no column 'output'")


@config.parse
def main(cfg: StartConfig) -> None:
    """Start, and wait for the other ranks."""
    if cfg.fails_before:
        check(cfg)
    with training.start(cfg) as world:
        check(cfg)
        world.barrier()
        print("all ranks joined", flush=True)
'''


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def tune(folder: Path, *args: str, setup: str = "", **environment: str) -> "subprocess.Popen[str]":
    """Start `tune` with piped output in a folder; the argument RECIPE is replaced by the recipe's path.

    Args:
        folder: The working folder of the process.
        args: The arguments of `tune`.
        setup: Python code that each rank runs before the recipe.
        environment: Environment variables.
    """
    (folder / "start.py").write_text(RECIPE + setup)
    recipe = args.index("RECIPE")
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torchtune.cli",
            *args[:recipe],
            "./start.py",
            "output_dir=run",
            *args[recipe + 1 :],
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_enable_interrupts,  # noqa: PLW1509 - the child needs no lock that another thread may hold
    )


def _enable_interrupts() -> None:
    """Enable Ctrl-C, which shells disable for background processes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def rank_variables(port: int, rank: int = 0, **variables: str) -> dict[str, str]:
    """Return the environment variables that a launcher would set for one of two ranks."""
    return {
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **variables,
    }


def interrupt_after_message(process: "subprocess.Popen[str]", message: str) -> str:
    """Wait for a message, interrupt the process, and return everything that it wrote to standard error."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if message in line:
            process.send_signal(signal.SIGINT)
            break
    text = "".join(lines) + process.communicate(timeout=60)[1]
    assert process.returncode == 130, text
    assert "Traceback" not in text
    return text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "awaited"), [(0, "rank 1"), pytest.param(1, "rank 0", marks=pytest.mark.slow)]
)
def test_missing_ranks_announced_by_environment_variables_are_reported_and_ctrl_c_ends_the_wait(
    tmp_path: Path, rank: int, awaited: str
) -> None:
    port = free_port()
    process = tune(tmp_path, "RECIPE", **rank_variables(port, rank))
    text = interrupt_after_message(
        process, f"rank {rank} is waiting for {awaited} at 127.0.0.1:{port}; Ctrl-C aborts"
    )
    assert "WORLD_SIZE=2 is set in the environment: unset it to run on one rank" in text


@pytest.mark.slow
def test_only_one_rank_per_host_prints_messages(tmp_path: Path) -> None:
    process = tune(
        tmp_path, "RECIPE", "--join-timeout", "4", **rank_variables(free_port(), 1, LOCAL_RANK="1")
    )
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert text.startswith("tune: rank 0 did not join at 127.0.0.1:")
    assert "within 4 s; start any missing rank, check that its host can reach that address" in text
    assert len(text.splitlines()) == 1


@pytest.mark.slow
def test_a_port_in_use_is_reported_in_one_message(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = tune(tmp_path, "RECIPE", **rank_variables(port))
        text = process.communicate(timeout=60)[1]
    assert process.returncode == 2, text
    assert f"tune: rank 0 cannot use 127.0.0.1:{port}: " in text
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "launch",
    [
        pytest.param(("--node_rank", "0", *ADDRESS), id="first of two"),
        pytest.param(("--node_rank", "1", *ADDRESS), id="second of two", marks=pytest.mark.slow),
        pytest.param(
            ("--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:PORT"), id="c10d", marks=pytest.mark.slow
        ),
    ],
)
def test_a_missing_node_is_reported_and_ctrl_c_ends_the_wait(tmp_path: Path, launch: tuple[str, ...]) -> None:
    options = [option.replace("PORT", str(free_port())) for option in launch]
    process = tune(tmp_path, "--nnodes", "2", "--nproc_per_node", "1", *options, "RECIPE")
    text = interrupt_after_message(process, "waiting for 2 nodes (--nnodes 2 --nproc_per_node 1 ")
    assert text.endswith("tune: interrupted while waiting for other nodes\n")


@pytest.mark.slow
def test_the_wait_for_a_missing_node_ends_after_the_join_timeout(tmp_path: Path) -> None:
    launch = (
        "--nnodes",
        "2",
        "--node_rank",
        "0",
        "--master_addr",
        "127.0.0.1",
        "--master_port",
        str(free_port()),
    )
    process = tune(tmp_path, *launch, "RECIPE", "--join-timeout", "3")
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "joined within 3 s; start the other nodes, check that they can reach this one" in text


@pytest.mark.slow
def test_a_time_limit_that_is_not_a_number_is_rejected(tmp_path: Path) -> None:
    process = tune(tmp_path, "RECIPE", "--join-timeout", "soon")
    assert "--join-timeout: expected an integer above 0, got 'soon'" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "failing", "reported"),
    [
        ("fails_before=false", "[1]", 1),
        ("fails_before=true", "[0, 1]", None),
        pytest.param("fails_before=true", "[1]", 1, marks=pytest.mark.slow),
        pytest.param("fails_before=true", "[0]", 0, marks=pytest.mark.slow),
        pytest.param("fails_before=false", "[0]", 0, marks=pytest.mark.slow),
        pytest.param("fails_before=false", "[0, 1]", None, marks=pytest.mark.slow),
    ],
)
def test_an_error_during_rank_setup_is_reported_in_one_message(
    tmp_path: Path, setting: str, failing: str, reported: int | None
) -> None:
    process = tune(tmp_path, "--nproc_per_node", "2", "RECIPE", f"fails_on={failing}", setting)
    out, text = process.communicate(timeout=60)
    assert process.returncode == 2, text
    lines = [line for line in text.splitlines() if line and "waits for" not in line]
    assert [line.partition(": ")[2].partition(": ")[2] for line in lines] == [
        "rows.jsonl: line 7: no column 'output'"
    ]
    assert reported is None or lines[0].startswith(f"tune: rank {reported} failed: ")
    assert "all ranks joined" not in out
