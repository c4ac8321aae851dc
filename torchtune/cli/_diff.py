"""`tune diff`: compare two configs, or report changes since a run was started."""

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchtune import config, runs
from torchtune.cli._command import JSON, Argument, Command, Form, write_json
from torchtune.config import ConfigError, Mistake, model
from torchtune.config.model import ABSENT, Difference, differences
from torchtune.runs import config_source, config_sources, folder_of
from torchtune.runs.command_line import CONFIGS, RUN_OPTIONS, Call, parse_command_line
from torchtune.runs.console import paint

if TYPE_CHECKING:
    from pathlib import Path


def run(call: Call) -> int:
    """Print the differences; the exit status is 0 whether or not there are differences."""
    names = call.arguments
    entries, code = compare_configs(*names) if len(names) == 2 else changes_since_start(names[0])
    if call.has(JSON):
        write_json([_as_dict(d) for d in entries])
        return 0
    for path, a, b in entries:
        sys.stdout.write(f"{paint(path, 'bold')}: {_text(a, 'red')} -> {_text(b, 'green')}\n")
    sys.stdout.writelines(code)
    if not entries:
        sys.stdout.write("no differences\n")
    return 0


def compare_configs(left: str, right: str) -> tuple[list[Difference], list[str]]:
    """Compare two configs and, for two runs, their other inputs, such as code and data.

    The config in a run's folder is frozen: it spells out the default of every argument. The other config is therefore
    frozen before the comparison, which imports its components.

    Returns:
        The differences, and the lines of code in which two runs differ, in the format of `diff -u`.
    """
    are_runs = [_is_run(name) for name in (left, right)]
    entries = differences(*(tree_of(name, frozen=any(are_runs)) for name in (left, right)))
    if not all(are_runs):
        return entries, []
    folders = [runs.RunFolder(name) for name in (left, right)]
    records = [folder.read_record() for folder in folders]
    altered = runs.altered_inputs(*records)
    copies = [
        {n: folder.code / n for n in record.get("code", ())}
        for folder, record in zip(folders, records, strict=True)
    ]
    return [*entries, *_extensions(*records), *altered], _changed_lines(altered, *copies)


