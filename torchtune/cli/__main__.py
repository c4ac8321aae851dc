"""`python -m torchtune.cli` is `tune`."""

from torchtune.cli import run

run()
