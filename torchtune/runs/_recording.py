"""Record the file and line of every literal that a config function sets.

While a config function runs, the constructors and assignments of its config classes record the calling statement. The
line of each keyword in a multi-line call is then looked up in the syntax tree of the source.
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
    converter_mistake,
    display_path,
    fields,
    is_section,
    members,
    missing_field,
    nearest,
    position_of,
    strip,
    unknown_name,
    written_at,
)
from torchtune.internals import Call, calling_line, is_constructing, watch_methods
from torchtune.runs._registry import syntax_tree

Locator = Callable[[Any, Path], Location | None]
"""A function that returns the location of the innermost literal that contains a path of a config, without layer."""


class IncompleteError(Exception):
    """A config function omits a required field, so no object can be built; a recorded mistake names the field."""


@contextmanager
def recording(*config_classes: type | None) -> Iterator["Recorder"]:
    """Record the locations at which objects of config classes and their sections are created and changed.

    Validators are disabled in this context, because mistakes are reported together after all layers are merged. A name
    that is not a field is recorded as a mistake and ignored.
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


def _classes(t: Any, visited: tuple[type, ...] = ()) -> tuple[type, ...]:
    """Return a config class and the classes of its sections."""
    for member in members(strip(t)) if t is not None else ():
        if is_section(member) and member not in visited:
            visited = (*visited, member)
            for f in fields(member).values():
                visited = _classes(f.type, visited)
        else:
            for argument in typing.get_args(member):
                visited = _classes(argument, visited)
    return visited


