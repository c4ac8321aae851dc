"""Build step that adds the JSON Schemas of configs_yaml/ to the wheel; all other settings are in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithSchemas(build_py):
    """Builds the packages and a schema for each recipe.

    Building a schema imports the recipe. Without torch, as in pip's isolated builds, the wheel contains empty schemas,
    and the installed `tune` builds the real ones when it first needs them.
    """

    def run(self) -> None:
        """Build the packages and schemas."""
        super().run()
        if self.editable_mode:
            return  # scripts/install.sh or the first use of `tune` writes them into the clone
        root = Path(self.build_lib).resolve()
        # PYTHONPATH also contains the build dependencies of pip's isolated builds.
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        call = [sys.executable, "-P", "-m", "torchtune.cli", "schema", "--all"]
        subprocess.run(call, cwd=root, env=environment, capture_output=True, check=False)  # noqa: S603 -- torchtune's command
        for file in (root / "configs_yaml").glob("*.yaml"):
            comment = file.read_text(encoding="utf-8").partition("\n")[0]
            schema = file.parent / comment.rpartition("$schema=")[2]
            if schema.suffix == ".json" and not schema.exists():
                schema.parent.mkdir(exist_ok=True)
                schema.write_text("{}\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildWithSchemas})
