"""Test your configs with pytest: report every mistake, and make every change of their values visible in review.

    from torchtune.runs import testing

    import my_configs

    @pytest.mark.parametrize("make", testing.functions_of(my_configs))
    def test_config(make, golden_config):
        testing.check(make)
        golden_config(make, Path(__file__).parent / "goldens")

`golden_config` is a fixture of torchtune's pytest plugin; `pytest --update-configs` rewrites the golden files. The
equivalent command is `tune validate --all FOLDER`.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torchtune.config import render
from torchtune.config.model import ABSENT, differences, inline_yaml, is_section, parse_yaml, result_type
from torchtune.runs._recipe import Recipe, apply_overrides

__all__ = ["check", "compare_with_golden", "functions_of"]


def check(
    config: str | Path | Callable[[], Any], *overrides: str, recipe: Recipe[Any] | str | None = None
) -> Any:
    """Check a config like `tune validate`, and return the resolved config.

    Args:
        config: A registered name, a YAML file, `file.py:function`, or a function that returns a config.
        *overrides: Overrides as on the command line, such as `"optimizer.lr=1e-4"`.
        recipe: The recipe, its name or its file. By default it is inferred from the function's return annotation, the
            file's comment `# recipe: NAME` or its `_base_`, or its fields.

    Returns:
        An object of the recipe's config class; a mapping with attribute access for a recipe without one.

    Raises:
        ConfigError: The config has mistakes; all are listed.
    """
    from torchtune.runs._discover import load_recipe, recipe_for

    __tracebackhide__ = True  # pytest shows the message without this frame
    if isinstance(config, Path):
        config = str(config)
    if recipe is None:
        recipe = recipe_for(config if isinstance(config, str) else result_type(inspect.unwrap(config)))
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    layers = recipe.layers(config) if isinstance(config, str) else recipe.layers_of_function(config)
    apply_overrides(layers, overrides)
    return layers.build(f"the config of {recipe.name}")


def functions_of(module: ModuleType) -> list[Callable[[], Any]]:
    """Return the public functions of a module that return a config, in source order, for `pytest.mark.parametrize`.

    Raises:
        ValueError: The module has no such function; a test parametrized with an empty list would test nothing.
    """
    functions = [
        function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
    ]
    config_functions: list[Callable[[], Any]] = [
        function for function in functions if is_section(result_type(function))
    ]
    if not config_functions:
        raise ValueError(f"{module.__name__} has no function with a config class as its return annotation")
    return config_functions


def compare_with_golden(config: Any, file: Path, *, update: bool = False) -> None:
    """Compare a config's rendering with a file, so that changes of its values are visible in review.

    Args:
        config: A config object, or a function that returns one.
        file: The file with the rendering, or a folder that contains a file with the function's name.
        update: Rewrite the file instead of comparing it.

    Raises:
        AssertionError: The renderings differ (the message lists the changed values), or the file does not exist yet.
    """
    __tracebackhide__ = True
    if file.suffix not in (".yaml", ".yml"):
        file /= f"{getattr(config, '__name__', type(config).__name__)}.yaml"
    text = render(config() if inspect.isfunction(config) else config)
    if update:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return
    if not file.is_file():
        raise AssertionError(f"{file} does not exist yet; create it with pytest --update-configs")
    golden_text = file.read_text(encoding="utf-8")
    changes = differences(parse_yaml(golden_text, str(file)).value, parse_yaml(text, "the config").value)
    if changes:
        lines = [f"  {d.path}: {_format_value(d.left)} -> {_format_value(d.right)}" for d in changes]
        advice = "to accept the changes, run pytest --update-configs"
        message = f"{file} differs from the config; {advice}:"
        raise AssertionError("\n".join([message, *lines]))


def _format_value(value: Any) -> str:
    return "(absent)" if value is ABSENT else inline_yaml(value)
