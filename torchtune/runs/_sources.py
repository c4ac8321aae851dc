"""From what a user names to layers: a registered config, a Python function, or a YAML file with its `_base_`."""

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

from torchtune._home import expand_path
from torchtune._own_packages import is_own, own_name, prefer_packages_beside, second_name_hint
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import (
    BASE_KEY,
    Document,
    Layers,
    Location,
    article,
    did_you_mean,
    fields,
    is_section,
    read_yaml,
    result_type,
    shown_path,
    trust_folder_of,
    unknown,
    unstructure_what_can_be,
    yaml_repr,
)
from torchtune.runs._folder import RunFolder
from torchtune.runs._recording import IncompleteError, Locator, Recorder, recording
from torchtune.runs._registry import config_names, config_source


def config_layers(name: str | None, wanted: type | None) -> Layers:
    """Return the layers of a config that the user names, without the command line's.

    Args:
        name: A registered config, `file.yaml`, `file.py:function`, or a run's folder; None for defaults alone.
        wanted: The recipe's config class, if it has one.

    Raises:
        ConfigError: It does not exist, cannot be read, or is a config of another recipe.
    """
    layers = Layers.of_defaults(wanted)
    if name is not None:
        _add(layers, name, ())
    return layers


def _add(layers: Layers, name: str, above: tuple[str, ...]) -> None:
    """Add a config, its bases first.

    Args:
        layers: What it is added to.
        name: As the user has it, or the last of the files above.
        above: The YAML files whose bases lead to it.
    """
    file, function = _file_of(name, os.path.dirname(above[-1]) if above else "")  # noqa: PTH120
    if file in above:
        raise ConfigError.of_file(name, f"{BASE_KEY} leads back to this file")
    if function is None:
        _add_yaml(layers, file, (*above, file))
    else:
        add_function(layers, _function(load_module(file), file, function), file)


def _file_of(name: str, folder: str) -> tuple[str, str | None]:
    """Return the file that a name means, and the function in it where it is Python.

    A YAML file is looked for in `folder`. A registered name is that config, whatever folder of the same name lies here;
    `./name` is the folder.
    """
    if not name.strip():
        raise ConfigError([Mistake("word", "a config's name is empty", "tune ls lists them")])
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
            raise ConfigError.of_word(name, "expected a file.yaml, a file.py:function or a run's folder")
    source = config_source(name)
    return source.file, None if source.file.endswith(".yaml") else source.name


def _nearest_file(file: str) -> str:
    """Suggest a file beside the one that is not there, or a registered config."""
    folder, name = os.path.split(file)
    stem = name.rpartition(".")[0]
    if not folder and stem in itertools.chain(*config_names().values()):
        return f"did you mean the registered config {stem!r}?"
    with suppress(OSError):
        beside = os.listdir(folder or ".")  # noqa: PTH208
        return did_you_mean(name, [n for n in beside if n.endswith((".yaml", ".yml", ".py"))])
    return ""


def _add_yaml(layers: Layers, file: str, above: tuple[str, ...]) -> None:
    if not os.path.exists(file):  # noqa: PTH110
        raise ConfigError.of_file(file, "no such file", _nearest_file(file))
    document = read_yaml(file)
    if isinstance(document.value, dict) and BASE_KEY in document.value:
        base = document.value.pop(BASE_KEY)
        where = document.location((BASE_KEY,))
        if not isinstance(base, str) or base.endswith(".py") or ".py:" in base:
            expected, got = "a registered config or a YAML file", yaml_repr(base)
            raise ConfigError([Mistake("source", "", "", (BASE_KEY,), expected, got, location=where)])
        try:
            _add(layers, base, above)
        except ConfigError as error:
            raise ConfigError([*(_under(where, m) for m in error.mistakes), *document.mistakes]) from error
    elif isinstance(document.value, dict) and layers.wanted:
        _note_misspelt_base(layers, document, fields(layers.wanted))
    layers.add_document(document)


def _note_misspelt_base(layers: Layers, document: Document, known: Mapping[str, Any]) -> None:
    """Say where `_base_` is misspelt, since every field of the base would be said to be missing otherwise."""
    for key in [k for k in document.value if k.strip("_").lower() == "base" and k not in known]:
        del document.value[key]
        found = unknown(key, [BASE_KEY], (key,))
        document.mistakes.append(found._replace(location=document.location((key,))))
        layers.incomplete = True


