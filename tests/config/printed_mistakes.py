"""Helpers that run `tune validate` and return the printed mistakes."""

import contextlib
import io
from pathlib import Path

from torchtune.cli import main

RECIPE = str(Path(__file__).with_name("sample.py"))


def mistakes_of(*overrides: str, yaml: str | bytes | None = None, folder: Path | None = None) -> list[str]:
    """Return the mistakes that `tune validate` prints for the sample config with overrides, or for YAML text.

    Returns:
        The printed lines, without the path of the folder; empty if the config is valid.
    """
    args = ["validate", RECIPE]
    if yaml is None:
        overrides = ("output_dir=out", *overrides)
    else:
        assert folder is not None
        file = folder / "my.yaml"
        file.write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
        args += ["--config", str(file)]
    return printed_mistakes([*args, *overrides], folder)


def printed_mistakes(args: list[str], folder: Path | None = None) -> list[str]:
    """Return the mistakes that `tune` prints, and check the count in their heading."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(args)
    text = err.getvalue()
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if not line.startswith("note: ")]
    if status == 0:
        assert lines == []
        return []
    assert status == 2, text
    count, _, heading = lines[0].partition(" ")
    plural = "" if count == "1" else "s"
    assert heading.startswith(tuple(f"mistake{plural} {preposition} " for preposition in ("in", "on"))), text
    assert len(lines) == int(count) + 1, text
    assert out.getvalue() == ""
    return [line.removeprefix("  ").replace(f"{folder}/", "") for line in lines[1:]]
