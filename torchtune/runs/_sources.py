"""Load a named config as layers: a registered config, a Python function, or a YAML file with its `_base_`."""

import importlib
import importlib.util
import inspect
import itertools
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from torchtune._bundled_packages import bundled_name, is_torchtune, prefer_project_packages, shadowing_hint
from torchtune._home import expand_path
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import (
    BASE_KEY,
    Document,
    Layers,
    Location,
    article,
    did_you_mean,
    display_path,
    fields,
    is_section,
    read_yaml,
    result_type,
    trust_folder_of,
    unknown_name,
    unstructure_partially,
    yaml_repr,
)
from torchtune.runs._folder import RunFolder
from torchtune.runs._recording import IncompleteError, Locator, Recorder, recording
from torchtune.runs._registry import config_names, config_source


def config_layers(name: str | None, config_class: type | None) -> Layers:
    """Return the layers of a named config, without command-line overrides.

    Args:
        name: A registered config, `file.yaml`, `file.py:function`, or a run's folder; None selects the defaults.
        config_class: The recipe's config class, if it has one.

    Raises:
        ConfigError: The config does not exist, cannot be read, or belongs to another recipe.
    """
    layers = Layers.of_defaults(config_class)
    if name is not None:
        _add(layers, name, ())
    return layers


def _add(layers: Layers, name: str, including_files: tuple[str, ...]) -> None:
    """Add a config to the layers, its bases first.

    Args:
        layers: The layers to extend.
        name: The config's name, as on the command line or in the last file of `including_files`.
        including_files: The chain of YAML files that led to this config through `_base_`.
    """
    file, function = _file_of(name, os.path.dirname(including_files[-1]) if including_files else "")  # noqa: PTH120
    if file in including_files:
        raise ConfigError.of_file(name, f"{BASE_KEY} leads back to this file")
    if function is None:
        _add_yaml(layers, file, (*including_files, file))
    else:
        add_function(layers, _function(load_module(file), file, function), file)


def _file_of(name: str, folder: str) -> tuple[str, str | None]:
    """Return the file that a name refers to, and the name of the function if it is a Python file.

    The path of a YAML file is relative to `folder`. A registered name takes precedence over a folder with the same
    name; use `./name` for the folder.
    """
    if not name.strip():
        raise ConfigError([Mistake("argument", "the config's name is empty", "tune ls lists configs")])
    try:
        name = expand_path(name) if name.startswith("~") else name
    except ValueError as error:
        raise ConfigError.of_file(name, str(error)) from error
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return path, function
    if name.endswith(".py"):
        return name, ""
    if name.endswith((".yaml", ".yml")):
        return os.path.join(folder, name), None  # noqa: PTH118
    if name not in itertools.chain(*config_names().values()):
        if os.path.isdir(name):  # noqa: PTH112 -- pathlib raises for a name that is too long
            return str(RunFolder(name).config), None
        if os.path.exists(name):  # noqa: PTH110
            raise ConfigError.of_argument(name, "expected file.yaml, file.py:function or a run's folder")
    source = config_source(name)
    return source.file, None if source.file.endswith(".yaml") else source.name


def _suggest_file(file: str) -> str:
    """Return a suggestion for a missing file: a file with a similar name in its folder, or a registered config."""
    folder, name = os.path.split(file)
    stem = name.rpartition(".")[0]
    if not folder and stem in itertools.chain(*config_names().values()):
        return f"did you mean the registered config {stem!r}?"
    with suppress(OSError):
        files = os.listdir(folder or ".")  # noqa: PTH208
        return did_you_mean(name, [n for n in files if n.endswith((".yaml", ".yml", ".py"))])
    return ""


def _add_yaml(layers: Layers, file: str, including_files: tuple[str, ...]) -> None:
    if not os.path.exists(file):  # noqa: PTH110
        raise ConfigError.of_file(file, "no such file", _suggest_file(file))
    document = read_yaml(file)
    if isinstance(document.value, dict) and BASE_KEY in document.value:
        base = document.value.pop(BASE_KEY)
        location = document.location((BASE_KEY,))
        if not isinstance(base, str) or base.endswith(".py") or ".py:" in base:
            expected, got = "a registered config or a YAML file", yaml_repr(base)
            raise ConfigError([Mistake("source", "", "", (BASE_KEY,), expected, got, location=location)])
        try:
            _add(layers, base, including_files)
        except ConfigError as error:
            raise ConfigError(
                [*(_with_base_location(location, m) for m in error.mistakes), *document.mistakes]
            ) from error
    elif isinstance(document.value, dict) and layers.config_class:
        _note_misspelled_base(layers, document, fields(layers.config_class))
    layers.add_document(document)


