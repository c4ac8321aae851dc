"""Call functions in a fresh interpreter, so that no measurement depends on the process's history.

    python -m benchmarks.fresh_process MODULE FUNCTION ARGUMENTS

The fresh interpreter runs this command. ARGUMENTS is a JSON list of the positional arguments (a list) and the keyword
arguments (an object). The last line of the output is the result as JSON.
"""

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

ROOT = Path(__file__).resolve().parents[1]
"""The root of the repository."""

ParametersT = ParamSpec("ParametersT")
ResultT = TypeVar("ResultT")


class Outcome(NamedTuple, Generic[ResultT]):
    """The outcome of a call."""

    result: ResultT
    """The function's return value."""
    stderr: str
    """The interpreter's standard error."""


@dataclass(frozen=True, kw_only=True)
class FreshProcess:
    """A fresh interpreter with the given options and environment.

    Args:
        options: Options of the interpreter.
        environment: Environment variables, in addition to those of this process.
    """

    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def call(
        self,
        function: Callable[ParametersT, ResultT],
        *args: ParametersT.args,
        **kwargs: ParametersT.kwargs,
    ) -> Outcome[ResultT]:
        """Call a function of this package.

        Args:
            function: A module-level function; its arguments and result must be JSON-serializable.
            *args: Positional arguments.
            **kwargs: Keyword arguments.

        Raises:
            SystemExit: The function failed; the message contains its error.
        """
        name = f"{module_name(function)}.{function.__name__}"
        command = [sys.executable, *self.options, "-m", "benchmarks.fresh_process"]
        command += [*name.rsplit(".", 1), json.dumps([args, kwargs])]
        search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, **self.environment, "PYTHONPATH": search_path}
        completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if completed.returncode:
            sys.exit(f"{name} failed:\n{completed.stderr[-3000:] or completed.stdout[-3000:]}")
        return Outcome(json.loads(completed.stdout.splitlines()[-1]), completed.stderr)


def in_fresh_process(
    function: Callable[ParametersT, ResultT], *args: ParametersT.args, **kwargs: ParametersT.kwargs
) -> ResultT:
    """Call a function in a fresh interpreter and return its result (see `FreshProcess.call`)."""
    return FreshProcess().call(function, *args, **kwargs).result


def module_name(function: Callable[..., Any]) -> str:
    """Return the importable name of a function's module, even if the module runs as `__main__`."""
    path = Path(inspect.getfile(function)).resolve().relative_to(ROOT)
    return ".".join(path.with_suffix("").parts)


def main() -> None:
    """Call the function named on the command line."""
    module, name, arguments = sys.argv[1:]
    args, kwargs = json.loads(arguments)
    result = getattr(importlib.import_module(module), name)(*args, **kwargs)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