def _under(where: Location, mistake: Mistake) -> Mistake:
    """Say where a base was named, unless its mistake has a path; one without a line is reported there."""
    if mistake.path:
        return mistake
    if mistake.location.line:
        named = f"{BASE_KEY} at {where} names it"
        return mistake._replace(suggestion="; ".join(filter(None, [mistake.suggestion, named])))
    message = ": ".join(filter(None, [str(mistake.location), mistake.message]))
    return mistake._replace(message=message, path=(BASE_KEY,), location=where)


def add_function(layers: Layers, make: Any, file: str) -> None:
    """Call a config function and add what it returns, with the line of every literal.

    Raises:
        ConfigError: It is no such function, or fails, or returns something else.
    """
    code = getattr(inspect.unwrap(make), "__code__", None)
    if code is None or isinstance(make, type) or inspect.iscoroutinefunction(make):
        name = getattr(make, "__name__", repr(make))
        raise ConfigError.of_file(shown_path(file), f"{name} is no plain function that returns a config")
    here = Location(0, code.co_firstlineno, shown_path(file), "file")
    returned = result_type(inspect.unwrap(make))
    with recording(layers.wanted, returned if is_section(returned) else None) as recorder:
        try:
            config = make()
        except (Exception, SystemExit) as error:
            raise ConfigError([*_recorded(recorder, here, None), *_failure(error, file)]) from error
    _check_fit(config, layers.wanted, recorder.locate, make.__name__, here)
    recorder.note_strays(config)
    add_object(layers, config, recorder.locate, here)
    layers.mistakes += _recorded(recorder, here._replace(layer=layers.depth), config)


def _check_fit(config: Any, wanted: type | None, recorded: Locator, name: str, location: Location) -> None:
    """Check that a recipe takes what a config function returned.

    It takes an object of its config class. It also takes one of a class that this derives from or, in a copy, replaces,
    if this has every field that the config sets.

    Raises:
        ConfigError: It does not.
    """
    if wanted is None or isinstance(config, wanted):
        return
    cls = type(config)
    lacking = ""
    if is_section(cls) and (issubclass(wanted, cls) or _may_replace(wanted, cls)):
        missing = _set_fields(config, unstructure_what_can_be(config)[0], recorded) - fields(wanted).keys()
        if not missing:
            return
        lacking = f", which has no {', '.join(sorted(missing))}"
    got = "nothing" if config is None else article(cls.__name__)
    takes = f"this recipe takes {article(wanted.__name__)}{lacking}"
    raise ConfigError([Mistake("source", f"{name} returns {got}", takes, location=location)])


def _may_replace(wanted: type, cls: type) -> bool:
    """Tell whether a config class may be that of a copied recipe: it has the original's name, or is the user's own."""
    return wanted.__qualname__ == cls.__qualname__ or not is_own(wanted.__module__)


def _set_fields(config: Any, tree: Mapping[str, Any], recorded: Locator) -> set[str]:
    """Return the fields of a config that its function wrote, or whose values are not their defaults.

    Args:
        config: An object of a config class.
        tree: The same as a mapping.
        recorded: A function from a path to the file and line of its literal, or None.
    """
    defaults = Layers.of_defaults(type(config)).tree
    differing = {name for name in tree if name not in defaults or defaults[name] != tree[name]}
    return differing | {name for name in tree if recorded(config, (name,))}


def _recorded(recorder: Recorder, otherwise: Location, config: Any) -> list[Mistake]:
    """Return what a config function named wrongly or left out, each with its line."""
    return [
        m._replace(
            path=(*recorder.path_of(owner, config), *m.path),
            location=m.location._replace(layer=otherwise.layer) if m.location.source else otherwise,
        )
        for owner, m in recorder.mistakes
    ]


def _failure(error: BaseException, file: str) -> list[Mistake]:
    """Return what ended a Python file's code, with the line of that file; it may have been said already."""
    if isinstance(error, IncompleteError):
        return []
    if isinstance(error, ConfigError):
        return list(error.mistakes)
    own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == Path(file).resolve()]
    where = Location(0, (own[-1].lineno or 0) if own else 0, shown_path(file), "file")
    return [Mistake("failure", f"{type(error).__name__}: {error}", second_name_hint(error), location=where)]


