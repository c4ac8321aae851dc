"""Layers of a config, lowest first: class defaults, a Python config or YAML files, the command line.

Every leaf remembers its origin. A component that replaces another starts with no arguments.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from attrs import define, field

from torchtune.config._classes import REQUIRED, default_values, fields
from torchtune.config._component import COMPONENT_KEY, stamp
from torchtune.config._interpolation import is_reference, referred, resolve_tree
from torchtune.config._mistakes import ConfigError, Location, Mistake, Path, RejectedError, dotted
from torchtune.config._schema import Slot, expand_paths, is_data, mapping_of, section_of, slots
from torchtune.config._structure import check_untyped, structure
from torchtune.config._tree import as_path, at, copied, is_component_tree, places
from torchtune.config._types import describe, is_section
from torchtune.config._unstructure import unstructure
from torchtune.config._yaml import Document

HELPER_PREFIX = "x-"
"""Keys of a file that begin so hold what its aliases name, and are no fields.

Docker Compose and OpenAPI have the same. GitLab's leading dot would be an empty name in a dotted path.
"""

Origins = Callable[[Path], Location]
"""Gives the location of what stands at a path of one layer."""


class DroppedArguments(NamedTuple):
    """The arguments that a component lost when another replaced it."""

    path: Path
    names: tuple[str, ...]
    replacement: str
    """Which component replaced which, and where."""


@define
class Layers:
    """A config as it grows from its layers.

    Attributes:
        wanted: The recipe's config class; None for a recipe without one.
        tree: All layers merged, references as written.
        origins: The origin of each value that a layer set.
        mistakes: What was already found wrong while reading, each with its location.
        dropped: The arguments that were lost when one component replaced another.
    """

    wanted: type | None
    tree: dict[str, Any] = field(factory=dict)
    origins: dict[Path, Location] = field(factory=dict)
    mistakes: list[Mistake] = field(factory=list)
    dropped: list[DroppedArguments] = field(factory=list)
    sources: list[Location] = field(factory=list)
    """The files and config functions, lowest first."""
    depth: int = 0
    incomplete: bool = False
    """True where a layer could not be read, which is a mistake; missing fields are then not reported."""
    programs: list[str] = field(factory=list)
    """Python files that run the config."""
    takes_any_seed: bool = False
    """True where the seed was null and is settled: that of a run which is continued takes its place."""

    @classmethod
    def of_defaults(cls, wanted: type | None) -> "Layers":
        """Start from the defaults of a recipe's config class."""
        made = cls(wanted)
        if wanted is not None:
            where = Location(source=f"default of {wanted.__name__}")
            try:
                made.tree = unstructure(default_values(wanted))
            except RejectedError as rejected:
                raise ConfigError(m._replace(location=where) for m in rejected.mistakes) from rejected
            except ConfigError:
                raise
            except Exception as error:  # of a factory of the class
                message = f"{type(error).__name__}: {error}"
                raise ConfigError([Mistake("failure", message, location=where)]) from error
            made.origins[()] = where
        return made

    def add_document(self, document: Document) -> None:
        """Add a YAML file."""
        self.depth += 1
        file = document.location((), self.depth)
        self.sources.append(file)
        self.mistakes += [
            m._replace(location=m.location._replace(layer=self.depth)) for m in document.mistakes
        ]
        if not isinstance(document.value, Mapping):
            kinds = {type(None): "is empty", list: "holds a list"}
            message = kinds.get(type(document.value), "holds a single value")
            advice = "a config is a mapping of fields to values"
            raise ConfigError([Mistake("source", message, advice, location=file)], document.name)
        written = {key: v for key, v in document.value.items() if not key.startswith(HELPER_PREFIX)}
        self.merge(written, functools.partial(document.location, layer=self.depth))

    def merge(self, tree: Mapping[str, Any], origin: Origins, path: Path = ()) -> None:
        """Merge a layer's mapping into what is at `path`; mappings merge, everything else replaces."""
        holder = at(self.tree, path)
        for key, value in tree.items():
            here = (*path, key)
            old = holder.get(key)
            # A mapping that names its component is that component whole; one that does not changes arguments.
            if isinstance(value, Mapping) and isinstance(old, dict) and self.merges(here, value):
                self.merge(value, origin, here)
            elif is_reference(old) and isinstance(value, Mapping) and section_of(self.slot_at(here).type):
                message = f"the layer below has the reference {old} here"
                advice = "change what it names, or refer to another"
                self.mistakes.append(Mistake("reference", message, advice, here, location=origin(here)))
            else:
                self.put(here, value, origin)

    def merges(self, path: Path, value: Mapping[str, Any]) -> bool:
        """Tell whether a mapping changes what it is written over, or takes its place as data that a field holds."""
        if COMPONENT_KEY in value:
            return False
        t = None if is_component_tree(at(self.tree, path)) else self.slot_at(path).type
        return t is None or not (is_data(t) or (not value and mapping_of(t) is not None))

    def slot_at(self, path: Path) -> Slot:
        """Return what is declared of a path, whose last key need not be set."""
        slot = Slot(self.wanted or Any)
        for i, key in enumerate(path):
            slot = slots(slot.type, at(self.tree, path[:i])).get(key) or Slot(Any)
        return slot

    def put(self, path: Path, value: Any, origin: Origins) -> None:
        """Replace what is at a path, forgetting the origins below it.

        Args:
            path: Where; everything above it exists.
            value: A tree.
            origin: Gives the location of each path in it.
        """
        holder = at(self.tree, path[:-1])
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

    def _note_dropped(self, path: Path, old: Any, new: Any, origin: Location) -> None:
        """Say which arguments a component loses to another; a file over the class's defaults needs no word."""
        if not is_component_tree(old) or not is_component_tree(new):
            return
        dropped = [name for name in old if name != COMPONENT_KEY and name not in new]
        over_defaults = self.origin(path).layer == 0 and origin.kind != "command line"
        if dropped and not over_defaults:
            what = f"{dotted(path)}: {new[COMPONENT_KEY]} replaces {old[COMPONENT_KEY]}"
            self.dropped.append(DroppedArguments(path, tuple(dropped), f"{origin}: {what}"))

    @property
    def notes(self) -> list[str]:
        """What the user should know: the arguments that were dropped, and that nothing has set again since."""
        set_now = set(places(self.tree))
        lost = [(d, [n for n in d.names if (*d.path, n) not in set_now]) for d in self.dropped]
        return [f"{dropped.replacement} and drops its {', '.join(names)}" for dropped, names in lost if names]

    def origin(self, path: Path) -> Location:
        """Return the origin of a path, or of the nearest thing above it."""
        above = (path[:length] for length in range(len(path), -1, -1))
        return next((self.origins[p] for p in above if p in self.origins), Location())

    def normalise(self) -> list[Mistake]:
        """Put the fields into the order of the config class, expand paths, and return what is wrong with these."""
        names = [*fields(self.wanted), *self.tree] if self.wanted else [*self.tree]
        self.tree = {name: self.tree[name] for name in names if name in self.tree}
        return expand_paths(self.wanted or Any, self.tree)

    def resolve(self) -> Any:
        """Return the tree with references resolved; what cannot be is noted as a mistake."""
        resolved, mistakes = self._resolve()
        self.mistakes += [self.located(m) for m in mistakes if m.kind != "consequence"]
        return resolved

    def _resolve(self) -> tuple[Any, list[Mistake]]:
        broken_paths = self.normalise()
        known = fields(self.wanted) if self.wanted else {}
        unset = {name: f.default is REQUIRED for name, f in known.items() if name not in self.tree}
        missing = [name for name, is_required in unset.items() if is_required]
        resolved, mistakes = resolve_tree(self.tree, missing=missing, computed=unset.keys() - missing)
        broken_references = expand_paths(
            self.wanted or Any, resolved
        )  # to text that is no path where it stands
        return resolved, [*mistakes, *(broken_paths or broken_references)]

    def build(self, of: str = "the config") -> Any:
        """Return the resolved config, checked: an object of the config class, or a Node where there is none.

        Raises:
            ConfigError: With every mistake of every layer.
        """
        resolved, unresolved = self._resolve()
        reported = {(m.location, m.path) for m in self.mistakes}
        left_unresolved = {m.path for m in unresolved}
        config = None
        mistakes: list[Mistake] = []
        try:
            config = self._structured(resolved)
        except RejectedError as rejected:
            mistakes = [
                self.located(m)
                for m in rejected.mistakes
                if m.kind != "consequence"
                and m.path not in left_unresolved
                and not (self.incomplete and m.kind == "missing")
            ]
        mistakes = self._at_their_source([m for m in mistakes if (m.location, m.path) not in reported])
        wrong = {m.path for m in mistakes}
        unresolved = [m for m in unresolved if m.kind != "consequence" and m.caused_by not in wrong]
        self.mistakes += [*map(self.located, unresolved), *mistakes]
        self.check(of)
        return config

    def _at_their_source(self, mistakes: list[Mistake]) -> list[Mistake]:
        """Leave out what is wrong with a value only because it refers to one that has a mistake."""
        known = {tuple(map(str, m.path)) for m in mistakes}

        def is_another(mistake: Mistake) -> bool:
            for length in range(1, len(mistake.path) + 1):
                try:
                    value = at(self.tree, mistake.path[:length])
                except LookupError:
                    return False
                target = referred(value)
                if target:
                    return (*target, *map(str, mistake.path[length:])) in known
            return False

        return [m for m in mistakes if not is_another(m)]

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

    def _named_at(self, path: Path) -> Location:
        return self.origins.get((*path, COMPONENT_KEY)) or self.origin(path)

    def located(self, mistake: Mistake) -> Mistake:
        """Return a mistake with the location at which it was made."""
        return mistake._replace(location=self._location_of(mistake))

    def _location_of(self, mistake: Mistake) -> Location:
        """Return where a mistake was made.

        A component as a whole is wrong where it is named, a contradiction at the last of its fields that was set, and
        a default that does not fit other fields at the last of those.
        """
        path = mistake.path
        named = (*path, COMPONENT_KEY)
        if path in self.origins and named in self.origins and mistake.kind != "unknown":
            return self.origins[named]
        try:
            holder = at(self.tree, path)
        except LookupError:  # it is missing: from the last of the files, where none says anything near it
            if len(path) > 1:
                return self.origin(path)
            return self.sources[-1] if self.sources else Location()
        if mistake.kind == "contradiction":
            return self._last_of(path, mistake.fields)
        is_default = self.origin(path).layer == 0
        if is_default and mistake.kind == "rule" and not mistake.expected:
            named_path = as_path(mistake.fields[0]) if mistake.fields else path[-1:]
            depth = len(named_path) if path[-len(named_path) :] == named_path else 1
            return self._last_of(path[:-depth], mistake.fields)
        if is_default and mistake.caused_by:
            return self.last_origin(mistake.caused_by)
        return self.last_origin(path) if isinstance(holder, list) else self.origin(path)

    def _last_of(self, path: Path, names: tuple[str, ...]) -> Location:
        """Return the highest origin of some fields of a config class or section; of all where none is named."""
        holder = at(self.tree, path)
        fields_there = names or (holder if isinstance(holder, Mapping) else ())
        return max([self.origin(path), *(self.last_origin((*path, *as_path(n))) for n in fields_there)])

    def last_origin(self, path: Path) -> Location:
        """Return the highest origin of a value and of all that is in it."""
        inside = [origin for p, origin in self.origins.items() if p[: len(path)] == path]
        return max([self.origin(path), *inside])

    def check(self, of: str = "the config") -> None:
        """Raise what was found wrong so far.

        Raises:
            ConfigError: With every mistake, in the order in which a reader meets them.
        """
        if self.mistakes:
            ordered = sorted(self.mistakes, key=lambda m: (m.location.layer, m.location.position))
            raise ConfigError([self._completed(m) if m.kind == "missing" else m for m in ordered], of)

    def _completed(self, mistake: Mistake) -> Mistake:
        """Return the mistake of a value that is not set with what the value is, and what to write."""
        try:
            slot = self.slot_at(mistake.path)
        except LookupError:  # a class that a config function makes, and puts nowhere
            slot = Slot(Any)
        expected, advice = mistake.expected or describe(slot.type), f"write {dotted(mistake.path)}=..."
        return mistake._replace(expected=expected, suggestion=advice, documentation=slot.doc)
