"""The schema files that the first lines of YAML configs refer to: `configs_yaml/schemas/<recipe>.json`.

They are generated from the code and not kept in git: `scripts/install.sh` and the build of the wheel write them. In a
wheel built without torch they are empty, accept everything, and are replaced when they are first needed.
"""

import os
import sys

from torchtune.runs import folder_of

EMPTY = "{}\n"
"""The schema that accepts everything."""


def schema_folder() -> str:
    """Return the folder of the shipped recipes' schemas."""
    return os.path.join(folder_of("configs_yaml"), "schemas")  # noqa: PTH118 -- pathlib costs `tune cp` a tenth


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
    """Build the schemas in a separate process, as this needs torch and the calling verb does not."""
    import subprocess
    from pathlib import Path

    target = schema_folder() if os.path.isdir(schema_folder()) else folder_of("configs_yaml")  # noqa: PTH112
    if not os.access(target, os.W_OK):
        return
    sys.stderr.write("building the schemas of configs_yaml/ for editors and completion (only once)\n")
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    call = [sys.executable, "-P", "-m", "torchtune.cli", "schema", "--all"]
    subprocess.run(call, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False)  # noqa: S603 -- our own command