def add_object(layers: Layers, config: Any, recorded: Locator, otherwise: Location) -> None:
    """Add a config object as a layer.

    Args:
        layers: What it is added to.
        config: An object of a config class.
        recorded: A function from a path to the location of its literal, or None.
        otherwise: The location of what was not recorded.
    """
    layers.depth += 1
    depth = layers.depth
    if otherwise.source:
        layers.sources.append(otherwise._replace(layer=depth))

    def origin(path: tuple[str | int, ...]) -> Location:
        return (recorded(config, path) or otherwise)._replace(layer=depth)

    tree, mistakes = unstructure_what_can_be(config)
    layers.mistakes += [m._replace(location=origin(m.path)) for m in mistakes]
    if not isinstance(tree, dict):
        got = article(type(config).__name__)
        raise ConfigError([Mistake("wrong_type", expected="a config object", got=got, location=otherwise)])
    names = list(tree)
    if layers.wanted is not None and not isinstance(config, layers.wanted):
        written = _set_fields(config, tree, recorded)  # the rest has the defaults of this recipe's own class
        tree = {name: tree[name] for name in names if name in written}
    for name, value in tree.items():
        # A value that equals the default and was not written here stays the default's.
        if name not in layers.tree or layers.tree[name] != value or recorded(config, (name,)):
            layers.tree.pop(name, None)  # the object is complete, so nothing below is dropped by surprise
            layers.put((name,), value, origin)
    in_order = [name for name in names if name in layers.tree]
    layers.tree = {name: layers.tree[name] for name in (*in_order, *layers.tree)}


def _function(module: ModuleType, file: str, function: str) -> Any:
    own = module.__name__
    known = {n: v for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == own}
    if function in known:
        return known[function]
    if function:
        near = did_you_mean(function, known)
        raise ConfigError.of_file(shown_path(file), f"no function {function!r}", near)
    functions = [n for n, v in known.items() if inspect.isfunction(inspect.unwrap(v))]
    public = [n for n in functions if not n.startswith("_")]
    returning = [n for n in public if is_section(result_type(known[n]))] or public
    if len(returning) == 1:
        return known[returning[0]]
    message = f"name the function: {file}:NAME, one of {', '.join(returning) or 'none'}"
    raise ConfigError.of_file(shown_path(file), message)


def load_module(file: str) -> ModuleType:
    """Import a Python file that the user named, or one of a registered package.

    Its folder becomes trusted and importable, so that dotpaths into it can be written and read.

    Raises:
        ConfigError: There is no such file, or importing it failed.
    """
    path = Path(file).resolve()
    if not os.path.isfile(path):  # noqa: PTH113 -- pathlib raises for a name that is too long
        if os.path.isdir(path):  # noqa: PTH112
            raise ConfigError.of_file(file, "is a folder, not a Python file")
        raise ConfigError.of_file(file, "no such file", _nearest_file(file))
    loaded = _loaded_from(path)
    if loaded:
        return loaded
    try:
        return _import_member(path) or _import_file(path.stem, path)
    except ConfigError:
        raise
    except SyntaxError as error:
        named = shown_path(error.filename or file)
        message = f"not valid Python: {error.msg}"
        raise ConfigError.of_file(named, message, line=error.lineno or 0) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(_failure(error, file)) from error


def _loaded_from(path: Path) -> ModuleType | None:
    """Return the module that was imported from a file, under whatever name."""
    modules = list(sys.modules.values())
    return next((m for m in modules if Path(str(getattr(m, "__file__", None))) == path), None)


def _import_member(path: Path) -> ModuleType | None:
    """Import a file that lies in a package under its name there, such as `configs_py.smollm2`."""
    ours = own_name(path)
    if ours is not None:
        return importlib.import_module(ours)
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    if len(parts) == 1:
        return None
    prefer_packages_beside(path)
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
        message = f"a module named {name!r} is loaded already"
        raise ConfigError.of_file(shown_path(str(path)), message, "rename the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
