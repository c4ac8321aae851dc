"""Calls of functions in a fresh interpreter, so that no measurement depends on what the process did before.

    python -m benchmarks.fresh_process MODULE FUNCTION ARGUMENTS

This is what such an interpreter runs. ARGUMENTS are the positional and the keyword arguments as JSON; the result is
printed as JSON, in the last line.
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
    """What a call left."""

    result: ResultT
    """What the function returned."""
    stderr: str
    """What the interpreter wrote to standard error."""


@dataclass(frozen=True, kw_only=True)
class FreshProcess:
    """How the interpreter of a call is started.

    Args:
        options: Options of the interpreter.
        environment: Variables that are set in addition to those of this process.
    """

    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def call(
        self,
        function: Callable[ParametersT, ResultT],
        *args: ParametersT.args,
        **kwargs: ParametersT.kwargs,
    ) -> Outcome[ResultT]:
        """Call a function of a module of this package; this program ends with its error if it fails.

        Args:
            function: Its arguments and its result are what JSON can express.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.
        """
        name = f"{module_of(function)}.{function.__name__}"
        words = [sys.executable, *self.options, "-m", "benchmarks.fresh_process"]
        words += [*name.rsplit(".", 1), json.dumps([args, kwargs])]
        search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, **self.environment, "PYTHONPATH": search_path}
        completed = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if completed.returncode:
            sys.exit(f"{name} failed:\n{completed.stderr[-3000:] or completed.stdout[-3000:]}")
        return Outcome(json.loads(completed.stdout.splitlines()[-1]), completed.stderr)


def in_fresh_process(
    function: Callable[ParametersT, ResultT], *args: ParametersT.args, **kwargs: ParametersT.kwargs
) -> ResultT:
    """Return what a function returns in a fresh interpreter (`FreshProcess.call`)."""
    return FreshProcess().call(function, *args, **kwargs).result


def module_of(function: Callable[..., Any]) -> str:
    """Return the name under which a function's module can be imported, also if it is now `__main__`."""
    path = Path(inspect.getfile(function)).resolve().relative_to(ROOT)
    return ".".join(path.with_suffix("").parts)


def main() -> None:
    """Call the function that the command line names."""
    module, name, arguments = sys.argv[1:]
    args, kwargs = json.loads(arguments)
    result = getattr(importlib.import_module(module), name)(*args, **kwargs)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
