"""Recipes by name or file, the recipe of a config, and the configs in a user's folder."""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torchtune._own_packages import prefer_packages_beside
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import field_names, read_yaml
from torchtune.runs._folder import RunFolder
from torchtune.runs._recipe import Recipe
from torchtune.runs._registry import config_names, config_source, recipe_file, recipe_names, syntax_tree
from torchtune.runs._sources import load_module
from torchtune.runs.command_line import Call

RECIPE_COMMENT = re.compile(r"(?m)^#\s*(?:recipe:\s*(\S+)|yaml-language-server:.*?([\w-]+)\.json)\s*$")
"""How a YAML file says which recipe it is for: `# recipe: lora_finetune`, or its editor's schema comment."""


def load_recipe(name: str) -> Recipe[Any]:
    """Return a registered recipe, or that of a Python file.

    Raises:
        ConfigError: There is none, or the file holds none.
    """
    file = name if name.endswith(".py") else recipe_file(name)
    module = load_module(file)
    recipes = [value for value in vars(module).values() if isinstance(value, Recipe)]
    own = [recipe for recipe in recipes if recipe.main.__module__ == module.__name__]
    if len(own) == 1:
        return own[0]
    what = f"{len(own)} functions decorated with it" if own else "no function decorated with @config.parse"
    message = f"expected one recipe, a main(cfg) under @config.parse; found {what}"
    raise ConfigError([Mistake.of_file(name, message)], "the recipe")


def calls_in(folder: str) -> list[Call]:
    """Return a call for every config in a folder: YAML files, and functions of Python files that return a config.

    Folders and files whose names begin with `.` or `_` are passed over. A config whose recipe cannot be told is a
    call without a recipe, with the mistake in it.

    Raises:
        ConfigError: There is no such folder, or there are no configs in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError.of_word(folder, "no such folder")
    files = [f for f in sorted(root.rglob("*")) if not _is_hidden(f.relative_to(root)) and f.is_file()]
    recipes, broken = _recipes([f for f in files if f.suffix == ".py"])
    calls = broken + [call for file in files for call in _calls(file, recipes)]
    if not calls:
        raise ConfigError.of_word(folder, "holds no config, a YAML file or a function that returns one")
    return calls


def recipe_for(config: str | type) -> str:
    """Return the recipe that a config is for: a registered name, a file as `--config` takes it, or a config class.

    Raises:
        ConfigError: It cannot be told.
    """
    for recipe, names in config_names().items():
        if config in names:
            return recipe
    if not isinstance(config, str):
        return _of_class(config.__name__, str(config))
    if ".py" not in config and not config.endswith((".yaml", ".yml")):
        if not Path(config).is_dir():
            config_source(config)  # it is not registered, which this says, with the nearest that is
        config = str(RunFolder(config).config)
    if config.endswith((".yaml", ".yml")):
        call = _call_of_yaml(Path(config), _recipes([])[0])
        if call.mistakes:
            raise ConfigError(call.mistakes)
        return call.recipe
    file, function = (config, "") if config.endswith(".py") else config.rpartition(":")[::2]
    try:
        functions = dict(functions_returning(file))
    except OSError as error:
        raise ConfigError.of_file(file or config, error.strerror or "cannot be read") from error
    wanted = {returns for made, returns in functions.items() if function in ("", made)}
    return _own_recipe(file, wanted) or _of_class(wanted.pop() if len(wanted) == 1 else "", config)


def _own_recipe(file: str, names: set[str]) -> str | None:
    """Return the file of the user's own recipe whose config class the functions of a file return, if it is one."""
    module = load_module(file)
    for name in names:
        cls = getattr(module, name, None)
        home = sys.modules.get(getattr(cls, "__module__", ""))
        if home is None:
            continue
        for value in vars(home).values():
            if isinstance(value, Recipe) and value.config_class is cls and value.name not in recipe_names():
                return str(home.__file__)
    return None


