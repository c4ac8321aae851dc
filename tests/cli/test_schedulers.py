"""Kubeflow's variables select torchrun, and srun's tasks are the ranks of a run."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.test_failed_ranks import end_of
from tests.cli.test_waiting import free_port, tune
from torchtune.cli._schedulers import first_host, set_rank_variables_from_slurm

STEP = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("gpu[3,5-6]", "gpu3"),
        ("rack[1-2]node[03-04]", "rack1node03"),
        ("node-[1-2].cluster", "node-1.cluster"),
    ],
)
def test_first_host_of_a_slurm_node_list(hosts: str, host: str) -> None:
    assert first_host(hosts) == host


def test_a_task_of_srun_is_a_rank() -> None:
    environment = dict(STEP)
    set_rank_variables_from_slurm(environment)
    assert environment.items() - STEP.items() == {
        ("WORLD_SIZE", "4"),
        ("RANK", "3"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "gpu07"),
        ("MASTER_PORT", "23456"),
    }


@pytest.mark.parametrize(
    "changes",
    [{"SLURM_STEP_NUM_TASKS": "1"}, {"WORLD_SIZE": "2", "RANK": "0"}],
    ids=["one task", "variables of another launcher"],
)
def test_variables_are_not_changed(changes: dict[str, str]) -> None:
    environment = STEP | changes
    set_rank_variables_from_slurm(environment)
    assert environment == STEP | changes


def test_a_batch_script_is_not_a_task_of_srun() -> None:
    script = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    environment = dict(script)
    set_rank_variables_from_slurm(environment)
    assert environment == script


def started(processes: "list[subprocess.Popen[str]]") -> list[str]:
    """Return the standard output of each process, after all have ended without an error."""
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return [output for output, _ in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_kubeflows_variables_start_ranks(tmp_path: Path, ranks: int) -> None:
    """Two pods of `ranks / 2` ranks."""
    port = str(free_port())
    pods = []
    for pod in range(2):
        variables = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": str(ranks // 2), "PET_NODE_RANK": str(pod)}
        variables |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
        (tmp_path / f"{pod}").mkdir()
        pods.append(tune(tmp_path / f"{pod}", "RECIPE", **variables))
    assert [output.count("all ranks joined") for output in started(pods)] == [ranks // 2] * 2


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_tasks_of_srun_join(tmp_path: Path, ranks: int) -> None:
    variables = STEP | {"SLURM_STEP_NUM_TASKS": str(ranks), "SLURM_STEP_NODELIST": "localhost"}
    variables |= {"SLURM_JOB_ID": str(free_port()), "MASTER_PORT": str(free_port())}
    tasks = [
        tune(tmp_path, "RECIPE", **variables | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
        for rank in range(ranks)
    ]
    assert [output.count("all ranks joined") for output in started(tasks)] == [1] * ranks


def test_an_unavailable_size_of_kubeflow_is_rejected(tmp_path: Path) -> None:
    process = tune(tmp_path, "RECIPE", PET_NPROC_PER_NODE="two")
    status, text = end_of(process)
    assert status == 2, text
    assert "Traceback" not in text
