"""What the user allows a start of a run to do in a folder that holds one."""

from attrs import frozen

from torchtune.runs.command_line import ACCEPT_CHANGES, EXTEND, OVERWRITE, Call


@frozen
class Resume:
    """What the user allows a start of a run to do in a folder that holds one."""

    overwrite: bool = False
    """Start anew, whatever the folder holds of an earlier run."""
    extend: bool = False
    """Continue a finished run that is longer now."""
    accept_changes: bool = False
    """Continue a run although its code, data or packages have changed."""
    from_python: bool = False
    """These were arguments of a function, and are named so in messages."""

    def spelling(self, name: str) -> str:
        """Return how the user writes one of them."""
        return f"{name}=True" if self.from_python else f"--{name.replace('_', '-')}"

    @property
    def elsewhere(self) -> str:
        """What to do about a folder that holds something else than this run."""
        return f"choose another output_dir, or {self.spelling('overwrite')}"


CONTINUES = Resume()
"""Nothing but to continue the same run, if it has not ended."""


def resume_options(call: Call) -> Resume:
    """Return what a command line allows."""
    return Resume(call.has(OVERWRITE), call.has(EXTEND), call.has(ACCEPT_CHANGES))
