"""`python -m torchtune.cli` runs `tune`."""

import sys
from pathlib import Path

# `python -m` prepends the working folder to sys.path; an unrelated torch.py in the folder would then be imported.
if not sys.flags.safe_path and Path(sys.path[0]) != Path(__file__).resolve().parents[2]:
    del sys.path[0]

from torchtune.cli import run

if __name__ == "__main__":
    run()
