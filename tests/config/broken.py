"""Finding the mistakes of a config that is broken on purpose, through `tune validate`."""

import contextlib
import io
from pathlib import Path

from torchtune.cli import main

RECIPE = str(Path(__file__).with_name("sample.py"))


def mistakes_of(*words: str, yaml: str | bytes | None = None, folder: Path | None = None) -> list[str]:
    """Return what `tune validate` finds wrong in the sample's config with overrides, or in a YAML text.

    Returns:
        The lines of the list on standard error, without the folder's name; empty where the config is right.
    """
    call = ["validate", RECIPE]
    if yaml is None:
        words = ("output_dir=out", *words)
    else:
        assert folder is not None
        file = folder / "my.yaml"
        file.write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
        call += ["--config", str(file)]
    return lines_of([*call, *words], folder)


def lines_of(call: list[str], folder: Path | None = None) -> list[str]:
    """Return the mistakes that a call of `tune` prints, checking that it says how many they are."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(call)
    text = err.getvalue()
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if not line.startswith("note: ")]
    if status == 0:
        assert lines == []
        return []
    assert status == 2, text
    count, _, rest = lines[0].partition(" ")
    assert rest.startswith("mistake in " if count == "1" else "mistakes in "), text
    assert len(lines) == int(count) + 1, text
    assert out.getvalue() == ""
    return [line.removeprefix("  ").replace(f"{folder}/", "") for line in lines[1:]]
