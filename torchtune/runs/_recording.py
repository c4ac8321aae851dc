"""The file and line of every literal that a config function sets.

While a config function runs, the constructors and assignments of its config classes note the call or statement
that used them. The line of one keyword in a call that spans several lines is then found in the source's tree.
"""

import ast
import functools
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from torchtune.config import Mistake
from torchtune.config.model import (
    BROKEN,
    COMPONENT_KEY,
    REQUIRED,
    Location,
    Path,
    bound_keywords,
    fields,
    is_section,
    members,
    missing,
    nearest,
    position_of,
    refused_by_converter,
    shown_path,
    strip,
    unknown,
    written_at,
)
from torchtune.internals import Call, calling_line, is_constructing, watch_methods
from torchtune.runs._registry import syntax_tree

Locator = Callable[[Any, Path], Location | None]
"""Finds the literal nearest above a path of a config object; the layer of its location is not known yet."""


class IncompleteError(Exception):
    """A config function leaves out a required field, so that the object cannot be made; a mistake says which."""


@contextmanager
def recording(*config_classes: type | None) -> Iterator["Recorder"]:
    """Note where objects of config classes and their sections are made and changed.

    Meanwhile nothing is validated: what is wrong is found once all layers are merged, all of it at once. A name that
    is no field is noted and passed over.
    """
    recorder = Recorder()
    watched: tuple[type, ...] = ()
    for config_class in config_classes:
        for cls, path in _section_paths(config_class, ()):
            paths = recorder.sections.setdefault(cls, [])
            if path not in paths:
                paths.append(path)
        watched = _classes(config_class, watched)
    watching = watch_methods(watched, recorder.watched_init, recorder.watched_assign)
    with watching as recorder.is_watching, attrs.validators.disabled():
        yield recorder


def _classes(t: Any, seen: tuple[type, ...] = ()) -> tuple[type, ...]:
    """Return a config class and the classes of its sections."""
    for member in members(strip(t)) if t is not None else ():
        if is_section(member) and member not in seen:
            seen = (*seen, member)
            for f in fields(member).values():
                seen = _classes(f.type, seen)
        else:
            for argument in typing.get_args(member):
                seen = _classes(argument, seen)
    return seen


def _section_paths(t: Any, path: Path, above: tuple[type, ...] = ()) -> Iterator[tuple[type, Path]]:
    """Yield a config class and the classes of its sections, each with the path at which it stands."""
    for member in members(strip(t)) if t is not None else ():
        if is_section(member) and member not in above:
            for name, f in fields(member).items():
                yield from _section_paths(f.type, (*path, name), (*above, member))
            yield member, path


def _sections_in(value: Any, path: Path) -> Iterator[tuple[Path, object]]:
    """Yield every config object in a value, with its path."""
    items: Iterable[tuple[str | int, Any]] = ()
    if is_section(type(value)):
        yield path, value
        items = ((n, getattr(value, n)) for n in fields(value.__class__) if hasattr(value, n))
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    if len(path) < 20:
        for key, item in items:
            yield from _sections_in(item, (*path, key))