def _note_misspelled_base(layers: Layers, document: Document, known_fields: Mapping[str, Any]) -> None:
    """Report a misspelled `_base_`, instead of a missing field for every field of the base."""
    for key in [k for k in document.value if k.strip("_").lower() == "base" and k not in known_fields]:
        del document.value[key]
        mistake = unknown_name(key, [BASE_KEY], (key,))
        document.mistakes.append(mistake._replace(location=document.location((key,))))
        layers.incomplete = True


def _with_base_location(location: Location, mistake: Mistake) -> Mistake:
    """Add the location of `_base_` to a mistake in a base config, unless the mistake has a field path.

    If the mistake has no line either, it is reported at this location.
    """
    if mistake.path:
        return mistake
    if mistake.location.line:
        note = f"this is the {BASE_KEY} of {location}"
        return mistake._replace(suggestion="; ".join(filter(None, [mistake.suggestion, note])))
    message = ": ".join(filter(None, [str(mistake.location), mistake.message]))
    return mistake._replace(message=message, path=(BASE_KEY,), location=location)


def add_function(layers: Layers, make: Any, file: str) -> None:
    """Call a config function and add its result to the layers, with the source line of every literal.

    Raises:
        ConfigError: The object is not a config function, it fails, or it does not return a config.
    """
    code = getattr(inspect.unwrap(make), "__code__", None)
    if code is None or isinstance(make, type) or inspect.iscoroutinefunction(make):
        name = getattr(make, "__name__", repr(make))
        raise ConfigError.of_file(display_path(file), f"{name} is not a plain function that returns a config")
    location = Location(0, code.co_firstlineno, display_path(file), "file")
    returned = result_type(inspect.unwrap(make))
    with recording(layers.config_class, returned if is_section(returned) else None) as recorder:
        try:
            config = make()
        except (Exception, SystemExit) as error:
            raise ConfigError([*_recorded(recorder, location, None), *_failure(error, file)]) from error
    _check_fit(config, layers.config_class, recorder.locate, make.__name__, location)
    recorder.record_unknown_attributes(config)
    add_object(layers, config, recorder.locate, location)
    layers.mistakes += _recorded(recorder, location._replace(layer=layers.depth), config)


def _check_fit(
    config: Any, config_class: type | None, recorded: Locator, name: str, location: Location
) -> None:
    """Check that a recipe accepts the result of a config function.

    A recipe accepts objects of its config class. It also accepts objects of a base class or, in a copied recipe, of the
    replaced class, if its config class has every field that the config sets.

    Raises:
        ConfigError: The recipe does not accept the config.
    """
    if config_class is None or isinstance(config, config_class):
        return
    cls = type(config)
    lacking_fields = ""
    if is_section(cls) and (issubclass(config_class, cls) or _may_replace(config_class, cls)):
        missing = (
            _set_fields(config, unstructure_partially(config)[0], recorded) - fields(config_class).keys()
        )
        if not missing:
            return
        lacking_fields = f", which has no {', '.join(sorted(missing))}"
    got = "nothing" if config is None else article(cls.__name__)
    expectation = f"this recipe expects {article(config_class.__name__)}{lacking_fields}"
    raise ConfigError([Mistake("source", f"{name} returns {got}", expectation, location=location)])


def _may_replace(config_class: type, cls: type) -> bool:
    """Return whether a config class may belong to a copied recipe: it has the same name, or is defined by the user."""
    return config_class.__qualname__ == cls.__qualname__ or not is_torchtune(config_class.__module__)


def _set_fields(config: Any, tree: Mapping[str, Any], recorded: Locator) -> set[str]:
    """Return the fields of a config that its function set explicitly, or whose values differ from the defaults.

    Args:
        config: An object of a config class.
        tree: The config as a mapping.
        recorded: Returns the location of the literal at a path, or None.
    """
    defaults = Layers.of_defaults(type(config)).tree
    differing = {name for name in tree if name not in defaults or defaults[name] != tree[name]}
    return differing | {name for name in tree if recorded(config, (name,))}


def _recorded(recorder: Recorder, fallback: Location, config: Any) -> list[Mistake]:
    """Return the mistakes recorded while a config function ran, such as unknown fields, with paths and locations."""
    return [
        m._replace(
            path=(*recorder.path_of(owner, config), *m.path),
            location=m.location._replace(layer=fallback.layer) if m.location.source else fallback,
        )
        for owner, m in recorder.mistakes
    ]


def _failure(error: BaseException, file: str) -> list[Mistake]:
    """Return the mistakes for an exception in a Python file, with its line; empty if already recorded."""
    if isinstance(error, IncompleteError):
        return []
    if isinstance(error, ConfigError):
        return list(error.mistakes)
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == Path(file).resolve()
    ]
    location = Location(0, (frames[-1].lineno or 0) if frames else 0, display_path(file), "file")
    return [Mistake("failure", f"{type(error).__name__}: {error}", shadowing_hint(error), location=location)]


