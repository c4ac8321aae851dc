"""The environment variables with which Kubeflow and Slurm start the ranks of a run."""

import os
import re
from collections.abc import MutableMapping
from typing import Final

_FIRST_PORT, _N_PORTS = 20_000, 10_000
"""The ports from which a Slurm job's is chosen, by the number of the job."""
_TORCHRUN_SIZES: Final = ("PET_NNODES", "PET_NPROC_PER_NODE")


def has_torchrun_variables() -> bool:
    """Return whether the environment sets torchrun's sizes, as Kubeflow's does.

    torchrun reads the default of each option from the environment, such as PET_NNODES for --nnodes
    (torch/distributed/argparse_util.py).
    """
    return any(name in os.environ for name in _TORCHRUN_SIZES)


def set_rank_variables_from_slurm(environment: MutableMapping[str, str]) -> None:
    """Set the variables of a rank, such as RANK and WORLD_SIZE, if srun started this process as one of several tasks.

    Variables that are already set are not changed. Slurm sets SLURM_STEP_NUM_TASKS only for the tasks of srun, not for
    a batch script (https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES).

    Args:
        environment: The environment of this process.
    """
    size = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if size == "1" or "WORLD_SIZE" in environment:
        return
    job = int(environment["SLURM_JOB_ID"])
    variables = {
        "WORLD_SIZE": size,
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": first_host(environment["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(_FIRST_PORT + job % _N_PORTS),
    }
    for name, value in variables.items():
        environment.setdefault(name, value)


def first_host(hosts: str) -> str:
    """Return the first host of a list in Slurm's notation, such as `gpu[07-09,12],cpu1`."""
    first = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", hosts)
    return first.partition(",")[0]
