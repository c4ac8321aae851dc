"""Testing configs, in your own pytest: every mistake found, and every change of what they mean seen in review.

    from torchtune.runs import testing

    import my_configs

    @pytest.mark.parametrize("make", testing.functions_of(my_configs))
    def test_config(make, golden_config):
        testing.check(make)
        golden_config(make, Path(__file__).parent / "goldens")

`golden_config` is a fixture of torchtune's pytest plugin; `pytest --renew-configs` writes the renderings anew. The
command line's counterpart is `tune validate --all FOLDER`.
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
    """Check a config as `tune validate` does, and return it, resolved.

    Args:
        config: A registered name, a YAML file, `file.py:function`, or a function that returns a config.
        *overrides: As on the command line, `"optimizer.lr=1e-4"`.
        recipe: The recipe, its name or its file; by default it is told from what the function returns, from the
            file's comment `# recipe: NAME` or its `_base_`, or from its fields.

    Returns:
        An object of the recipe's config class; a mapping with attribute access for a recipe without one.

    Raises:
        ConfigError: With every mistake in it.
    """
    from torchtune.runs._discover import load_recipe, recipe_for

    __tracebackhide__ = True  # pytest then shows the message, not these lines
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
    """Return the public functions of a module that return a config, in their order, for `pytest.mark.parametrize`.

    Raises:
        ValueError: There are none, so that a test over them cannot pass without testing anything.
    """
    own = [
        made
        for name, made in vars(module).items()
        if inspect.isfunction(made) and made.__module__ == module.__name__ and not name.startswith("_")
    ]
    found: list[Callable[[], Any]] = [made for made in own if is_section(result_type(made))]
    if not found:
        raise ValueError(f"{module.__name__} has no function whose result is annotated with a config class")
    return found


def compare_with_golden(config: Any, file: Path, *, renew: bool = False) -> None:
    """Compare a config's rendering with a file, so that a change of what it means shows in review.

    Args:
        config: A config object, or a function that returns one.
        file: The rendering; a folder stands for the file in it that has the function's name.
        renew: Write the file anew instead.

    Raises:
        AssertionError: They differ; the message has the leaves. Or there is no such file yet.
    """
    __tracebackhide__ = True
    if file.suffix not in (".yaml", ".yml"):
        file /= f"{getattr(config, '__name__', type(config).__name__)}.yaml"
    text = render(config() if inspect.isfunction(config) else config)
    if renew:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return
    if not file.is_file():
        raise AssertionError(f"{file} is not there yet; run: pytest --renew-configs")
    there = file.read_text(encoding="utf-8")
    found = differences(parse_yaml(there, str(file)).value, parse_yaml(text, "today").value)
    if found:
        lines = [f"  {d.path}: {_shown(d.left)} -> {_shown(d.right)}" for d in found]
        raise AssertionError(
            "\n".join([f"{file} is not what the config is today; if it should be, --renew-configs:", *lines])
        )


def _shown(value: Any) -> str:
    return "(absent)" if value is ABSENT else inline_yaml(value)
