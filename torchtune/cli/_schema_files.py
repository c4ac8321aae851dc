"""Locate and build the schemas that YAML configs refer to in their first line: `configs_yaml/schemas/<recipe>.json`.

The files are generated from the code and are not in git: `scripts/install.sh` and the wheel build write them. A wheel
that was built without torch contains empty schemas, which accept every config and are replaced on first use.
"""

import os
import sys

from torchtune.runs import folder_of

EMPTY = "{}\n"
"""The text of a schema that accepts every config."""


def schema_folder() -> str:
    """Return the folder of the shipped recipes' schemas."""
    return os.path.join(folder_of("configs_yaml"), "schemas")  # noqa: PTH118 -- importing pathlib is slow


def schema_file(recipe: str) -> str | None:
    """Return the schema file of a registered recipe, built if necessary; None if it cannot be built."""
    file = os.path.join(schema_folder(), f"{recipe}.json")  # noqa: PTH118
    if not is_built(file):
        _build()
    return file if is_built(file) else None


def is_built(file: str) -> bool:
    """Return whether a schema file exists and is not an empty schema."""
    return os.path.isfile(file) and os.path.getsize(file) > len(EMPTY)  # noqa: PTH113, PTH202


def _build() -> None:
    """Build the schemas in a separate process: building requires torch, which the calling command does not import."""
    import subprocess
    from pathlib import Path

    target = schema_folder() if os.path.isdir(schema_folder()) else folder_of("configs_yaml")  # noqa: PTH112
    if not os.access(target, os.W_OK):
        return
    sys.stderr.write("building the config schemas for editors and shell completion (only once)\n")
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    call = [sys.executable, "-P", "-m", "torchtune.cli", "schema", "--all"]
    subprocess.run(call, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False)  # noqa: S603 -- our own command