def add_object(layers: Layers, config: Any, recorded: Locator, fallback: Location) -> None:
    """Add a config object as a layer.

    Args:
        layers: The layers to extend.
        config: An object of a config class.
        recorded: Returns the location of the literal at a path, or None.
        fallback: The location of values that were not recorded.
    """
    layers.depth += 1
    depth = layers.depth
    if fallback.source:
        layers.sources.append(fallback._replace(layer=depth))

    def origin(path: tuple[str | int, ...]) -> Location:
        return (recorded(config, path) or fallback)._replace(layer=depth)

    tree, mistakes = unstructure_partially(config)
    layers.mistakes += [m._replace(location=origin(m.path)) for m in mistakes]
    if not isinstance(tree, dict):
        got = article(type(config).__name__)
        raise ConfigError([Mistake("wrong_type", expected="a config object", got=got, location=fallback)])
    names = list(tree)
    if layers.config_class is not None and not isinstance(config, layers.config_class):
        set_fields = _set_fields(config, tree, recorded)  # other fields keep this recipe's defaults
        tree = {name: tree[name] for name in names if name in set_fields}
    for name, value in tree.items():
        # A value that equals the default and is not set explicitly keeps the origin of the default.
        if name not in layers.tree or layers.tree[name] != value or recorded(config, (name,)):
            layers.tree.pop(name, None)  # the object is complete, so no arguments are dropped unexpectedly
            layers.set_value((name,), value, origin)
    in_order = [name for name in names if name in layers.tree]
    layers.tree = {name: layers.tree[name] for name in (*in_order, *layers.tree)}


def _function(module: ModuleType, file: str, function: str) -> Any:
    module_name = module.__name__
    callables = {
        n: v for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module_name
    }
    if function in callables:
        return callables[function]
    if function:
        suggestion = did_you_mean(function, callables)
        raise ConfigError.of_file(display_path(file), f"no function {function!r}", suggestion)
    functions = [n for n, v in callables.items() if inspect.isfunction(inspect.unwrap(v))]
    public = [n for n in functions if not n.startswith("_")]
    returning = [n for n in public if is_section(result_type(callables[n]))] or public
    if len(returning) == 1:
        return callables[returning[0]]
    names = f"FUNCTION is one of {', '.join(returning)}" if returning else "the file has no public functions"
    message = f"expected {file}:FUNCTION; {names}"
    raise ConfigError.of_file(display_path(file), message)


def load_module(file: str) -> ModuleType:
    """Import a Python file that the user passed, or a file in a registered package.

    The folder of the user's file becomes trusted and importable, so that dotpaths to its modules can be resolved.

    Raises:
        ConfigError: The file does not exist, or importing it failed.
    """
    path = Path(file).resolve()
    if not os.path.isfile(path):  # noqa: PTH113 -- pathlib raises for a name that is too long
        if os.path.isdir(path):  # noqa: PTH112
            raise ConfigError.of_file(file, "this is a folder, not a Python file")
        raise ConfigError.of_file(file, "no such file", _suggest_file(file))
    loaded = _loaded_from(path)
    if loaded:
        return loaded
    try:
        return _import_member(path) or _import_file(path.stem, path)
    except ConfigError:
        raise
    except SyntaxError as error:
        named = display_path(error.filename or file)
        message = f"not valid Python: {error.msg}"
        raise ConfigError.of_file(named, message, line=error.lineno or 0) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(_failure(error, file)) from error


def _loaded_from(path: Path) -> ModuleType | None:
    """Return the module already imported from a file, under any name, or None."""
    files = ((str(getattr(module, "__file__", None)), module) for module in list(sys.modules.values()))
    return next((module for file, module in files if file.endswith(path.name) and Path(file) == path), None)


def _import_member(path: Path) -> ModuleType | None:
    """Import a file under its full name in its package, such as `configs_py.smollm2`; None if it has no package."""
    torchtune_name = bundled_name(path)
    if torchtune_name is not None:
        return importlib.import_module(torchtune_name)
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    if len(parts) == 1:
        return None
    prefer_project_packages(path)
    spec = importlib.util.find_spec(parts[0])
    if spec is None or Path(str(spec.origin)).resolve().parent != folder / parts[0]:
        return None  # another package has that name
    trust_folder_of(path)
    return importlib.import_module(".".join(parts))


def _import_file(name: str, path: Path) -> ModuleType:
    trust_folder_of(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    if name in sys.modules:
        message = f"another module named {name!r} is already loaded"
        raise ConfigError.of_file(display_path(str(path)), message, "rename the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
