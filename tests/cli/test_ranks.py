"""If ranks fail, `tune` prints one message, about the rank that failed first."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from tests.recipes.parts import full_config
from tests.tune import Tune
from torchtune.cli import _run
from torchtune.cli._run import _report_failure
from torchtune.placement import Placement, Sharding


def make_failure(folder: Path, rank: int, exitcode: int, **data: object) -> ProcessFailure:
    """Build the failure that torch's launcher records for a rank, with its error file."""
    file = folder / f"{rank}.json"
    if data:
        file.write_text(json.dumps({"timestamp": 0, **data}))
    return ProcessFailure(local_rank=rank, pid=1000 + rank, exitcode=exitcode, error_file=str(file))


@pytest.mark.parametrize(
    ("sharding", "local_ranks", "threads"),
    [
        (None, 2, 1),
        (Sharding(), 2, 1),
        (Sharding(cpu_offload=True), 1, 12),
        (Sharding(cpu_offload=True), 8, 1),
        (Sharding(cpu_offload=True), 5, 2),
        (Sharding(cpu_offload=True), 24, 1),
    ],
)
def test_ranks_with_offloaded_weights_share_the_cores_of_their_machine(
    sharding: Sharding | None,
    local_ranks: int,
    threads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    cfg = full_config(tmp_path, enable_fsdp=True, placement=Placement(sharding=sharding))
    assert _run._threads_per_rank(cfg, local_ranks) == threads
    assert _run._threads_per_rank(object(), local_ranks) == 1, "a recipe without a placement"


ECHO = {"message": "gloo: connection closed", "is_secondary": True, "timestamp": 1}


@pytest.mark.parametrize(
    ("exitcode", "data", "message", "status"),
    [
        (
            -signal.SIGKILL,
            {},
            "was terminated by SIGKILL; the kernel sends this signal when memory runs out",
            1,
        ),
        (-signal.SIGSEGV, {}, "was terminated by SIGSEGV", 1),
        (200, {}, "exited with status 200", 1),
        (3, {}, "exited with status 3", 1),
        (
            2,
            {"message": "tune: rows.jsonl: ...\n", "summary": "rows.jsonl: line 7: no column 'output'"},
            "failed: rows.jsonl: line 7: no column 'output'",
            2,
        ),
        (
            1,
            {"message": "Traceback ...\ntune: the run failed: x\n"},
            "failed\nTraceback ...\ntune: the run failed: x",
            1,
        ),
    ],
)
def test_the_first_failed_rank_is_reported_with_its_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    exitcode: int,
    data: dict[str, object],
    message: str,
    status: int,
) -> None:
    failures = {0: make_failure(tmp_path, 0, 1, **ECHO), 1: make_failure(tmp_path, 1, exitcode, **data)}
    assert _report_failure(failures) == status
    assert capsys.readouterr().err == f"tune: rank 1 {message}\n"


def test_a_rank_terminated_by_the_launcher_is_not_reported_as_the_first_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        _report_failure({0: make_failure(tmp_path, 0, 143), 1: make_failure(tmp_path, 1, -signal.SIGKILL)})
        == 1
    )
    assert capsys.readouterr().err.startswith("tune: rank 1 was terminated by SIGKILL")
    assert _report_failure({1: make_failure(tmp_path, 1, 143)}) == 1
    assert capsys.readouterr().err == "tune: rank 1 was terminated by SIGTERM\n"
    assert _report_failure({0: make_failure(tmp_path, 0, 143), 1: make_failure(tmp_path, 1, 1, **ECHO)}) == 1
    assert capsys.readouterr().err.startswith("tune: rank 1 lost its connection")


def test_a_lost_connection_is_reported_if_no_other_rank_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _report_failure({3: make_failure(tmp_path, 3, 1, **ECHO)}) == 1
    assert "tune: rank 3 lost its connection to another rank, which has exited" in capsys.readouterr().err


def test_a_command_after_launcher_options_is_rejected_with_advice(tune: Tune) -> None:
    result = tune("--nproc_per_node", "8", "validate", "full_finetune", "--config", "smollm2_135m_full")
    assert result.status == 2
    assert (
        "validate: torchrun options must come after this command; run tune validate --nproc_per_node 8 ..."
        in result.err
    )


RANK = """
import atexit, os, sys
from torchtune.cli import _worker

class Finalized:
    def __del__(self, write=os.write):
        write(1, b"finalized")

finalized = Finalized()

def main(argv):
    atexit.register(print, "a handler of the recipe")
    print("done")
    return {status}

_worker.main = main
sys.exit(_worker.run_rank([]))
"""


@pytest.mark.parametrize("status", [0, 3])
def test_a_rank_runs_its_exit_handlers_and_exits_before_the_interpreter_finalizes(status: int) -> None:
    code = [sys.executable, "-c", RANK.format(status=status)]
    result = subprocess.run(code, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (
        status,
        "done\na handler of the recipe\n",
        "",
    )
