"""Layers of a config, lowest first: class defaults, a Python config or YAML files, the command line.

Every leaf remembers its origin. A component that replaces another starts with no arguments.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen

from torchtune.config._classes import REQUIRED, default_values, fields
from torchtune.config._component import COMPONENT_KEY, stamp
from torchtune.config._interpolation import is_reference, referred, resolve_tree
from torchtune.config._mistakes import SILENT, ConfigError, Mistake, Path, Problem, RejectedError, dotted
from torchtune.config._schema import is_data, mapping_of, section_of, slots
from torchtune.config._structure import check_untyped, structure
from torchtune.config._tree import at, copied, is_component_tree, places
from torchtune.config._types import is_section
from torchtune.config._unstructure import unstructure
from torchtune.config._yaml import Document

HELPER_PREFIX = "x-"
"""Keys of a file that begin so hold what its aliases name, and are no fields.

Docker Compose and OpenAPI have the same. GitLab's leading dot would be an empty name in a dotted path.
"""


@frozen(order=True)
class Origin:
    """Where a value was written; origins sort as a reader meets them."""

    layer: int
    """0 for defaults, then one for each layer."""
    line: int
    """The line of a file, or the position on the command line."""
    text: str
    """`my.yaml:12`, `--override lr=1`, `default of FullFinetuneConfig`."""


def line_of(origin: str) -> int:
    """Return the line at the end of an origin such as `my.yaml:12`; 0 where there is none."""
    line = origin.rpartition(":")[2]
    return int(line) if line.isdecimal() else 0


@define
class Layers:
    """A config as it grows from its layers.

    Attributes:
        wanted: The recipe's config class; None for a recipe without one.
        tree: All layers merged, references as written.
        origins: The origin of each value that a layer set.
        mistakes: What was already found wrong while reading.
        notes: What the user should know, such as arguments that a swap dropped.
    """

    wanted: type | None
    tree: dict[str, Any] = field(factory=dict)
    origins: dict[Path, Origin] = field(factory=dict)
    mistakes: list[tuple[Origin, Mistake]] = field(factory=list)
    notes: list[str] = field(factory=list)
    sources: list[Origin] = field(factory=list)
    """The files and config functions, lowest first."""
    depth: int = 0
    incomplete: bool = False
    """True where a layer is missing for a mistake of its own, so that what it would have set is no other."""

    @classmethod
    def of_defaults(cls, wanted: type | None) -> "Layers":
        """Start from the defaults of a recipe's config class."""
        made = cls(wanted)
        if wanted is not None:
            where = f"default of {wanted.__name__}"
            try:
                made.tree = unstructure(default_values(wanted))
            except RejectedError as rejected:
                raise ConfigError(
                    Mistake(where, dotted(p.path), p.message) for p in rejected.problems
                ) from rejected
            except ConfigError:
                raise
            except Exception as error:  # of a factory of the class
                raise ConfigError([Mistake(where, "", f"{type(error).__name__}: {error}")]) from error
            made.origins[()] = Origin(0, 0, f"default of {wanted.__name__}")
        return made

    def add_document(self, document: Document) -> None:
        """Add a YAML file."""
        self.depth += 1
        self.sources.append(Origin(self.depth, 0, document.name))

        def origin(path: Path) -> Origin:
            line = next(
                (document.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in document.lines), 0
            )
            return Origin(self.depth, line, f"{document.name}:{line}" if line else document.name)

        self.mistakes += [(Origin(self.depth, line_of(m.origin), m.origin), m) for m in document.mistakes]
        if not isinstance(document.value, Mapping):
            found = {type(None): "is empty", list: "holds a list"}.get(
                type(document.value), "holds a single value"
            )
            message = f"{found}; a config is a mapping of fields to values"
            raise ConfigError([Mistake(document.name, "", message)], document.name)
        self.merge({k: v for k, v in document.value.items() if not k.startswith(HELPER_PREFIX)}, origin)

    def merge(self, tree: Mapping[str, Any], origin: Any, path: Path = ()) -> None:
        """Merge a layer's mapping into what is at `path`; mappings merge, everything else replaces."""
        holder = self._holder(path)
        for key, value in tree.items():
            here = (*path, key)
            old = holder.get(key)
            # A mapping that names its component is that component whole; one that does not changes arguments.
            if isinstance(value, Mapping) and isinstance(old, dict) and self.merges(here, value):
                self.merge(value, origin, here)
            elif is_reference(old) and isinstance(value, Mapping) and section_of(self.type_at(here)):
                why = (
                    f"the layer below has the reference {old} here; change what it names, or refer to another"
                )
                self.mistake(origin(here), here, why)
            else:
                self.put(here, value, origin)

    def merges(self, path: Path, value: Mapping[str, Any]) -> bool:
        """Tell whether a mapping changes what it is written over, or takes its place as data that a field holds."""
        if COMPONENT_KEY in value:
            return False
        t = None if is_component_tree(at(self.tree, path)) else self.type_at(path)
        return t is None or not (is_data(t) or (not value and mapping_of(t) is not None))

    def type_at(self, path: Path) -> Any:
        """Return the declared type of what stands at a path; Any where nothing is declared."""
        t, tree = self.wanted or Any, self.tree
        for i, key in enumerate(path):
            slot = slots(t, tree).get(key)
            t = slot.type if slot is not None else Any
            tree = at(self.tree, path[: i + 1])
        return t

    def _holder(self, path: Path) -> dict[str, Any]:
        holder: Any = self.tree
        for key in path:
            holder = holder[key]
        assert isinstance(holder, dict)
        return holder

    def put(self, path: Path, value: Any, origin: Any) -> None:
        """Replace what is at a path, forgetting the origins below it.

        Args:
            path: Where; everything above it exists.
            value: A tree.
            origin: A function from a path to its Origin.
        """
        holder: Any = self.tree
        for key in path[:-1]:
            holder = holder[key]
        old = None if isinstance(holder, dict) and path[-1] not in holder else holder[path[-1]]
        self._note_dropped(path, old, value, origin(path))
        holder[path[-1]] = copied(value)
        self.forget(path)
        for place in places(value, path):
            self.origins[place] = origin(place)

    def forget(self, path: Path) -> None:
        """Drop the origins of a path and of everything below it."""
        for stale in [p for p in self.origins if p[: len(path)] == path]:
            del self.origins[stale]

    def _note_dropped(self, path: Path, old: Any, new: Any, origin: Origin) -> None:
        """Say which arguments a component loses to another; a file over the class's defaults needs no word."""
        if not is_component_tree(old) or not is_component_tree(new):
            return
        dropped = [name for name in old if name != COMPONENT_KEY and name not in new]
        over_defaults = self.origin(path).layer == 0 and not origin.text.startswith("--")
        if dropped and not over_defaults:
            what = f"{dotted(path)}: {new[COMPONENT_KEY]} replaces {old[COMPONENT_KEY]}"
            self.notes.append(f"{origin.text}: {what} and drops its {', '.join(dropped)}")

    def origin(self, path: Path) -> Origin:
        """Return the origin of a path, or of the nearest thing above it."""
        for length in range(len(path), -1, -1):
            if found := self.origins.get(path[:length]):
                return found
        return Origin(0, 0, "")

    def mistake(self, origin: Origin, path: Path, message: str) -> None:
        """Note a mistake."""
        self.mistakes.append((origin, Mistake(origin.text, dotted(path), message)))

    def order(self) -> None:
        """Put the fields into the order of the config class, whatever the order of the layers."""
        names = [*fields(self.wanted), *self.tree] if self.wanted else [*self.tree]
        self.tree = {name: self.tree[name] for name in names if name in self.tree}

    def resolve(self) -> Any:
        """Return the tree with references resolved; what cannot be is noted as a mistake."""
        resolved, problems = self._resolve()
        self._note([p for p in problems if p.message])
        return resolved

    def _resolve(self) -> tuple[Any, list[Problem]]:
        self.order()
        return resolve_tree(self.tree, unset=self._unset())

    def _unset(self) -> dict[str, str]:
        """Return the fields that are not there, each with why it cannot be referred to.

        That of a required one is empty, since that it is missing is a mistake of its own.
        """
        known = fields(self.wanted) if self.wanted else {}
        computed = "is computed from other fields, so no reference can name it; set it, or compute it there"
        return {
            name: "" if f.default is REQUIRED else computed
            for name, f in known.items()
            if name not in self.tree
        }

    def build(self, of: str = "the config") -> Any:
        """Return the resolved config, checked: an object of the config class, or a Node where there is none.

        Raises:
            ConfigError: With every mistake of every layer.
        """
        resolved, unresolved = self._resolve()
        said = {(m.origin, m.path) for _, m in self.mistakes}
        silent = {p.path for p in unresolved}
        config = None
        found: list[Problem] = []
        try:
            config = self._structured(resolved)
        except RejectedError as rejected:
            found = [
                p
                for p in rejected.problems
                if p.message != SILENT
                and p.path not in silent
                and (self._origin_of_mistake(p).text, dotted(p.path)) not in said
                and not (self.incomplete and p.message.startswith("is required"))
            ]
        found = self._at_their_source(found)
        wrong = {p.path for p in found}
        self._note([p for p in unresolved if p.message and p.because not in wrong])
        self._note(found)
        self.check(of)
        return config

    def _at_their_source(self, problems: list[Problem]) -> list[Problem]:
        """Leave out what is wrong with a value only because it refers to one that has a mistake."""
        known = {tuple(map(str, p.path)) for p in problems}

        def is_another(problem: Problem) -> bool:
            for length in range(1, len(problem.path) + 1):
                try:
                    value = at(self.tree, problem.path[:length])
                except LookupError:
                    return False
                if target := referred(value):
                    return (*target, *map(str, problem.path[length:])) in known
            return False

        return [p for p in problems if not is_another(p)]

    def _structured(self, resolved: Any) -> Any:
        if self.wanted is not None:
            config = structure(resolved, self.wanted)
            self._stamp(config, ())
            return config
        from torchtune.config._node import Node

        check_untyped(resolved)
        return Node(resolved, origins={path: self._named_at(path) for path in places(resolved)})

    def _stamp(self, value: Any, path: Path) -> None:
        """Tell every component where it was named, for the messages of `instantiate`."""
        if isinstance(value, functools.partial):
            stamp(value, self._named_at(path), path)
            value = dict(value.keywords)
        elif is_section(type(value)):
            value = {name: getattr(value, name) for name in fields(value.__class__)}
        if isinstance(value, Mapping):
            for key, item in value.items():
                self._stamp(item, (*path, key))
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                self._stamp(item, (*path, i))

    def _named_at(self, path: Path) -> str:
        return (self.origins.get((*path, COMPONENT_KEY)) or self.origin(path)).text

    def _note(self, problems: list[Problem]) -> None:
        for problem in problems:
            self.mistake(self._origin_of_mistake(problem), problem.path, problem.message)

    def _origin_of_mistake(self, problem: Problem) -> Origin:
        """Return where a mistake was made.

        What is wrong with a component as a whole is wrong where it is named; what contradicts itself in a config
        class or a section, at the last of the fields that the message names, or else of all that was set there.
        """
        path = problem.path
        named = (*path, COMPONENT_KEY)
        if path in self.origins and named in self.origins:
            return self.origins[named]
        try:
            holder = at(self.tree, path)
        except LookupError:  # it is missing: from the last of the files, where none says anything near it
            if len(path) > 1:
                return self.origin(path)
            return self.sources[-1] if self.sources else Origin(0, 0, "")
        if isinstance(holder, list):
            return self.last_origin(path)
        if is_component_tree(holder) or problem.message.startswith("expected "):
            return self.origin(path)
        words = set(re.findall(r"\w+", problem.message))
        candidates: list[Path] = []
        if isinstance(holder, Mapping):
            candidates = [(*path, key) for key in holder if key in words] or [(*path, key) for key in holder]
        elif path and self.origin(path).layer == 0:  # the rule of a default looks at fields beside it
            beside = at(self.tree, path[:-1])
            candidates = (
                [(*path[:-1], key) for key in beside if key in words] if isinstance(beside, Mapping) else []
            )
        return max([self.origin(path), *map(self.last_origin, candidates)])

    def last_origin(self, path: Path) -> Origin:
        """Return the highest origin of a value and of all that is in it."""
        inside = [origin for p, origin in self.origins.items() if p[: len(path)] == path]
        return max([self.origin(path), *inside])

    def check(self, of: str = "the config") -> None:
        """Raise what was found wrong so far.

        Raises:
            ConfigError: With every mistake, in the order in which a reader meets them.
        """
        if self.mistakes:
            raise ConfigError((m for _, m in sorted(self.mistakes, key=lambda pair: pair[0])), of)
