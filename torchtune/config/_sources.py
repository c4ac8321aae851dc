"""From what a user names to layers: a registered config, a Python function, or a YAML file with its `_base_`."""

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torchtune.config._classes import fields
from torchtune.config._layers import Layers, Origin, line_of
from torchtune.config._mistakes import ConfigError, Mistake, did_you_mean, dotted
from torchtune.config._own_packages import is_own, own_name, prefer_packages_beside, second_name_hint
from torchtune.config._recording import IncompleteError, Locator, Recorder, recording
from torchtune.config._registry import config_source, config_sources
from torchtune.config._signature import result_type
from torchtune.config._trust import trust_folder_of
from torchtune.config._types import article, is_section, yaml_repr
from torchtune.config._unstructure import unstructure_what_can_be
from torchtune.config._yaml import Document, read_yaml

BASE_KEY = "_base_"


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
        _add(layers, name, None, ())
    return layers


def _add(layers: Layers, name: str, beside: str | None, above: tuple[tuple[str, str | None], ...]) -> None:
    """Add a config, its bases first."""
    file, function = _file_of(name, beside)
    if (file, function) in above:
        raise _mistake(name, f"{BASE_KEY} leads back to this file")
    if function is None:
        _add_yaml(layers, file, (*above, (file, function)))
    else:
        _add_python(layers, file, function)


def _file_of(name: str, beside: str | None) -> tuple[str, str | None]:
    """Return the file that a name means, and the function in it where it is Python.

    A registered name is that config, whatever folder of the same name lies here; `./name` is the folder.
    """
    if not name.strip():
        raise _mistake("", "a config's name is empty; tune ls lists them")
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return path, function
    if name.endswith(".py"):
        return name, ""
    if name.endswith((".yaml", ".yml")):
        near = os.path.join(os.path.dirname(beside), name) if beside else name  # noqa: PTH118, PTH120
        return near, None
    if name not in config_sources():
        if os.path.isdir(name):  # noqa: PTH112 -- pathlib raises for a name that is too long
            return str(Path(name) / "config.yaml"), None
        if os.path.exists(name):  # noqa: PTH110
            raise _mistake(name, "expected a file.yaml, a file.py:function or a run's folder")
    source = config_source(name)
    return source.file, None if source.file.endswith(".yaml") else source.name


def _mistake(origin: str, message: str) -> ConfigError:
    return ConfigError([Mistake(origin, "", message)])


def _nearest_file(file: str) -> str:
    """Suggest a file beside the one that is not there, or a registered config."""
    folder, name = os.path.split(file)
    stem = name.rpartition(".")[0]
    if not folder and stem in config_sources():
        return f"; did you mean the registered config {stem!r}?"
    try:
        beside = [n for n in os.listdir(folder or ".") if n.endswith((".yaml", ".yml", ".py"))]  # noqa: PTH208
    except OSError:
        return ""
    return did_you_mean(name, beside)


def _add_yaml(layers: Layers, file: str, above: tuple[tuple[str, str | None], ...]) -> None:
    if not os.path.exists(file):  # noqa: PTH110
        raise _mistake(file, f"no such file{_nearest_file(file)}")
    document = read_yaml(file)
    document.name = shown_path(file)
    for i, mistake in enumerate(document.mistakes):
        line = mistake.origin.rpartition(":")[2]
        document.mistakes[i] = Mistake(f"{document.name}:{line}", mistake.path, mistake.message)
    if isinstance(document.value, dict) and BASE_KEY in document.value:
        base = document.value.pop(BASE_KEY)
        where = f"{document.name}:{document.lines[BASE_KEY,]}"
        if not isinstance(base, str) or base.endswith(".py") or ".py:" in base:
            raise ConfigError(
                [
                    Mistake(
                        where, BASE_KEY, f"expected a registered config or a YAML file, got {yaml_repr(base)}"
                    )
                ]
            )
        try:
            _add(layers, base, file, above)
        except ConfigError as error:
            raise ConfigError([*(_under(where, m) for m in error.mistakes), *document.mistakes]) from error
    elif isinstance(document.value, dict):
        _note_misspelt_base(layers, document)
    layers.add_document(document)