def _of_class(name: str, config: str) -> str:
    for recipe, loaded in _recipes([])[0].items():
        if loaded.config_class is not None and loaded.config_class.__name__ == name:
            return recipe
    message = "name it as file.py:function, whose result is annotated with a registered recipe's config class"
    raise ConfigError.of_word(config, message)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _recipes(files: Sequence[Path]) -> tuple[dict[str, Recipe[Any]], list[Call]]:
    """Return the registered recipes and those of a folder, by what a call names them; and those that do not load."""
    own = [str(f) for f in files if re.search(r"(?m)^@(?:config\.)?parse\b", f.read_text(encoding="utf-8"))]
    for file in own:  # before ours are imported under names that the folder's project has too
        prefer_packages_beside(file)
    recipes_by_name, broken = {name: load_recipe(name) for name in recipe_names()}, []
    for name in own:
        try:
            recipes_by_name[name] = load_recipe(name)
        except ConfigError as error:
            broken.append(Call.of("", name, error.mistakes))
    return recipes_by_name, broken


def _calls(file: Path, recipes: dict[str, Recipe[Any]]) -> Iterator[Call]:
    if file.suffix in (".yaml", ".yml"):
        yield _call_of_yaml(file, recipes)
    elif file.suffix == ".py":
        for function, returns in functions_returning(str(file)):
            fitting = [n for n, r in recipes.items() if r.config_class and r.config_class.__name__ == returns]
            if fitting:
                yield Call.of(fitting[-1], f"{file}:{function}")


def functions_returning(file: str) -> Iterator[tuple[str, str]]:
    """Yield the public functions of a Python file that take nothing, each with the name of what it returns."""
    try:
        body = syntax_tree(file).body
    except SyntaxError:
        return
    for node in body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.returns is None:
            continue
        needed = len(node.args.posonlyargs) + len(node.args.args) - len(node.args.defaults)
        if needed <= 0:
            yield node.name, ast.unparse(node.returns).strip("'\"").rpartition(".")[2]


def _call_of_yaml(file: Path, recipes: dict[str, Recipe[Any]]) -> Call:
    try:
        fitting = _named(file) or _fitting(read_yaml(str(file)).value, recipes)
    except ConfigError as error:
        return Call.of("", str(file), error.mistakes)
    if len(fitting) == 1:
        return Call.of(fitting[0], str(file))
    message = f"it fits {' and '.join(fitting)}" if fitting else "its fields are those of no recipe"
    what = "which" if fitting else "which it is for"
    advice = f"say {what} in a comment, `# recipe: {[*fitting, 'lora_finetune'][0]}`"
    return Call.of("", str(file), [Mistake.of_file(str(file), message, advice)])


def _named(file: Path, seen: frozenset[Path] = frozenset()) -> list[str]:
    """Return the recipe that a YAML file names in a comment, or that its base is of."""
    comment = RECIPE_COMMENT.search(file.read_text(encoding="utf-8", errors="replace"))
    if comment:
        return [comment[1] or comment[2]]
    value = read_yaml(str(file)).value
    base = value.get("_base_") if isinstance(value, dict) else None
    if not isinstance(base, str) or file in seen:
        return []
    beside = file.parent / base
    if beside.suffix in (".yaml", ".yml") and beside.is_file():
        return _named(beside, seen | {file})
    return [recipe for recipe, names in config_names().items() if base in names]


def _fitting(value: object, recipes: dict[str, Recipe[Any]]) -> list[str]:
    """Return the recipes whose fields are nearest to those of a YAML file: fewest unknown, then fewest left out."""
    keys = set(value) if isinstance(value, dict) else set()
    fields = {name: set(field_names(r.config_class)) for name, r in recipes.items() if r.config_class}
    apart = {n: (len(keys - known), len(known - keys)) for n, known in fields.items() if keys & known}
    return [name for name, distance in apart.items() if distance == min(apart.values())]
