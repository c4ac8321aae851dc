"""`tune diff`: compare two configs leaf by leaf, or a run with its command today."""

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchtune import config, runs
from torchtune.cli._verb import JSON, Argument, Form, Verb, write_json
from torchtune.config import ConfigError, Mistake, model
from torchtune.config.model import ABSENT, Difference, differences
from torchtune.runs import config_source, config_sources, folder_of
from torchtune.runs.command_line import CONFIGS, RUN_OPTIONS, Call, read_words
from torchtune.runs.console import paint

if TYPE_CHECKING:
    from pathlib import Path


def run(call: Call) -> int:
    """Compare two configs; exit status 0, whether they differ or not."""
    names = call.arguments
    found, code = between(*names) if len(names) == 2 else since(names[0])
    if call.has(JSON):
        write_json([_row(d) for d in found])
        return 0
    for path, a, b in found:
        sys.stdout.write(f"{paint(path, 'bold')}: {_shown(a, 'red')} -> {_shown(b, 'green')}\n")
    sys.stdout.writelines(code)
    if not found:
        sys.stdout.write("no difference\n")
    return 0


def between(left: str, right: str) -> tuple[list[Difference], list[str]]:
    """Compare two configs, and of two runs also what else they are made of.

    A run's config has the defaults of every argument spelt out, so a config beside it is frozen first, which takes
    what it names to be imported.

    Returns:
        The differences, and the lines of code in which two runs differ, as `diff -u` prints them.
    """
    are_runs = [_is_run(name) for name in (left, right)]
    found = differences(*(tree_of(name, frozen=any(are_runs)) for name in (left, right)))
    if not all(are_runs):
        return found, []
    folders = [runs.RunFolder(name) for name in (left, right)]
    records = [folder.read_record() for folder in folders]
    altered = runs.altered_inputs(*records)
    copies = [
        {n: folder.code / n for n in record.get("code", ())}
        for folder, record in zip(folders, records, strict=True)
    ]
    return [*found, *_extensions(*records), *altered], _changed_lines(altered, *copies)


def _extensions(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    """Compare how two runs were extended: learning rates differ from those of a run that was as long from the start."""
    a, b = runs.extended_limits(left), runs.extended_limits(right)
    rows = [(name, a.get(name, ABSENT), b.get(name, ABSENT)) for name in dict.fromkeys([*a, *b])]
    return [Difference(f"extended.{name}", x, y) for name, x, y in rows if x != y]


def _changed_lines(
    altered: list[Difference], left: "Mapping[str, Path]", right: "Mapping[str, Path]"
) -> list[str]:
    """Return the lines in which the files of code differ that are altered."""
    import difflib

    lines: list[str] = []
    for name in [path.removeprefix("code.") for path, *_ in altered if path.startswith("code.")]:
        files = left[name], right[name]
        if all(file.is_file() for file in files):
            old, new = (file.read_text(encoding="utf-8").splitlines(keepends=True) for file in files)
            lines += difflib.unified_diff(old, new, str(files[0]), str(files[1]))
    return lines


def _is_run(name: str) -> bool:
    return name not in config_sources() and os.path.isdir(name)  # noqa: PTH112 -- pathlib costs this verb a tenth


def tree_of(name: str, *, frozen: bool = False) -> Any:
    """Return a config's tree, a registered one's from its rendering.

    Args:
        name: What the user calls it.
        frozen: Spell out the defaults of a registered config's arguments, and of a Python function's.

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
    """Return what a YAML file holds, over what its bases hold."""
    document = model.read_yaml(file)
    if document.mistakes:
        raise ConfigError(document.mistakes, file)
    if not isinstance(document.value, dict):
        raise ConfigError([Mistake.of_file(file, "holds no config, a mapping of fields to values")], file)
    if "_base_" not in document.value:
        return document.value
    return runs.config_layers(file, None).tree


def since(folder: str) -> tuple[list[Difference], list[str]]:
    """Compare a run's frozen config, and what else it is made of, with what its command means today.

    Returns:
        The differences, and the lines of code that have changed, as `diff -u` prints them.

    Raises:
        ConfigError: It is no run's folder, or its command means nothing any more.
    """
    run_folder = runs.RunFolder(folder)
    record = run_folder.read_record()
    if not record:
        advice = "name a second config to compare it with"
        raise ConfigError([Mistake.of_file(folder, "is no run's folder", advice)], "the run")
    then = _read(str(run_folder.config))
    written = run_folder.written()
    start = record.get("folder", "")
    # Its paths are relative to where it was started.
    working_folder = contextlib.chdir(start) if os.path.isdir(start) else contextlib.nullcontext()  # noqa: PTH112
    with working_folder:
        now, today = _run_of_command(record["command"], record.get("allow", []), written)
    if now.get("seed", ABSENT) is None:
        now["seed"] = then.get("seed")  # it was drawn
    altered = runs.altered_inputs(record, today)
    copies = {name: run_folder.code / name for name in record.get("code", ())}
    from pathlib import Path

    sources = {name: Path(entry["path"]) for name, entry in today["code"].items()}
    return [*differences(then, now), *altered], _changed_lines(altered, copies, sources)


def _run_of_command(
    command: list[str], allowed: list[str], written: "list[Path]"
) -> tuple[Any, dict[str, Any]]:
    """Return the frozen tree of what a run's command means now, and what else it is made of."""
    is_script = command[0].endswith(".py")  # `python my_recipe.py --config ...`
    words = command if is_script else [word for word in command[1:] if word != "run"]
    call = read_words(words, RUN_OPTIONS, takes_launch=True)
    config.allow(*allowed, *call.allowed)
    recipe, layers = runs.layers_of(call)
    layers.build(f"the config of {recipe.name} today")
    tree = model.freeze(layers).tree
    return tree, {
        **runs.provenance(layers, tree, written),
        "versions": runs.versions(),
        "git": runs.git_state(),
    }


def _row(difference: Difference) -> dict[str, Any]:
    sides = {"left": difference.left, "right": difference.right}
    return {"path": difference.path, **{side: value for side, value in sides.items() if value is not ABSENT}}


def _shown(value: Any, colour: str) -> str:
    if value is ABSENT:
        return paint("(absent)", "dim")
    return paint(model.inline_yaml(value), colour)


VERB = Verb(
    "diff",
    run,
    forms=(
        Form((Argument("A", (CONFIGS,)), Argument("B", (CONFIGS,))), (JSON,)),
        Form((Argument("RUN"),), (JSON,)),
    ),
    takes="two configs, or a run",
    about="""\
Compares two configs leaf by leaf. Each is a registered config, a YAML file, a
Python file's function, or a run's folder. Of a run alone, it says what its
command means today that it did not then: fields, defaults, versions, the lines
of your code that have changed, and whether the data have.""",
    examples=(
        "tune diff smollm2_135m_lora smollm2_135m_full",
        "tune diff smollm2_135m_lora runs/monday",
        "tune diff runs/monday",
    ),
)
