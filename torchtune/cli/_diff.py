"""`tune diff`: compare two configs leaf by leaf, or a run with its command today."""

import contextlib
import os
import sys
from typing import Any

from torchtune import config, runs
from torchtune.cli._verb import JSON, Argument, Form, Verb, write_json
from torchtune.config import ConfigError, Mistake, model
from torchtune.config.model import ABSENT, Difference, differences
from torchtune.runs import config_source, config_sources, folder_of
from torchtune.runs.command_line import CONFIGS, RUN_OPTIONS, Call, read_words
from torchtune.runs.console import paint


def run(call: Call) -> int:
    """Compare two configs; exit status 0, whether they differ or not."""
    names = call.arguments
    found = between(*names) if len(names) == 2 else since(names[0])
    if call.has(JSON):
        write_json([_row(d) for d in found])
        return 0
    for path, a, b in found:
        sys.stdout.write(f"{paint(path, 'bold')}: {_shown(a, 'red')} -> {_shown(b, 'green')}\n")
    if not found:
        sys.stdout.write("no difference\n")
    return 0


def between(left: str, right: str) -> list[Difference]:
    """Compare two configs.

    A run's config has the defaults of every argument spelt out, so a config beside it is frozen first, which takes
    what it names to be imported.
    """
    frozen = any(_is_run(name) for name in (left, right))
    return differences(*(tree_of(name, frozen=frozen) for name in (left, right)))


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


def since(folder: str) -> list[Difference]:
    """Compare a run's frozen config, and what it ran on, with what its command means today.

    Raises:
        ConfigError: It is no run's folder, or its command means nothing any more.
    """
    run_folder = runs.RunFolder(folder)
    record = run_folder.read_record()
    if not record:
        advice = "name a second config to compare it with"
        raise ConfigError([Mistake.of_file(folder, "is no run's folder", advice)], "the run")
    then = _read(str(run_folder.config))
    start = record.get("folder", "")
    # Its paths are relative to where it was started.
    working_folder = contextlib.chdir(start) if os.path.isdir(start) else contextlib.nullcontext()  # noqa: PTH112
    with working_folder:
        now = _tree_of_command(record["command"], record.get("allow", []))
    if now.get("seed", ABSENT) is None:
        now["seed"] = then.get("seed")  # it was drawn
    known = record.get("versions", {})
    current = {name: version for name, version in runs.versions().items() if name in known}
    return [*differences(then, now), *differences({"versions": known}, {"versions": {**known, **current}})]


def _tree_of_command(command: list[str], allowed: list[str]) -> Any:
    """Return the frozen tree of what a run's command means now."""
    is_script = command[0].endswith(".py")  # `python my_recipe.py --config ...`
    words = command if is_script else [word for word in command[1:] if word != "run"]
    call = read_words(words, RUN_OPTIONS, takes_launch=True)
    config.allow(*allowed, *call.allowed)
    recipe, layers = runs.layers_of(call)
    layers.build(f"the config of {recipe.name} today")
    return model.freeze(layers).tree


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
command means today that it did not then: fields, defaults, versions.""",
    examples=(
        "tune diff smollm2_135m_lora smollm2_135m_full",
        "tune diff smollm2_135m_lora runs/monday",
        "tune diff runs/monday",
    ),
)
