"""Load a recipe by name or file, infer the recipe of a config, and find the configs in a folder."""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torchtune._bundled_packages import prefer_project_packages
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import field_names, read_yaml
from torchtune.runs._folder import RunFolder
from torchtune.runs._recipe import Recipe
from torchtune.runs._registry import config_names, config_source, recipe_file, recipe_names, syntax_tree
from torchtune.runs._sources import load_module
from torchtune.runs.command_line import Call

RECIPE_COMMENT = re.compile(r"(?m)^#\s*(?:recipe:\s*(\S+)|yaml-language-server:.*?([\w-]+)\.json)\s*$")
"""The comment that specifies a YAML file's recipe: `# recipe: lora_finetune`, or the schema comment for editors."""


def load_recipe(name: str) -> Recipe[Any]:
    """Return a registered recipe, or the recipe in a Python file.

    Raises:
        ConfigError: No such recipe or file exists, or the file does not define exactly one recipe.
    """
    file = name if name.endswith(".py") else recipe_file(name)
    module = load_module(file)
    recipes = [value for value in vars(module).values() if isinstance(value, Recipe)]
    module_recipes = [recipe for recipe in recipes if recipe.main.__module__ == module.__name__]
    if len(module_recipes) == 1:
        return module_recipes[0]
    count = f"{len(module_recipes)} decorated functions" if module_recipes else "no decorated function"
    message = f"expected one recipe, a main(cfg) decorated with @config.parse; found {count}"
    raise ConfigError([Mistake.of_file(name, message)], "the recipe")


def calls_in(folder: str) -> list[Call]:
    """Return a call for every config in a folder: YAML files, and functions of Python files that return a config.

    Folders and files whose names begin with `.` or `_` are skipped. If the recipe of a config cannot be inferred, its
    call has no recipe and contains the mistake.

    Raises:
        ConfigError: The folder does not exist or contains no configs.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError.of_argument(folder, "no such folder")
    files = [f for f in sorted(root.rglob("*")) if not _is_hidden(f.relative_to(root)) and f.is_file()]
    recipes, broken = _recipes([f for f in files if f.suffix == ".py"])
    calls = broken + [call for file in files for call in _calls(file, recipes)]
    if not calls:
        expected = "expected YAML files or Python functions that return a config"
        raise ConfigError.of_argument(folder, f"the folder contains no config: {expected}")
    return calls


def recipe_for(config: str | type) -> str:
    """Return the recipe of a config, which is a registered name, a file (as for `--config`), or a config class.

    Raises:
        ConfigError: The recipe cannot be inferred.
    """
    for recipe, names in config_names().items():
        if config in names:
            return recipe
    if not isinstance(config, str):
        return _recipe_of_class(config.__name__, str(config))
    if ".py" not in config and not config.endswith((".yaml", ".yml")):
        if not Path(config).is_dir():
            config_source(config)  # raises with a suggestion, because the name is not registered
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
        raise ConfigError.of_file(file or config, error.strerror or "the file cannot be read") from error
    classes = {returns for name, returns in functions.items() if function in ("", name)}
    return _user_recipe(file, classes) or _recipe_of_class(classes.pop() if len(classes) == 1 else "", config)


def _user_recipe(file: str, names: set[str]) -> str | None:
    """Return the file of the user's recipe whose config class is returned by functions in `file`, or None."""
    module = load_module(file)
    for name in names:
        cls = getattr(module, name, None)
        defining_module = sys.modules.get(getattr(cls, "__module__", ""))
        if defining_module is None:
            continue
        for value in vars(defining_module).values():
            if isinstance(value, Recipe) and value.config_class is cls and value.name not in recipe_names():
                return str(defining_module.__file__)
    return None


def _recipe_of_class(name: str, config: str) -> str:
    for recipe, loaded in _recipes([])[0].items():
        if loaded.config_class is not None and loaded.config_class.__name__ == name:
            return recipe
    message = "expected file.py:function, annotated to return the config class of a registered recipe"
    raise ConfigError.of_argument(config, message)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _recipes(files: Sequence[Path]) -> tuple[dict[str, Recipe[Any]], list[Call]]:
    """Return registered recipes by name and recipes in `files` by file, and a call for each file that fails to load."""
    recipe_files = [
        str(f) for f in files if re.search(r"(?m)^@(?:config\.)?parse\b", f.read_text(encoding="utf-8"))
    ]
    # This must precede the import of torchtune packages whose names the folder's project also uses.
    for file in recipe_files:
        prefer_project_packages(file)
    recipes_by_name, broken = {name: load_recipe(name) for name in recipe_names()}, []
    for name in recipe_files:
        try:
            recipes_by_name[name] = load_recipe(name)
        except ConfigError as error:
            broken.append(Call.for_config("", name, error.mistakes))
    return recipes_by_name, broken


def _calls(file: Path, recipes: dict[str, Recipe[Any]]) -> Iterator[Call]:
    if file.suffix in (".yaml", ".yml"):
        yield _call_of_yaml(file, recipes)
    elif file.suffix == ".py":
        for function, returns in functions_returning(str(file)):
            matches = [n for n, r in recipes.items() if r.config_class and r.config_class.__name__ == returns]
            if matches:
                yield Call.for_config(matches[-1], f"{file}:{function}")


def functions_returning(file: str) -> Iterator[tuple[str, str]]:
    """Yield the name and return annotation of each public function without required arguments in a Python file."""
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
        matches = _declared_recipe(file) or _matching_recipes(read_yaml(str(file)).value, recipes)
    except ConfigError as error:
        return Call.for_config("", str(file), error.mistakes)
    if len(matches) == 1:
        return Call.for_config(matches[0], str(file))
    message = f"its fields match {' and '.join(matches)}" if matches else "its fields match no recipe"
    advice = f"specify the recipe in a comment, `# recipe: {[*matches, 'lora_finetune'][0]}`"
    return Call.for_config("", str(file), [Mistake.of_file(str(file), message, advice)])


def _declared_recipe(file: Path, visited: frozenset[Path] = frozenset()) -> list[str]:
    """Return the recipe in a YAML file's comment, or the recipe of its base; empty if unknown."""
    comment = RECIPE_COMMENT.search(file.read_text(encoding="utf-8", errors="replace"))
    if comment:
        return [comment[1] or comment[2]]
    value = read_yaml(str(file)).value
    base = value.get("_base_") if isinstance(value, dict) else None
    if not isinstance(base, str) or file in visited:
        return []
    base_file = file.parent / base
    if base_file.suffix in (".yaml", ".yml") and base_file.is_file():
        return _declared_recipe(base_file, visited | {file})
    return [recipe for recipe, names in config_names().items() if base in names]


def _matching_recipes(value: object, recipes: dict[str, Recipe[Any]]) -> list[str]:
    """Return the recipes whose fields best match a YAML file: fewest unknown fields, then fewest omitted fields."""
    keys = set(value) if isinstance(value, dict) else set()
    fields = {name: set(field_names(r.config_class)) for name, r in recipes.items() if r.config_class}
    distances = {
        n: (len(keys - field_set), len(field_set - keys))
        for n, field_set in fields.items()
        if keys & field_set
    }
    return [name for name, distance in distances.items() if distance == min(distances.values())]
