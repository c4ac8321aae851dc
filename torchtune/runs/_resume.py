"""How a run may start in an output folder that already holds one."""

from attrs import frozen

from torchtune.runs.command_line import ACCEPT_CHANGES, EXTEND, OVERWRITE, Call


@frozen
class Resume:
    """How a run may start in an output folder that already holds one."""

    overwrite: bool = False
    """Remove the earlier run and start a new one."""
    extend: bool = False
    """Continue a finished run whose limits were raised."""
    accept_changes: bool = False
    """Resume a run although its code, data or packages have changed."""
    from_python: bool = False
    """Messages name the options as arguments of a function, not as flags."""

    def spelling(self, name: str) -> str:
        """Return an option as the user writes it."""
        return f"{name}=True" if self.from_python else f"--{name.replace('_', '-')}"

    @property
    def new_run_hint(self) -> str:
        """How to start a new run although the folder holds something else."""
        return f"to start a new run, choose another output_dir or pass {self.spelling('overwrite')}"


RESUME_ONLY = Resume()
"""Resume the same run if it has not finished; allow nothing else."""


def resume_options(call: Call) -> Resume:
    """Return the options of a command line."""
    return Resume(call.has(OVERWRITE), call.has(EXTEND), call.has(ACCEPT_CHANGES))