def _section_paths(t: Any, path: Path, above: tuple[type, ...] = ()) -> Iterator[tuple[type, Path]]:
    """Yield a config class and the classes of its sections, each with its field path."""
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
    """The created objects and assignments so far; the recorder keeps objects alive, so that their ids stay unique."""

    sections: dict[type, list[Path]] = attrs.field(factory=dict)
    """The field paths of each config class."""
    is_watching: bool = False
    """Whether calls are recorded; otherwise, lines are unknown, and `record_unknown_attributes` is needed."""
    mistakes: list[tuple[object, Mistake]] = attrs.field(factory=list)
    """Unknown names, omitted fields and rejected values, each with the object to which its path is relative."""
    created: dict[int, tuple[object, Call]] = attrs.field(factory=dict)
    assigned: dict[tuple[int, str], Call] = attrs.field(factory=dict)

    def watched_init(self, init: Callable[..., None]) -> Callable[..., None]:
        """Wrap a constructor so that it records the calling statement."""

        @functools.wraps(init)
        def watched(instance: Any, *args: Any, **kwargs: Any) -> None:
            use = calling_line(__file__)
            if use:
                self.created[id(instance)] = (instance, use)
            keywords = self._accepted_keywords(instance, use, args, kwargs)
            rejected: list[str] = []
            if is_section(type(instance)):
                rejected = self._remove_rejected_keywords(instance, use, keywords)
            try:
                init(instance, *args, **keywords)
            except Exception as error:
                # Values rejected by the class's code are checked again, and reported, after all layers are merged.
                is_call = error.__traceback__ is not None and error.__traceback__.tb_next is None
                if (
                    is_call
                    or not is_section(type(instance))
                    or any(not hasattr(instance, n) for n in fields(instance.__class__))
                ):
                    raise
            for name in rejected:
                object.__setattr__(instance, name, BROKEN)

        return watched

    def _remove_rejected_keywords(
        self, instance: object, use: Call | None, keywords: dict[str, Any]
    ) -> list[str]:
        """Remove keywords whose values a converter rejects, if the field has a default, and record the mistakes."""
        rejected = []
        cls: type = type(instance)
        for name, f in fields(cls).items():
            alias = getattr(f.attribute, "alias", name)
            if alias not in keywords or f.default is REQUIRED:
                continue
            mistake = converter_mistake(f, keywords[alias])
            if mistake:
                self._note(instance, use, mistake)
                del keywords[alias]
                rejected.append(name)
        return rejected

    def _accepted_keywords(
        self, instance: object, use: Call | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the keywords of a constructor that are fields; record unknown and omitted keywords as mistakes.

        Raises:
            IncompleteError: An omitted required field has a converter, which would reject a placeholder.
        """
        cls: type = type(instance)
        if not is_section(cls):
            return dict(kwargs)
        known_fields = fields(cls)
        aliases = {getattr(f.attribute, "alias", name): name for name, f in known_fields.items()}
        for name in kwargs.keys() - aliases.keys():
            self._note(instance, use, unknown_name(name, known_fields, (name,)))
        keywords = {name: value for name, value in kwargs.items() if name in aliases}
        intended = {nearest(name, known_fields) for name in kwargs if name not in aliases}
        omitted = [
            a
            for a, n in aliases.items()
            if known_fields[n].default is REQUIRED and a not in kwargs and not args
        ]
        for alias in omitted:
            if aliases[alias] not in intended:
                self._note(instance, use, missing_field(known_fields[aliases[alias]]))
            keywords[alias] = BROKEN
        if any(getattr(known_fields[aliases[alias]].attribute, "converter", None) for alias in omitted):
            raise IncompleteError(omitted)
        return keywords

    def _note(self, owner: object, use: Call | None, mistake: Mistake) -> None:
        location = None if use is None else _location_in_call(use, str(mistake.path[0]), None)
        self.mistakes.append((owner, mistake._replace(location=location or Location())))

    def record_unknown_attributes(self, config: object) -> None:
        """Record a mistake for each attribute of a config or section that is not a field, if nothing was watched."""
        for _, section in () if self.is_watching else _sections_in(config, ()):
            cls: type = type(section)
            known_fields = fields(cls)
            for name in getattr(section, "__dict__", ()):
                if name not in known_fields and not hasattr(cls, name):
                    self._note(section, None, unknown_name(name, known_fields, (name,)))

    def path_of(self, owner: object, config: object) -> Path:
        """Return the field path of a section in a config; for a section outside it, the only path of its class."""
        for path, value in _sections_in(config, ()):
            if value is owner:
                return path
        paths = self.sections.get(type(owner), [])
        return paths[0] if len(paths) == 1 else ()

    def watched_assign(self, assign: Callable[..., None]) -> Callable[..., None]:
        """Wrap a `__setattr__` so that it records the calling statement."""

        def watched(instance: Any, name: str, value: Any) -> None:
            cls: type = type(instance)
            known_fields = fields(cls) if is_section(cls) else {}
            use = calling_line(__file__)
            if use and known_fields and name not in known_fields and not hasattr(cls, name):
                self._note(instance, use, unknown_name(name, known_fields, (name,)))
                return
            assign(instance, name, value)
            if use and not is_constructing():
                self.assigned[id(instance), name] = use

        return watched

    def locate(self, config: Any, path: Path) -> Location | None:
        """Return the location of the innermost literal that contains a path of a config."""
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
            call = written_at(value)
            return _location_in_call(Call(*call), str(key), value) if call else None
        use = self.assigned.get((id(value), str(key)))
        if use:
            return _line_of(use, position_of(use.code, use.instruction)[0])
        created = self.created.get(id(value))
        return self._location_in_constructor(created[1], str(key)) if created else None

    def _location_in_constructor(self, use: Call, key: str) -> Location | None:
        named = _location_in_call(use, key, None, exact=True)
        if named is None and use.copied_from is not None:
            return self._location(use.copied_from, key)
        return named


def _line_of(use: Call, line: int) -> Location:
    return Location(0, line, display_path(use.code.co_filename), "file")


def _location_in_call(use: Call, key: str, component: Any, *, exact: bool = False) -> Location | None:
    """Return the location of an argument in a call, or of the call if the argument is implicit and not `exact`."""
    line, column = position_of(use.code, use.instruction)
    call = _calls(use.code.co_filename).get((line, column))
    if call is None:
        return None if exact and component is None else _line_of(use, line)
    argument_line = next((k.value.lineno for k in call.keywords if k.arg == key), None)
    if key == COMPONENT_KEY:
        argument_line = call.args[0].lineno if call.args else line
    elif argument_line is None and component is not None:
        names = list(bound_keywords(component))
        if key in names and names.index(key) + 1 < len(call.args):
            argument_line = call.args[names.index(key) + 1].lineno
    if argument_line is not None:
        return _line_of(use, argument_line)
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
