"""Layers of a config, lowest first: class defaults, a Python config or YAML files, and the command line.

The origin of every leaf is recorded. When a component is replaced, all its arguments are dropped.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from attrs import define, field

from torchtune.config._classes import REQUIRED, default_values, fields
from torchtune.config._component import COMPONENT_KEY, stamp
from torchtune.config._interpolation import is_reference, reference_target, resolve_tree
from torchtune.config._mistakes import ConfigError, Location, Mistake, Path, RejectedError, dotted
from torchtune.config._schema import Slot, expand_paths, is_replaced_as_a_whole, mapping_of, section_of, slots
from torchtune.config._structure import check_untyped, structure
from torchtune.config._tree import all_paths, as_path, copy_tree, is_component_tree, value_at
from torchtune.config._types import describe, is_section
from torchtune.config._unstructure import unstructure
from torchtune.config._yaml import Document

HELPER_PREFIX = "x-"
"""The prefix of top-level keys that are not fields, but define YAML anchors.

Docker Compose and OpenAPI use the same prefix. A leading dot, as in GitLab, would be an empty name in a dotted path.
"""

Origins = Callable[[Path], Location]
"""A function that returns the location of the value at a path of one layer."""


class DroppedArguments(NamedTuple):
    """The arguments that were dropped when a component was replaced."""

    path: Path
    names: tuple[str, ...]
    replacement: str
    """A sentence naming both components and the location."""


@define
class Layers:
    """A config assembled from layers.

    Attributes:
        config_class: The recipe's config class; None for a recipe without one.
        tree: The merged layers, with unresolved references.
        origins: The location of each value that a layer set.
        mistakes: The mistakes found while reading, each with its location.
        dropped: The arguments dropped when components were replaced.
    """

    config_class: type | None
    tree: dict[str, Any] = field(factory=dict)
    origins: dict[Path, Location] = field(factory=dict)
    mistakes: list[Mistake] = field(factory=list)
    dropped: list[DroppedArguments] = field(factory=list)
    sources: list[Location] = field(factory=list)
    """The files and config functions, lowest layer first."""
    depth: int = 0
    incomplete: bool = False
    """True if a layer could not be read; missing fields are then not reported."""
    programs: list[str] = field(factory=list)
    """Python files whose execution produced the config."""
    has_unspecified_seed: bool = False
    """True if the seed was null and has been drawn at random; a resumed run uses its original seed instead."""

    @classmethod
    def of_defaults(cls, config_class: type | None) -> "Layers":
        """Return layers with the defaults of a recipe's config class."""
        layers = cls(config_class)
        if config_class is not None:
            location = Location(source=f"default of {config_class.__name__}")
            try:
                layers.tree = unstructure(default_values(config_class))
            except RejectedError as rejected:
                raise ConfigError(m._replace(location=location) for m in rejected.mistakes) from rejected
            except ConfigError:
                raise
            except Exception as error:  # raised by a default factory of the class
                message = f"{type(error).__name__}: {error}"
                raise ConfigError([Mistake("failure", message, location=location)]) from error
            layers.origins[()] = location
        return layers

    def add_document(self, document: Document) -> None:
        """Add a YAML file."""
        self.depth += 1
        file = document.location((), self.depth)
        self.sources.append(file)
        self.mistakes += [
            m._replace(location=m.location._replace(layer=self.depth)) for m in document.mistakes
        ]
        if not isinstance(document.value, Mapping):
            kinds = {type(None): "the file is empty", list: "the file contains a list"}
            message = kinds.get(type(document.value), "the file contains a single value")
            advice = "a config is a mapping of fields to values"
            raise ConfigError([Mistake("source", message, advice, location=file)], document.name)
        fields_set = {key: v for key, v in document.value.items() if not key.startswith(HELPER_PREFIX)}
        self.merge(fields_set, functools.partial(document.location, layer=self.depth))

    def merge(self, tree: Mapping[str, Any], origin: Origins, path: Path = ()) -> None:
        """Merge a layer's mapping into the value at `path`; mappings are merged, other values are replaced."""
        holder = value_at(self.tree, path)
        for key, value in tree.items():
            child = (*path, key)
            old = holder.get(key)
            # A mapping with a component key replaces the component; any other mapping changes its arguments.
            if isinstance(value, Mapping) and isinstance(old, dict) and self.merges(child, value):
                self.merge(value, origin, child)
            elif is_reference(old) and isinstance(value, Mapping) and section_of(self.slot_at(child).type):
                message = f"an earlier layer sets this field to the reference {old}"
                advice = "change the value that it refers to, or use another reference"
                self.mistakes.append(Mistake("reference", message, advice, child, location=origin(child)))
            else:
                self.set_value(child, value, origin)

    def merges(self, path: Path, value: Mapping[str, Any]) -> bool:
        """Return whether a mapping is merged into the current value, rather than replacing it."""
        if COMPONENT_KEY in value:
            return False
        t = None if is_component_tree(value_at(self.tree, path)) else self.slot_at(path).type
        return t is None or not (is_replaced_as_a_whole(t) or (not value and mapping_of(t) is not None))

    def slot_at(self, path: Path) -> Slot:
        """Return the slot of a path; the last key need not be set."""
        slot = Slot(self.config_class or Any)
        for i, key in enumerate(path):
            slot = slots(slot.type, value_at(self.tree, path[:i])).get(key) or Slot(Any)
        return slot

    def set_value(self, path: Path, value: Any, origin: Origins) -> None:
        """Set the value at a path, and replace the origins below it.

        Args:
            path: The path; its parent must exist.
            value: A tree.
            origin: Returns the location of each path in the tree.
        """
        holder = value_at(self.tree, path[:-1])
        old = None if isinstance(holder, dict) and path[-1] not in holder else holder[path[-1]]
        self._note_dropped(path, old, value, origin(path))
        holder[path[-1]] = copy_tree(value)
        self.forget(path)
        for value_path in all_paths(value, path):
            self.origins[value_path] = origin(value_path)

    def forget(self, path: Path) -> None:
        """Remove the origins of a path and of all values below it."""
        for stale in [p for p in self.origins if p[: len(path)] == path]:
            del self.origins[stale]

    def _note_dropped(self, path: Path, old: Any, new: Any, origin: Location) -> None:
        """Record the arguments dropped with a replaced component, unless a file replaces a class default."""
        if not is_component_tree(old) or not is_component_tree(new):
            return
        dropped = [name for name in old if name != COMPONENT_KEY and name not in new]
        over_defaults = self.origin(path).layer == 0 and origin.kind != "command line"
        if dropped and not over_defaults:
            replacement = f"{dotted(path)}: {new[COMPONENT_KEY]} replaces {old[COMPONENT_KEY]}"
            self.dropped.append(DroppedArguments(path, tuple(dropped), f"{origin}: {replacement}"))

    @property
    def notes(self) -> list[str]:
        """Notes for the user about arguments that were dropped and not set again."""
        set_paths = set(all_paths(self.tree))
        unset = [(d, [n for n in d.names if (*d.path, n) not in set_paths]) for d in self.dropped]
        return [
            f"{dropped.replacement} and drops its {', '.join(names)}" for dropped, names in unset if names
        ]

    def origin(self, path: Path) -> Location:
        """Return the origin of a path, or of the nearest ancestor with a recorded origin."""
        ancestors = (path[:length] for length in range(len(path), -1, -1))
        return next((self.origins[p] for p in ancestors if p in self.origins), Location())

    def normalise(self) -> list[Mistake]:
        """Sort fields in the order of the config class, expand paths, and return a mistake for each invalid path."""
        names = [*fields(self.config_class), *self.tree] if self.config_class else [*self.tree]
        self.tree = {name: self.tree[name] for name in names if name in self.tree}
        return expand_paths(self.config_class or Any, self.tree)

    def resolve(self) -> Any:
        """Return the tree with references resolved, and record a mistake for each reference that cannot be resolved."""
        resolved, mistakes = self._resolve()
        self.mistakes += [self.located(m) for m in mistakes if m.kind != "consequence"]
        return resolved

    def _resolve(self) -> tuple[Any, list[Mistake]]:
        invalid_paths = self.normalise()
        known_fields = fields(self.config_class) if self.config_class else {}
        unset = {name: f.default is REQUIRED for name, f in known_fields.items() if name not in self.tree}
        missing = [name for name, is_required in unset.items() if is_required]
        resolved, mistakes = resolve_tree(self.tree, missing=missing, computed=unset.keys() - missing)
        # References may resolve to invalid paths.
        invalid_references = expand_paths(self.config_class or Any, resolved)
        return resolved, [*mistakes, *(invalid_paths or invalid_references)]

    def build(self, subject: str = "the config") -> Any:
        """Check and return the resolved config: an object of the config class, or a Node if there is no config class.

        Raises:
            ConfigError: The config is not valid; contains the mistakes of all layers.
        """
        resolved, unresolved = self._resolve()
        reported = {(m.location, m.path) for m in self.mistakes}
        unresolved_paths = {m.path for m in unresolved}
        config = None
        mistakes: list[Mistake] = []
        try:
            config = self._structure_tree(resolved)
        except RejectedError as rejected:
            mistakes = [
                self.located(m)
                for m in rejected.mistakes
                if m.kind != "consequence"
                and m.path not in unresolved_paths
                and not (self.incomplete and m.kind == "missing")
            ]
        mistakes = self._without_consequences([m for m in mistakes if (m.location, m.path) not in reported])
        faulty_paths = {m.path for m in mistakes}
        unresolved = [m for m in unresolved if m.kind != "consequence" and m.caused_by not in faulty_paths]
        self.mistakes += [*map(self.located, unresolved), *mistakes]
        self.check(subject)
        return config

    def _without_consequences(self, mistakes: list[Mistake]) -> list[Mistake]:
        """Remove mistakes whose value is only a reference to another value with a mistake."""
        faulty_paths = {tuple(map(str, m.path)) for m in mistakes}

        def is_caused_elsewhere(mistake: Mistake) -> bool:
            for length in range(1, len(mistake.path) + 1):
                try:
                    value = value_at(self.tree, mistake.path[:length])
                except LookupError:
                    return False
                target = reference_target(value)
                if target:
                    return (*target, *map(str, mistake.path[length:])) in faulty_paths
            return False

        return [m for m in mistakes if not is_caused_elsewhere(m)]

    def _structure_tree(self, resolved: Any) -> Any:
        if self.config_class is not None:
            config = structure(resolved, self.config_class)
            self._stamp(config, ())
            return config
        from torchtune.config._node import Node

        check_untyped(resolved)
        return Node(resolved, origins={path: self._defined_at(path) for path in all_paths(resolved)})

    def _stamp(self, value: Any, path: Path) -> None:
        """Record the location of every component, for the error messages of `instantiate`."""
        if isinstance(value, functools.partial):
            stamp(value, self._defined_at(path), path)
            value = dict(value.keywords)
        elif is_section(type(value)):
            value = {name: getattr(value, name) for name in fields(value.__class__)}
        if isinstance(value, Mapping):
            for key, item in value.items():
                self._stamp(item, (*path, key))
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                self._stamp(item, (*path, i))

    def _defined_at(self, path: Path) -> Location:
        return self.origins.get((*path, COMPONENT_KEY)) or self.origin(path)

    def located(self, mistake: Mistake) -> Mistake:
        """Return a mistake with its location."""
        return mistake._replace(location=self._location_of(mistake))

    def _location_of(self, mistake: Mistake) -> Location:
        """Return the location of a mistake.

        A component's mistake is located at its dotpath. A contradiction is located at the involved field that was set
        last; so is a mistake in a default that contradicts other fields.
        """
        path = mistake.path
        component_key = (*path, COMPONENT_KEY)
        if path in self.origins and component_key in self.origins and mistake.kind != "unknown":
            return self.origins[component_key]
        try:
            holder = value_at(self.tree, path)
        except LookupError:  # a missing value: the nearest ancestor, or the last file
            if len(path) > 1:
                return self.origin(path)
            return self.sources[-1] if self.sources else Location()
        if mistake.kind == "contradiction":
            return self._last_of(path, mistake.fields)
        is_default = self.origin(path).layer == 0
        if is_default and mistake.kind == "rule" and not mistake.expected:
            field_path = as_path(mistake.fields[0]) if mistake.fields else path[-1:]
            depth = len(field_path) if path[-len(field_path) :] == field_path else 1
            return self._last_of(path[:-depth], mistake.fields)
        if is_default and mistake.caused_by:
            return self.last_origin(mistake.caused_by)
        return self.last_origin(path) if isinstance(holder, list) else self.origin(path)

    def _last_of(self, path: Path, names: tuple[str, ...]) -> Location:
        """Return the highest origin of the named fields of a section or config; without names, of all fields."""
        holder = value_at(self.tree, path)
        involved = names or (holder if isinstance(holder, Mapping) else ())
        return max([self.origin(path), *(self.last_origin((*path, *as_path(n))) for n in involved)])

    def last_origin(self, path: Path) -> Location:
        """Return the highest origin of a value and all values inside it."""
        nested = [origin for p, origin in self.origins.items() if p[: len(path)] == path]
        return max([self.origin(path), *nested])

    def check(self, subject: str = "the config") -> None:
        """Raise if any mistakes were recorded.

        Raises:
            ConfigError: The config is not valid; contains every mistake, in reading order.
        """
        if self.mistakes:
            ordered = sorted(self.mistakes, key=lambda m: (m.location.layer, m.location.position))
            raise ConfigError([self._described(m) if m.kind == "missing" else m for m in ordered], subject)

    def _described(self, mistake: Mistake) -> Mistake:
        """Add the type, the documentation and a suggestion to the mistake for a missing value."""
        try:
            slot = self.slot_at(mistake.path)
        except LookupError:  # in an object that a config function created but did not use
            slot = Slot(Any)
        expected, advice = mistake.expected or describe(slot.type), f"set {dotted(mistake.path)}=..."
        return mistake._replace(expected=expected, suggestion=advice, documentation=slot.doc)
