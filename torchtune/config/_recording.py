"""The file and line of every literal that a config function sets.

While a config function runs, the constructors and assignments of its config classes note the call or statement
that used them. The line of one keyword in a call that spans several lines is then found in the source's tree.
"""

import ast
import dataclasses
import functools
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, NamedTuple

import attrs

from torchtune.config._classes import REQUIRED, fields, refused_by_converter
from torchtune.config._component import COMPONENT_KEY, bound_keywords, written_at
from torchtune.config._hints import suggestion
from torchtune.config._mistakes import Path, nearest
from torchtune.config._tree import BROKEN
from torchtune.config._types import describe, is_section, members, strip

Place = tuple[str, int]
"""A file and a line."""
Locator = Callable[[Any, Path], Place | None]
_ATTRS_FOLDER = os.path.dirname(attrs.__file__)[: -len("attrs")]  # noqa: PTH120 -- text is compared with text


class Slip(NamedTuple):
    """Where a config function names no field, or leaves out a required one."""

    place: Place | None
    owner: object
    """The config or section that it was meant for."""
    name: str
    message: str


class IncompleteError(Exception):
    """A config function leaves out a required field, so that the object cannot be made; a `Slip` says which."""


@contextmanager
def recording(config_class: type | None) -> Iterator["Recorder"]:
    """Note where objects of a config class and its sections are made and changed.

    Meanwhile nothing is validated: what is wrong is found once all layers are merged, all of it at once. A name that
    is no field is noted and passed over.
    """
    recorder = Recorder()
    for cls, path in _section_paths(config_class, ()):
        recorder.sections.setdefault(cls, []).append(path)
    saved = [(c, c.__init__, c.__dict__.get("__setattr__")) for c in _classes(config_class)]  # type: ignore[misc]
    for c, init, assign in saved:
        c.__init__ = recorder.watched_init(init)  # type: ignore[misc]  # put back below
        c.__setattr__ = recorder.watched_assign(assign or c.__setattr__)  # type: ignore[method-assign]
    try:
        with attrs.validators.disabled():
            yield recorder
    finally:
        for c, init, assign in saved:
            c.__init__ = init  # type: ignore[misc]
            if assign is None:
                del c.__setattr__
            else:
                c.__setattr__ = assign  # type: ignore[method-assign]


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


@attrs.frozen
class _Use:
    """A call or assignment, as the code and instruction that made it."""

    code: CodeType
    instruction: int
    copied_from: object = None
    """The object that `attrs.evolve` was given."""