def _extensions(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    """Compare the extended limits of two runs.

    An extended run and a run that was started with the final limits have different learning rates.
    """
    a, b = runs.extended_limits(left), runs.extended_limits(right)
    rows = [(name, a.get(name, ABSENT), b.get(name, ABSENT)) for name in dict.fromkeys([*a, *b])]
    return [Difference(f"extended.{name}", x, y) for name, x, y in rows if x != y]


def _changed_lines(
    altered: list[Difference], left: "Mapping[str, Path]", right: "Mapping[str, Path]"
) -> list[str]:
    """Return the differing lines of the altered code files, in the format of `diff -u`."""
    import difflib

    lines: list[str] = []
    for name in [path.removeprefix("code.") for path, *_ in altered if path.startswith("code.")]:
        files = left[name], right[name]
        if all(file.is_file() for file in files):
            old, new = (file.read_text(encoding="utf-8").splitlines(keepends=True) for file in files)
            lines += difflib.unified_diff(old, new, str(files[0]), str(files[1]))
    return lines


def _is_run(name: str) -> bool:
    return name not in config_sources() and os.path.isdir(name)  # noqa: PTH112 -- importing pathlib is slow


def tree_of(name: str, *, frozen: bool = False) -> Any:
    """Return the tree of a config; registered configs are read from their rendered YAML.

    Args:
        name: A registered config, a YAML file, a function in a Python file, or a run's folder.
        frozen: For a registered config or a Python function, spell out the defaults of all arguments.

    Raises:
        ConfigError: There is no such config.
    """
    if _is_run(name):
        return _read(str(runs.RunFolder(name).config))
    if name.endswith((".yaml", ".yml")):
        return _read(name)
    if frozen or ".py" in name:
        layers = runs.load_recipe(runs.recipe_for(name)).layers(name)
        return model.freeze(layers).tree if frozen else layers.tree
    return _read(os.path.join(folder_of("configs_yaml"), f"{config_source(name).name}.yaml"))  # noqa: PTH118


def _read(file: str) -> Any:
    """Return the tree of a YAML file, merged over its bases."""
    document = model.read_yaml(file)
    if document.mistakes:
        raise ConfigError(document.mistakes, file)
    if not isinstance(document.value, dict):
        raise ConfigError(
            [Mistake.of_file(file, "expected a config, which is a mapping of fields to values")], file
        )
    if "_base_" not in document.value:
        return document.value
    return runs.config_layers(file, None).tree


def changes_since_start(folder: str) -> tuple[list[Difference], list[str]]:
    """Compare a run's frozen config and other inputs with the config and inputs that its command would use now.

    Returns:
        The differences, and the lines of code that have changed, in the format of `diff -u`.

    Raises:
        ConfigError: `folder` is not a run's folder, or the run's command is no longer valid.
    """
    run_folder = runs.RunFolder(folder)
    record = run_folder.read_record()
    if not record:
        advice = "pass a second config to compare it with"
        raise ConfigError([Mistake.of_file(folder, "not a run's folder", advice)], "the command line")
    run_config = _read(str(run_folder.config))
    output_files = run_folder.owned_paths()
    start = record.get("folder", "")
    # Paths in the command are relative to the folder in which the run was started.
    working_folder = contextlib.chdir(start) if os.path.isdir(start) else contextlib.nullcontext()  # noqa: PTH112
    with working_folder:
        config_now, record_now = _run_of_command(record["command"], record.get("allow", []), output_files)
    if config_now.get("seed", ABSENT) is None:
        config_now["seed"] = run_config.get("seed")  # drawn at random when the run started
    altered = runs.altered_inputs(record, record_now)
    copies = {name: run_folder.code / name for name in record.get("code", ())}
    from pathlib import Path

    sources = {name: Path(entry["path"]) for name, entry in record_now["code"].items()}
    return [*differences(run_config, config_now), *altered], _changed_lines(altered, copies, sources)


def _run_of_command(
    command: list[str], allowed: list[str], output_files: "list[Path]"
) -> tuple[Any, dict[str, Any]]:
    """Return the frozen config tree and the record of a run that the command would start now."""
    is_script = command[0].endswith(".py")  # `python my_recipe.py --config ...`
    args = command if is_script else [arg for arg in command[1:] if arg != "run"]
    call = parse_command_line(args, RUN_OPTIONS, allow_torchrun=True)
    config.allow(*allowed, *call.allowed)
    recipe, layers = runs.layers_of(call)
    layers.build(f"the current config of {recipe.name}")
    tree = model.freeze(layers).tree
    return tree, {
        **runs.provenance(layers, tree, output_files),
        "versions": runs.versions(),
        "git": runs.git_state(),
    }


def _as_dict(difference: Difference) -> dict[str, Any]:
    sides = {"left": difference.left, "right": difference.right}
    return {"path": difference.path, **{side: value for side, value in sides.items() if value is not ABSENT}}


def _text(value: Any, colour: str) -> str:
    if value is ABSENT:
        return paint("(absent)", "dim")
    return paint(model.inline_yaml(value), colour)


COMMAND = Command(
    "diff",
    run,
    forms=(
        Form((Argument("A", (CONFIGS,)), Argument("B", (CONFIGS,))), (JSON,)),
        Form((Argument("RUN"),), (JSON,)),
    ),
    expects="two configs, or a run",
    description="""\
Compares two configs field by field. Each is a registered config, a YAML file, a
function in a Python file, or a run's folder. With a single run, reports what has
changed since it was started: fields, defaults, versions, lines of your code, and
data.""",
    examples=(
        "tune diff smollm2_135m_lora smollm2_135m_full",
        "tune diff smollm2_135m_lora runs/monday",
        "tune diff runs/monday",
    ),
)
