"""Options for starting a run in an output folder that already contains a run."""

from attrs import frozen

from torchtune.runs.command_line import ACCEPT_CHANGES, EXTEND, OVERWRITE, Call


@frozen
class Resume:
    """The permitted ways to start a run in an output folder that already contains a run."""

    overwrite: bool = False
    """Remove the earlier run and start a new one."""
    extend: bool = False
    """Continue a finished run whose limits were raised."""
    accept_changes: bool = False
    """Resume a run even though its code, data or packages have changed."""
    from_python: bool = False
    """Whether messages show the options as Python arguments rather than as flags."""

    def spelling(self, name: str) -> str:
        """Return an option as the user types it: a flag, or a Python argument."""
        return f"{name}=True" if self.from_python else f"--{name.replace('_', '-')}"

    @property
    def new_run_hint(self) -> str:
        """Advice for starting a new run even though the folder contains something else."""
        return f"to start a new run, choose a different output_dir or pass {self.spelling('overwrite')}"


RESUME_ONLY = Resume()
"""Resume the same run if it has not finished; allow nothing else."""


def resume_options(call: Call) -> Resume:
    """Return the options for resuming a run from a command line."""
    return Resume(call.has(OVERWRITE), call.has(EXTEND), call.has(ACCEPT_CHANGES))
