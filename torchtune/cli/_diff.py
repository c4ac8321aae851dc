"""`tune diff`: two configs, leaf by leaf; or a run, and what its command means today."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from torchtune.cli._style import paint
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import ABSENT, Difference, differences, inline_yaml, read_yaml
from torchtune.runs import RunFolder, config_source, config_sources, folder_of

HELP = """\
usage: tune diff A B [--json]
       tune diff RUN [--json]

Compares two configs leaf by leaf. Each is a registered config, a YAML file, a
Python file's function, or a run's folder. Of a run alone, it says what its
command means today that it did not then: fields, defaults, versions.

  tune diff smollm2_135m_lora smollm2_135m_full
  tune diff smollm2_135m_lora runs/monday
  tune diff runs/monday
"""


def main(argv: Sequence[str]) -> int:
    """Compare two configs; exit status 0, whether they differ or not."""
    words = [word for word in argv if not word.startswith("-")]
    if "-h" in argv or "--help" in argv:
        sys.stdout.write(HELP)
        return 0
    if len(words) not in (1, 2) or set(argv) - set(words) - {"--json"}:
        sys.stderr.write(f"tune diff takes two configs, or a run\n{HELP}")
        return 2
    found = between(*words) if len(words) == 2 else since(words[0])
    if "--json" in argv:
        import json

        sys.stdout.write(json.dumps([_row(d) for d in found], indent=2) + "\n")
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
        return _read(str(RunFolder(name).config))
    if name.endswith((".yaml", ".yml")):
        return _read(name)
    if frozen or ".py" in name:
        from torchtune.cli._frozen_tree import frozen_tree, plain_tree

        return frozen_tree(name) if frozen else plain_tree(name)
    return _read(rendering_of(name))


def rendering_of(name: str) -> str:
    """Return the file of a registered config's rendering.

    Raises:
        ConfigError: There is no config of this name.
    """
    return os.path.join(folder_of("configs_yaml"), f"{config_source(name).name}.yaml")  # noqa: PTH118


def _read(file: str) -> Any:
    """Return what a YAML file holds, over what its bases hold."""
    document = read_yaml(file)
    if document.mistakes:
        raise ConfigError(document.mistakes, file)
    if not isinstance(document.value, dict):
        raise ConfigError([Mistake.of_file(file, "holds no config, a mapping of fields to values")], file)
    if "_base_" not in document.value:
        return document.value
    from torchtune.cli._frozen_tree import merged_tree

    return merged_tree(file)


def since(run: str) -> list[Difference]:
    """Compare a run's frozen config, and what it ran on, with what its command means today.

    Raises:
        ConfigError: It is no run's folder, or its command means nothing any more.
    """
    from torchtune.cli._frozen_tree import today
    from torchtune.runs import versions

    record = RunFolder(run).read_record()
    if not record:
        advice = "name a second config to compare it with"
        raise ConfigError([Mistake.of_file(run, "is no run's folder", advice)], "the run")
    then = _read(str(RunFolder(run).config))
    folder = record.get("folder", "")
    # Its paths are relative to where it was started.
    here = contextlib.chdir(folder) if os.path.isdir(folder) else contextlib.nullcontext()  # noqa: PTH112
    with here:
        now = today(record["command"], record.get("allow", []))
    if now.get("seed", ABSENT) is None:
        now["seed"] = then.get("seed")  # it was drawn
    known = record.get("versions", {})
    current = {name: version for name, version in versions().items() if name in known}
    return [*differences(then, now), *differences({"versions": known}, {"versions": {**known, **current}})]


def _row(difference: Difference) -> dict[str, Any]:
    sides = {"left": difference.left, "right": difference.right}
    return {"path": difference.path, **{side: value for side, value in sides.items() if value is not ABSENT}}


def _shown(value: Any, colour: str) -> str:
    if value is ABSENT:
        return paint("(absent)", "dim")
    return paint(inline_yaml(value), colour)
