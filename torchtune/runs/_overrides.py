"""Apply overrides to layers; each value is converted to its field's type, and the order of arguments is irrelevant."""

import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from attrs import define, field

from torchtune._hints import hint_for
from torchtune._pluralize import pluralize
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import (
    COMPONENT_KEY,
    REQUIRED,
    Document,
    Layers,
    Location,
    Path,
    RejectedError,
    Slot,
    accepts_null,
    choices,
    component_type_of,
    dotted,
    field_names,
    is_any_type,
    is_collection_type,
    is_component_tree,
    is_index,
    is_reference,
    leaves,
    mapping_of,
    members,
    parse_yaml,
    reads_text_verbatim,
    reject,
    section_of,
    sections_of,
    slots,
    strip,
    type_of_unlisted_name,
    unknown_name,
    unstructure,
    value_at,
)
from torchtune.runs._tokens import FLOW, Override
from torchtune.runs.command_line import Suggest, suggest_run_option


@define
class OverrideApplier:
    """Applies overrides to layers: first structural changes, outermost first, then values."""

    layers: Layers
    suggest: Suggest = suggest_run_option
    layer: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.layers.depth += 1
        self.layer = self.layers.depth

    def apply(self, overrides: Sequence[Override]) -> list[Override]:
        """Apply the overrides that change the config's structure; return the others, which set single values.

        If multiple overrides replace the same value, the last one wins. Additions to a list, and mappings that change
        arguments, are applied after the override that replaces the list or component, in any order of arguments.
        """
        last = {
            o.path: o.position
            for o in sorted(overrides, key=lambda o: o.position)
            if not (o.adds or o.merges)
        }
        effective = [o for o in overrides if o.adds or o.merges or last[o.path] == o.position]
        ordered = sorted(effective, key=lambda o: (len(o.path), o.adds, o.merges, o.position))
        values = [self._with_config_spelling(o) for o in ordered if not self._apply_structural(o)]
        return sorted(values, key=lambda o: o.position)

    def _with_config_spelling(self, override: Override) -> Override:
        """Return an override with the field path spelled as in the config: `batch_size` for `--batch-size`."""
        try:
            return Override(dotted(self._find(override.path)[1]), override.text, override.position)
        except RejectedError:
            return override

    def set_values(self, overrides: Sequence[Override]) -> None:
        """Apply overrides that set values, outermost first, so that their order is irrelevant."""
        for override in sorted(overrides, key=lambda o: len(o.path)):
            self._set(override)

    def _apply_structural(self, override: Override) -> bool:
        """Apply an override if it replaces a component, adds to a list, or sets null, a default, a list or a mapping.

        Returns:
            Whether the override is of this kind.
        """
        try:
            t, path = self._find(override.path)
        except RejectedError as rejected:
            is_structural = override.adds or override.key.endswith(f".{COMPONENT_KEY}")
            if is_structural:
                self._note(override, *rejected.mistakes)
            return is_structural
        if override.adds:
            self._add(path, t, override)
        elif self._names_component(t, path, override):
            old = self._value(path)
            if not is_component_tree(old) or old[COMPONENT_KEY] != override.text:
                self._set_at(path, {COMPONENT_KEY: override.text}, override.origin(self.layer))
        elif override.text in choices(t) or reads_text_verbatim(t):
            return False
        elif override.text in ("default", "null") or override.text[:1] in FLOW or is_reference(override.text):
            self._set(override)
        else:
            return False
        return True

    def _names_component(self, t: Any, path: Path, override: Override) -> bool:
        """Return whether an override's text is the dotpath of a component."""
        if override.key.endswith(f".{COMPONENT_KEY}"):
            return True
        if override.text == "default" or "${" in override.text or override.text in choices(t):
            return False
        component = component_type_of(t)
        if is_component_tree(self._value(path)) and not choices(t):
            return override.text not in ("", "null", "~") and override.text[:1] not in FLOW
        return component is not None and not is_any_type(component) and is_dotpath(override.text)

    def _add(self, path: Path, t: Any, override: Override) -> None:
        current = self._value(path)
        if is_reference(current):
            message = f"`+` requires a list, but this field is set to the reference {current}"
            self._note(override, Mistake("reference", message, "set the whole list", path))
            return
        if current is None:
            current = self._default(path)
        collection = next((m for m in members(strip(t)) if is_collection_type(m)), None)
        if is_component_tree(current) and collection is not None:
            current = [current]  # a single component in a field that accepts a list becomes the first item
            self._set_at(path, current, override.origin(self.layer))
        if not isinstance(current, list) and not (current is None and collection is not None):
            advice = f"use {dotted(path)}={override.text} to set it"
            message = "`+` requires a list, but this field is not a list"
            self._note(override, Mistake("wrong_type", message, advice, path))
            return
        item = item_type(collection, len(current or ()))
        component = component_type_of(item)
        among_components = bool(current) and all(map(is_component_tree, current or ()))
        named = component is not None and (among_components or not is_any_type(component))
        try:
            value = (
                {COMPONENT_KEY: override.text}
                if named and is_dotpath(override.text)
                else self._read(override, item, path)
            )
        except RejectedError as rejected:
            self._note(override, *rejected.mistakes)
            return
        origin = override.origin(self.layer)
        if self._value(path) is None:
            self._set_at(path, current or [], origin)
        items = self._value(path)
        items.append(None)
        self._set_at((*path, len(items) - 1), value, origin)

    def _set(self, override: Override) -> None:
        try:
            t, path = self._find(override.path)
            if override.text == "default" and not reads_text_verbatim(t) and "default" not in choices(t):
                self._reset(path, override)
                return
            value = self._read(override, t, path)
        except RejectedError as rejected:
            self._note(override, *rejected.mistakes)
            return
        old = self._value(path)
        if isinstance(value, Mapping) and isinstance(old, dict) and self.layers.merges(path, value):
            self.layers.merge(value, lambda _: override.origin(self.layer), path)
        else:
            self._set_at(path, value, override.origin(self.layer))

    def _read(self, override: Override, t: Any, path: Path) -> Any:
        """Return the value of an override for a field of type `t`: verbatim for strings, parsed as YAML otherwise.

        Raises:
            RejectedError: A list, a mapping or a quoted string is not valid YAML.
        """
        text = override.text
        if text.startswith("${") and text.count("{") == 1 and text.endswith("}"):
            return text
        if text in choices(t):
            return text
        if text in ("null", "~") and accepts_null(t):
            return None
        if reads_text_verbatim(t):
            return text
        try:
            document = parse_yaml(text, "value")
            mistakes = document.mistakes
        except ConfigError as error:
            document, mistakes = Document("value"), list(error.mistakes)
        if mistakes and text[:1] in (*FLOW, '"', "'"):
            raise RejectedError(*(m._replace(path=path) for m in mistakes))
        if mistakes or (isinstance(document.value, Mapping) and text[:1] != "{"):
            return text  # `12:30` and `a: b` are strings, not mappings
        return document.value

    def _reset(self, path: Path, override: Override) -> None:
        """Reset a field or an argument to its default."""
        holder = self._value(path[:-1])
        slot = slots(self._type_of(path[:-1]), holder).get(path[-1])
        if slot is None or slot.default is REQUIRED:
            self._note(override, Mistake("missing", "this field has no default", path=path))
        elif is_component_tree(holder) or isinstance(slot.default, attrs.Factory):  # type: ignore[arg-type]  # a class
            holder.pop(path[-1], None)
            self.layers.forget(path)
        else:
            self._set_at(path, unstructure(slot.default), override.origin(self.layer))

    def _default(self, path: Path) -> Any:
        """Return the default at a path as a tree, or None if there is no default."""
        return _default_of(slots(self._type_of(path[:-1]), self._value(path[:-1])).get(path[-1]))

    # The methods below resolve field paths. Overriding a field in an optional section that is null enables the section.

    def _type_of(self, path: Path) -> Any:
        return self._find(tuple(map(str, path)))[0] if path else self.layers.config_class or Any

    def _find(self, parts: tuple[str, ...]) -> tuple[Any, Path]:
        """Return the type and the field path for the parts of a dotted path.

        Raises:
            RejectedError: There is no such field; the mistake contains a suggestion.
        """
        t: Any = self.layers.config_class or Any
        tree: Any = self.layers.tree
        path: Path = ()
        for part in parts:
            key, t = self._child_key(t, tree, part, path)
            tree, parent, path = self._child(tree, key), tree, (*path, key)
            if tree is None and is_component_tree(parent):  # the default of an argument may be a list
                slot = slots(self._type_of(path[:-1]), parent).get(key)
                tree = _default_of(slot)
        return t, path

    def _child_key(self, t: Any, tree: Any, part: str, path: Path) -> tuple[str | int, Any]:
        """Return the key for one part of a path, and the type of its value."""
        known_slots = slots(t, tree)
        key: str | int = int(part) if isinstance(tree, list) and is_index(part) else part
        for spelling in (key, part.replace("-", "_")):  # `--batch-size 4` is batch_size
            if spelling in known_slots:
                return spelling, known_slots[spelling].type
        unlisted_type = type_of_unlisted_name(t, tree, part)
        if unlisted_type is None:
            raise self._unknown(path, part, tree, known_slots)
        return part, unlisted_type

    def _child(self, tree: Any, key: str | int) -> Any:
        if isinstance(tree, list) and isinstance(key, int):
            return tree[key]
        return tree.get(key) if isinstance(tree, Mapping) else None

    def _unknown(self, path: Path, part: str, tree: Any, known_names: Mapping[Any, Any]) -> RejectedError:
        full_path = (*path, part)
        if is_component_tree(tree):
            return RejectedError(unknown_name(part, known_names, full_path, tree[COMPONENT_KEY]))
        if isinstance(tree, list):
            count = pluralize(len(tree), "item")
            message = f"index out of range; the list has {count}, and indices start at 0"
            return reject("unknown", message, path=full_path)
        if path and not known_names and not isinstance(tree, Mapping):
            description = "a single value"
            if is_reference(tree):
                description = f"the reference {tree}"
            elif tree is None and not is_any_type(component_type_of(self._type_of(path)) or Any):
                description = f"null (set its component first: {dotted(path)}=package.module.Name)"
            return reject("unknown", f"{dotted(path)} is {description}; it has no {part!r}", path=full_path)
        sections = sections_of(self._type_of(path))
        names = [*known_names, *(n for cls in sections for n in field_names(cls))]
        mistake = unknown_name(part, names, full_path)
        if path or hint_for(part, names) is not None:
            return RejectedError(mistake)
        nested = [p for p, _ in leaves(self.layers.tree) if len(p) > 1 and p[-1] == part]
        suggestion = (
            f"did you mean {dotted(nested[0])!r}?"
            if nested
            else self.suggest(f"--{part}", mistake.suggestion)
        )
        return RejectedError(mistake._replace(suggestion=suggestion))

    def _value(self, path: Path) -> Any:
        try:
            return value_at(self.layers.tree, path)
        except LookupError:
            return None

    def _set_at(self, path: Path, value: Any, origin: Location) -> None:
        """Set a value, and enable the sections that contain it."""
        for length in range(1, len(path)):
            if self._value(path[:length]) is not None:
                continue
            above = self._type_of(path[:length])
            default = (
                self._default(path[:length]) if is_component_tree(self._value(path[: length - 1])) else None
            )
            if default is not None:
                self.layers.set_value(path[:length], default, lambda _: origin)
            elif section_of(above) or mapping_of(above):
                self.layers.set_value(path[:length], {}, lambda _: origin)
        holder = self._value(path[:-1])
        if isinstance(holder, (dict, list)):
            self.layers.set_value(path, value, lambda _: origin)
        elif is_reference(holder):
            message = f"{dotted(path[:-1])} is the reference {holder}, whose fields cannot be set"
            advice = f"set the field that it refers to, or all of {dotted(path[:-1])}"
            self.layers.mistakes.append(Mistake("reference", message, advice, path, location=origin))

    def _note(self, override: Override, *mistakes: Mistake) -> None:
        origin = override.origin(self.layer)
        self.layers.mistakes += [m._replace(location=origin) for m in mistakes]


def override(layers: Layers, pairs: Iterable[tuple[str, str]]) -> None:
    """Apply overrides, given as pairs of field path and text; mistakes are added to the layers."""
    applier = OverrideApplier(layers)
    applier.set_values(applier.apply([Override(path, text, i) for i, (path, text) in enumerate(pairs)]))


def _default_of(slot: Slot | None) -> Any:
    """Return the default of a slot as a tree, or None if there is no default that YAML can represent."""
    if slot is None or isinstance(slot.default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
        return None
    try:
        return None if slot.default is REQUIRED else unstructure(slot.default)
    except RejectedError:
        return None


def is_dotpath(text: str) -> bool:
    """Return whether a string has the form `package.module.Name`."""
    return "." in text and all(part.isidentifier() for part in text.split("."))


def item_type(collection: Any, index: int) -> Any:
    """Return the type of the item at `index` in a collection; `Any` if unspecified."""
    args = typing.get_args(collection)
    if typing.get_origin(collection) is tuple and Ellipsis not in args:
        return args[index] if index < len(args) else Any
    return args[0] if args else Any
