"""What is said of ranks that end, in one message, whichever ended first."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from tests.tune import Tune
from torchtune.cli._run import _tell


def failure(folder: Path, rank: int, exitcode: int, **data: object) -> ProcessFailure:
    """Make what torch's launcher makes of a rank that ended, with its error file."""
    file = folder / f"{rank}.json"
    if data:
        file.write_text(json.dumps({"timestamp": 0, **data}))
    return ProcessFailure(local_rank=rank, pid=1000 + rank, exitcode=exitcode, error_file=str(file))


ECHO = {"message": "gloo: connection closed", "is_echo": True, "timestamp": 1}


@pytest.mark.parametrize(
    ("exitcode", "data", "said", "status"),
    [
        (-signal.SIGKILL, {}, "was ended by SIGKILL; the kernel does so when memory is short", 1),
        (-signal.SIGSEGV, {}, "was ended by SIGSEGV", 1),
        (200, {}, "ended with status 200", 1),
        (3, {}, "ended with status 3", 1),
        (
            2,
            {"message": "tune: rows.jsonl: ...\n", "sentence": "rows.jsonl: line 7: no column 'output'"},
            "rows.jsonl: line 7: no column 'output'",
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
def test_the_rank_that_ended_first_is_named_with_its_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    exitcode: int,
    data: dict[str, object],
    said: str,
    status: int,
) -> None:
    failures = {0: failure(tmp_path, 0, 1, **ECHO), 1: failure(tmp_path, 1, exitcode, **data)}
    assert _tell(failures) == status
    assert capsys.readouterr().err == f"tune: rank 1: {said}\n"


def test_the_rank_that_the_launcher_ended_is_not_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _tell({0: failure(tmp_path, 0, 143), 1: failure(tmp_path, 1, -signal.SIGKILL)}) == 1
    assert capsys.readouterr().err.startswith("tune: rank 1: was ended by SIGKILL")
    assert _tell({1: failure(tmp_path, 1, 143)}) == 1
    assert capsys.readouterr().err == "tune: rank 1: was ended by SIGTERM\n"
    assert _tell({0: failure(tmp_path, 0, 143), 1: failure(tmp_path, 1, 1, **ECHO)}) == 1
    assert capsys.readouterr().err.startswith("tune: rank 1: lost its connection")


def test_ranks_that_only_lost_another_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _tell({3: failure(tmp_path, 3, 1, **ECHO)}) == 1
    assert "tune: rank 3: lost its connection to another rank, which has ended" in capsys.readouterr().err


def test_a_verb_behind_the_launchers_options_is_told_where_it_stands(tune: Tune) -> None:
    done = tune("--nproc_per_node", "8", "validate", "full_finetune", "--config", "smollm2_135m_full")
    assert done.status == 2
    assert "validate: is a verb and stands first; write tune validate --nproc_per_node 8 ..." in done.err


LEAVING = """
import atexit, os, sys
from torchtune.cli import _worker

class Held:
    def __del__(self, write=os.write):
        write(1, b"taken down")

held = Held()

def main(argv):
    atexit.register(print, "a handler of the recipe")
    print("done")
    return {status}

_worker.main = main
sys.exit(_worker.answered([]))
"""


@pytest.mark.parametrize("status", [0, 3])
def test_a_rank_runs_its_exit_handlers_and_ends_before_the_interpreter_takes_itself_down(status: int) -> None:
    code = [sys.executable, "-c", LEAVING.format(status=status)]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "done\na handler of the recipe\n", "")