@attrs.define
class Recorder:
    """What was made and changed so far; objects are kept, so that their identities stay theirs."""

    sections: dict[type, list[Path]] = attrs.field(factory=dict)
    """The paths at which each config class stands."""
    is_watching: bool = False
    """Whether constructors and assignments are noted; otherwise no lines are known, and `note_strays` is needed."""
    mistakes: list[tuple[object, Mistake]] = attrs.field(factory=list)
    """Names that are no fields, required fields left out, and what converters refuse: each with the config or section
    that it was meant for, which its path begins below."""
    made: dict[int, tuple[object, Call]] = attrs.field(factory=dict)
    assigned: dict[tuple[int, str], Call] = attrs.field(factory=dict)

    def watched_init(self, init: Callable[..., None]) -> Callable[..., None]:
        """Return a constructor that notes its caller."""

        @functools.wraps(init)
        def watched(instance: Any, *args: Any, **kwargs: Any) -> None:
            use = calling_line(__file__)
            if use:
                self.made[id(instance)] = (instance, use)
            given = self._known(instance, use, args, kwargs)
            refused: list[str] = []
            if is_section(type(instance)):
                refused = self._take_what_converters_refuse(instance, use, given)
            try:
                init(instance, *args, **given)
            except Exception as error:
                # What the class's own code refuses is found once all layers are merged, if it is still so then.
                is_call = error.__traceback__ is not None and error.__traceback__.tb_next is None
                if (
                    is_call
                    or not is_section(type(instance))
                    or any(not hasattr(instance, n) for n in fields(instance.__class__))
                ):
                    raise
            for name in refused:
                object.__setattr__(instance, name, BROKEN)

        return watched

    def _take_what_converters_refuse(
        self, instance: object, use: Call | None, given: dict[str, Any]
    ) -> list[str]:
        """Take the keywords away that a field's converter refuses, where the field has a default; note them."""
        refused = []
        cls: type = type(instance)
        for name, f in fields(cls).items():
            alias = getattr(f.attribute, "alias", name)
            if alias not in given or f.default is REQUIRED:
                continue
            mistake = refused_by_converter(f, given[alias])
            if mistake:
                self._note(instance, use, mistake)
                del given[alias]
                refused.append(name)
        return refused

    def _known(
        self, instance: object, use: Call | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the keywords of a constructor that are fields, noting the others, and those that are left out.

        Raises:
            IncompleteError: A required field is left out that has a converter, which no placeholder passes.
        """
        cls: type = type(instance)
        if not is_section(cls):
            return dict(kwargs)
        known = fields(cls)
        aliases = {getattr(f.attribute, "alias", name): name for name, f in known.items()}
        for name in kwargs.keys() - aliases.keys():
            self._note(instance, use, unknown(name, known, (name,)))
        given = {name: value for name, value in kwargs.items() if name in aliases}
        meant = {nearest(name, known) for name in kwargs if name not in aliases}
        lacking = [
            a for a, n in aliases.items() if known[n].default is REQUIRED and a not in kwargs and not args
        ]
        for alias in lacking:
            if aliases[alias] not in meant:
                self._note(instance, use, missing(known[aliases[alias]]))
            given[alias] = BROKEN
        if any(getattr(known[aliases[alias]].attribute, "converter", None) for alias in lacking):
            raise IncompleteError(lacking)
        return given

    def _note(self, owner: object, use: Call | None, mistake: Mistake) -> None:
        location = None if use is None else _location_in_call(use, str(mistake.path[0]), None)
        self.mistakes.append((owner, mistake._replace(location=location or Location())))

    def note_strays(self, config: object) -> None:
        """Note attributes of a config and its sections that are no fields, where assignments were not watched."""
        for _, section in () if self.is_watching else _sections_in(config, ()):
            cls: type = type(section)
            known = fields(cls)
            for name in getattr(section, "__dict__", ()):
                if name not in known and not hasattr(cls, name):
                    self._note(section, None, unknown(name, known, (name,)))

    def path_of(self, owner: object, config: object) -> Path:
        """Return where a section stands in a config; where it is not in it, the place of its class, if it has one."""
        for path, value in _sections_in(config, ()):
            if value is owner:
                return path
        paths = self.sections.get(type(owner), [])
        return paths[0] if len(paths) == 1 else ()

    def watched_assign(self, assign: Callable[..., None]) -> Callable[..., None]:
        """Return an assignment that notes the statement."""

        def watched(instance: Any, name: str, value: Any) -> None:
            cls: type = type(instance)
            known = fields(cls) if is_section(cls) else {}
            use = calling_line(__file__)
            if use and known and name not in known and not hasattr(cls, name):
                self._note(instance, use, unknown(name, known, (name,)))
                return
            assign(instance, name, value)
            if use and not is_constructing():
                self.assigned[id(instance), name] = use

        return watched

    def locate(self, config: Any, path: Path) -> Location | None:
        """Return the location of the literal nearest above a path."""
        location: Location | None = None
        value = config
        for key in path:
            location = self._location(value, key) or location
            try:
                value = _below(value, key)
            except (LookupError, AttributeError, TypeError):
                break
        return location

    def _location(self, value: Any, key: str | int) -> Location | None:
        if isinstance(value, functools.partial):
            written = written_at(value)
            return _location_in_call(Call(*written), str(key), value) if written else None
        use = self.assigned.get((id(value), str(key)))
        if use:
            return _line_of(use, position_of(use.code, use.instruction)[0])
        made = self.made.get(id(value))
        return self._location_in_constructor(made[1], str(key)) if made else None

    def _location_in_constructor(self, use: Call, key: str) -> Location | None:
        named = _location_in_call(use, key, None, exact=True)
        if named is None and use.copied_from is not None:
            return self._location(use.copied_from, key)
        return named


def _line_of(use: Call, line: int) -> Location:
    return Location(0, line, shown_path(use.code.co_filename), "file")


def _location_in_call(use: Call, key: str, component: Any, *, exact: bool = False) -> Location | None:
    """Return the line of an argument in a call; of the call itself where it is not spelt out and need not be."""
    line, column = position_of(use.code, use.instruction)
    call = _calls(use.code.co_filename).get((line, column))
    if call is None:
        return None if exact and component is None else _line_of(use, line)
    spelt_out = next((k.value.lineno for k in call.keywords if k.arg == key), None)
    if key == COMPONENT_KEY:
        spelt_out = call.args[0].lineno if call.args else line
    elif spelt_out is None and component is not None:
        names = list(bound_keywords(component))
        if key in names and names.index(key) + 1 < len(call.args):
            spelt_out = call.args[names.index(key) + 1].lineno
    if spelt_out is not None:
        return _line_of(use, spelt_out)
    unpacks = any(keyword.arg is None for keyword in call.keywords)
    return _line_of(use, line) if not exact or unpacks else None


@functools.lru_cache(maxsize=256)
def _calls(file: str) -> Mapping[tuple[int, int], ast.Call]:
    """Return every call in a file by its line and column."""
    try:
        tree = syntax_tree(file)
    except (OSError, SyntaxError):
        return {}
    calls: Iterable[ast.Call] = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {(node.lineno, node.col_offset): node for node in calls}


def _below(value: Any, key: str | int) -> Any:
    if isinstance(value, functools.partial):
        return bound_keywords(value)[str(key)]
    if isinstance(value, dict):
        return value[key]
    return value[int(key)] if isinstance(value, (list, tuple)) else getattr(value, str(key))