def _note_misspelt_base(layers: Layers, document: Document) -> None:
    """Say where `_base_` is misspelt, since every field of the base would be said to be missing otherwise."""
    known = fields(layers.wanted) if layers.wanted else {}
    for key in [
        k for k in document.value if k.strip("_").lower() == "base" and k not in known and layers.wanted
    ]:
        del document.value[key]
        where = f"{document.name}:{document.lines[key,]}"
        document.mistakes.append(Mistake(where, key, f"no {key!r}; did you mean {BASE_KEY!r}?"))
        layers.incomplete = True


def _under(where: str, mistake: Mistake) -> Mistake:
    """Say where a base was named, unless its mistake has a line of its own."""
    if re.search(r":\d+$", mistake.origin):
        named = "" if mistake.path else f"; {BASE_KEY} at {where} names it"
        return Mistake(mistake.origin, mistake.path, mistake.message + named)
    if mistake.path:
        return mistake
    return Mistake(where, BASE_KEY, ": ".join(filter(None, [mistake.origin, mistake.message])))


def _add_python(layers: Layers, file: str, function: str) -> None:
    add_function(layers, _function(load_module(file), file, function), file)


def add_function(layers: Layers, make: Any, file: str) -> None:
    """Call a config function and add what it returns, with the line of every literal.

    Raises:
        ConfigError: It is no such function, or fails, or returns something else.
    """
    code = getattr(inspect.unwrap(make), "__code__", None)
    if code is None or isinstance(make, type) or inspect.iscoroutinefunction(make):
        name = getattr(make, "__name__", repr(make))
        raise _mistake(shown_path(file), f"{name} is no plain function that returns a config")
    here = f"{shown_path(file)}:{code.co_firstlineno}"
    returned = result_type(inspect.unwrap(make))
    with recording(layers.wanted, returned if is_section(returned) else None) as recorder:
        try:
            config = make()
        except (Exception, SystemExit) as error:
            raise ConfigError([*_slips(recorder, here, None), *_failure(error, file)]) from error
    why = _misfit(config, layers.wanted, recorder.locate)
    if why is not None:
        raise _mistake(here, f"{make.__name__} {why}")
    add_object(layers, config, recorder.locate, here)
    for slip in _slips(recorder, here, config):
        layers.mistakes.append((Origin(layers.depth, line_of(slip.origin), slip.origin), slip))


def _misfit(config: Any, wanted: type | None, recorded: Locator) -> str | None:
    """Return why a recipe does not take what a config function returned, or None.

    It takes an object of its config class. It also takes one of a class that this derives from or, in a copy, replaces,
    if this has every field that the config sets.
    """
    if wanted is None or isinstance(config, wanted):
        return None
    cls, lacking = type(config), ""
    if is_section(cls) and (issubclass(wanted, cls) or _may_replace(wanted, cls)):
        missing = _set_fields(config, unstructure_what_can_be(config)[0], recorded) - fields(wanted).keys()
        if not missing:
            return None
        lacking = f", which has no {', '.join(sorted(missing))}"
    found = "nothing" if config is None else article(cls.__name__)
    return f"returns {found}; this recipe takes {article(wanted.__name__)}{lacking}"


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


def _slips(recorder: Recorder, otherwise: str, config: Any) -> list[Mistake]:
    """Return what a config function named wrongly or left out, each with its line."""
    return [
        Mistake(
            f"{shown_path(slip.place[0])}:{slip.place[1]}" if slip.place else otherwise,
            dotted((*recorder.path_of(slip.owner, config), slip.name)),
            slip.message,
        )
        for slip in recorder.slips
    ]


def _failure(error: BaseException, file: str) -> list[Mistake]:
    """Return what ended a Python file's code, with the line of that file; it may have been said already."""
    if isinstance(error, IncompleteError):
        return []
    if isinstance(error, ConfigError):
        return list(error.mistakes)
    own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == Path(file).resolve()]
    where = f"{shown_path(file)}:{own[-1].lineno}" if own else shown_path(file)
    return [Mistake(where, "", f"{type(error).__name__}: {error}{second_name_hint(error)}")]