@attrs.define
class Recorder:
    """What was made and changed so far; objects are kept, so that their identities stay theirs."""

    sections: dict[type, list[Path]] = attrs.field(factory=dict)
    """The paths at which each config class stands."""
    slips: list[Slip] = attrs.field(factory=list)
    """Names that are no fields, and required fields left out."""
    made: dict[int, tuple[object, _Use]] = attrs.field(factory=dict)
    assigned: dict[tuple[int, str], _Use] = attrs.field(factory=dict)

    def watched_init(self, init: Callable[..., None]) -> Callable[..., None]:
        """Return a constructor that notes its caller."""

        @functools.wraps(init)
        def watched(instance: Any, *args: Any, **kwargs: Any) -> None:
            use = _user()
            if use:
                self.made[id(instance)] = (instance, use)
            given, refused = self._known(instance, use, args, kwargs), []
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
        self, instance: object, use: "_Use | None", given: dict[str, Any]
    ) -> list[str]:
        """Take the keywords away that a field's converter refuses, where the field has a default; note them."""
        refused = []
        cls: type = type(instance)
        for name, f in fields(cls).items():
            alias = getattr(f.attribute, "alias", name)
            if (
                alias in given
                and f.default is not REQUIRED
                and (why := refused_by_converter(f, given[alias]))
            ):
                self._slip(instance, name, use, why)
                del given[alias]
                refused.append(name)
        return refused

    def _known(
        self, instance: object, use: "_Use | None", args: tuple[Any, ...], kwargs: Mapping[str, Any]
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
            self._slip(instance, name, use, f"no {name!r}{suggestion(name, known)}")
        given = {name: value for name, value in kwargs.items() if name in aliases}
        meant = {nearest(name, known) for name in kwargs if name not in aliases}
        missing = [
            a for a, n in aliases.items() if known[n].default is REQUIRED and a not in kwargs and not args
        ]
        for alias in missing:
            name = aliases[alias]
            if name not in meant:
                wanted = describe(known[name].type)
                self._slip(instance, name, use, f"is required: {wanted}; write {name}=...")
            given[alias] = BROKEN
        if any(getattr(known[aliases[alias]].attribute, "converter", None) for alias in missing):
            raise IncompleteError(missing)
        return given

    def _slip(self, owner: object, name: str, use: "_Use | None", message: str) -> None:
        place = None if use is None else _place_in_call(use, name, None)
        self.slips.append(Slip(place, owner, name, message))

    def path_of(self, owner: object, config: object) -> Path:
        """Return where a section stands in a config; where it is not in it, the place of its class, if it has one."""
        found = next((path for path, value in _sections_in(config, ()) if value is owner), None)
        places = self.sections.get(type(owner), [])
        return found if found is not None else places[0] if len(places) == 1 else ()

    def watched_assign(self, assign: Callable[..., None]) -> Callable[..., None]:
        """Return an assignment that notes the statement."""

        def watched(instance: Any, name: str, value: Any) -> None:
            cls: type = type(instance)
            known = fields(cls) if is_section(cls) else {}
            if known and name not in known and not hasattr(cls, name) and (use := _user()):
                self._slip(instance, name, use, f"no {name!r}{suggestion(name, known)}")
                return
            assign(instance, name, value)
            if sys._getframe(1).f_code.co_name != "__init__" and (use := _user()):  # noqa: SLF001
                self.assigned[id(instance), name] = use

        return watched

    def locate(self, config: Any, path: Path) -> Place | None:
        """Return the file and line of the literal nearest above a path."""
        place: Place | None = None
        value = config
        for key in path:
            place = self._place(value, key) or place
            try:
                value = _below(value, key)
            except (LookupError, AttributeError, TypeError):
                break
        return place

    def _place(self, value: Any, key: str | int) -> Place | None:
        if isinstance(value, functools.partial):
            written = written_at(value)
            return _place_in_call(_Use(*written), str(key), value) if written else None
        if use := self.assigned.get((id(value), str(key))):
            return use.code.co_filename, _position(use)[0]
        if found := self.made.get(id(value)):
            return self._place_in_constructor(found[1], str(key))
        return None

    def _place_in_constructor(self, use: _Use, key: str) -> Place | None:
        named = _place_in_call(use, key, None, exact=True)
        if named is None and use.copied_from is not None:
            return self._place(use.copied_from, key)
        return named


def _user() -> _Use | None:
    """Return the call in the nearest frame that is neither attrs' code nor this module's."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
    copied_from = None
    while frame is not None:
        file = frame.f_code.co_filename
        if frame.f_code.co_name == "evolve" and file.startswith(_ATTRS_FOLDER):
            copied_from = frame.f_locals.get("inst", (frame.f_locals.get("args") or (None,))[0])
        elif frame.f_code.co_name in ("replace", "_replace") and file == dataclasses.__file__:
            copied_from = frame.f_locals.get("obj", frame.f_locals.get("self"))
        elif not file.startswith((_ATTRS_FOLDER, "<attrs", "<string>")) and file not in (
            __file__,
            dataclasses.__file__,
        ):
            return _Use(frame.f_code, frame.f_lasti, copied_from)
        frame = frame.f_back
    return None


def place_of_call(code: CodeType, instruction: int) -> Place:
    """Return the file and line of a call."""
    use = _Use(code, instruction)
    return code.co_filename, _position(use)[0]


def _position(use: _Use) -> tuple[int, int]:
    """Return the line and column at which an instruction's expression begins."""
    positions = list(use.code.co_positions())
    line, _, column, _ = positions[use.instruction // 2]
    return line or use.code.co_firstlineno, column or 0


def _place_in_call(use: _Use, key: str, component: Any, *, exact: bool = False) -> Place | None:
    """Return the line of an argument in a call; of the call itself where it is not spelt out and need not be."""
    file, (line, column) = use.code.co_filename, _position(use)
    call = _calls(file).get((line, column))
    if call is None:
        return None if exact and component is None else (file, line)
    if key == COMPONENT_KEY:
        return file, call.args[0].lineno if call.args else line
    for keyword in call.keywords:
        if keyword.arg == key:
            return file, keyword.value.lineno
    if (
        component is not None
        and key in (names := list(bound_keywords(component)))
        and names.index(key) + 1 < len(call.args)
    ):
        return file, call.args[names.index(key) + 1].lineno
    spread = any(keyword.arg is None for keyword in call.keywords)
    return (file, line) if not exact or spread else None


@functools.lru_cache(maxsize=256)
def _calls(file: str) -> Mapping[tuple[int, int], ast.Call]:
    """Return every call in a file by its line and column."""
    try:
        with open(file, encoding="utf-8") as stream:  # noqa: PTH123 -- this is on the way to every run
            tree = ast.parse(stream.read())
    except (OSError, SyntaxError):
        return {}
    found: Iterable[ast.Call] = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {(node.lineno, node.col_offset): node for node in found}


def _below(value: Any, key: str | int) -> Any:
    if isinstance(value, functools.partial):
        return bound_keywords(value)[str(key)]
    if isinstance(value, dict):
        return value[key]
    return value[int(key)] if isinstance(value, (list, tuple)) else getattr(value, str(key))
