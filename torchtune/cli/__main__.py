"""`python -m torchtune.cli` is `tune`."""

from torchtune.cli import run

if __name__ == "__main__":
    run()