def add_object(layers: Layers, config: Any, recorded: Locator, otherwise: str) -> None:
    """Add a config object as a layer.

    Args:
        layers: What it is added to.
        config: An object of a config class.
        recorded: A function from a path to the file and line of its literal, or None.
        otherwise: The origin of what was not recorded.
    """
    layers.depth += 1
    depth = layers.depth
    if otherwise:
        layers.sources.append(Origin(depth, 0, otherwise))

    def origin(path: Any) -> Origin:
        found = recorded(config, path)
        if found is None:
            return Origin(depth, 0, otherwise)
        return Origin(depth, found[1], f"{shown_path(found[0])}:{found[1]}")

    tree, problems = unstructure_what_can_be(config)
    for p in problems:
        layers.mistake(origin(p.path), p.path, p.message)
    if not isinstance(tree, dict):
        raise _mistake(otherwise, f"expected a config object, got {article(type(config).__name__)}")
    names = list(tree)
    if layers.wanted is not None and not isinstance(config, layers.wanted):
        written = _set_fields(config, tree, recorded)  # the rest has the defaults of this recipe's own class
        tree = {name: tree[name] for name in names if name in written}
    for name, value in tree.items():
        # A value that equals the default and was not written here stays the default's.
        if name not in layers.tree or layers.tree[name] != value or recorded(config, (name,)):
            layers.tree.pop(
                name, None
            )  # a config object is complete, so nothing below is dropped by surprise
            layers.put((name,), value, origin)
    in_order = [name for name in names if name in layers.tree]
    layers.tree = {name: layers.tree[name] for name in (*in_order, *layers.tree)}


def _function(module: ModuleType, file: str, function: str) -> Any:
    known = {
        n: v
        for n, v in vars(module).items()
        if callable(v) and getattr(v, "__module__", "") == module.__name__
    }
    if not function:
        public = [
            n for n, v in known.items() if not n.startswith("_") and inspect.isfunction(inspect.unwrap(v))
        ]
        returning = [n for n in public if is_section(result_type(known[n]))] or public
        if len(returning) == 1:
            return known[returning[0]]
        raise _mistake(
            shown_path(file), f"name the function: {file}:NAME, one of {', '.join(returning) or 'none'}"
        )
    if function not in known:
        raise _mistake(shown_path(file), f"no function {function!r}{did_you_mean(function, known)}")
    return getattr(module, function)


def load_module(file: str) -> ModuleType:
    """Import a Python file that the user named, or one of a registered package.

    Its folder becomes trusted and importable, so that dotpaths into it can be written and read.

    Raises:
        ConfigError: There is no such file, or importing it failed.
    """
    path = Path(file).resolve()
    if not os.path.isfile(path):  # noqa: PTH113 -- pathlib raises for a name that is too long
        is_folder = os.path.isdir(path)  # noqa: PTH112
        raise _mistake(
            file, "is a folder, not a Python file" if is_folder else f"no such file{_nearest_file(file)}"
        )
    if loaded := _loaded_from(path):
        return loaded
    try:
        return _import_member(path) or _import_file(path.stem, path)
    except ConfigError:
        raise
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise _mistake(
            f"{shown_path(error.filename or file)}{line}", f"not valid Python: {error.msg}"
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(_failure(error, file)) from error


def _loaded_from(path: Path) -> ModuleType | None:
    """Return the module that was imported from a file, under whatever name."""
    same = [
        m
        for m in list(sys.modules.values())
        if getattr(m, "__file__", None) and Path(str(m.__file__)) == path
    ]
    return same[0] if same else None


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
        raise _mistake(shown_path(str(path)), f"a module named {name!r} is loaded already; rename the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def shown_path(file: str) -> str:
    """Return a file's path as a user would write it here: relative where it lies below this folder."""
    path, here = Path(file), Path.cwd()
    if not path.is_absolute():
        return str(path)
    for root in (here, Path(__file__).resolve().parents[2]):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return str(path)


__all__ = ["BASE_KEY", "Document", "add_function", "add_object", "config_layers", "load_module", "shown_path"]
