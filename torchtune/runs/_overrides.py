"""Overrides, applied to layers: read by the types of the fields they name, in an order that is not the words'."""

import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from attrs import define, field

from torchtune._counted import counted
from torchtune._hints import hint_for
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
    at,
    choices,
    component_type_of,
    dotted,
    field_names,
    is_anything,
    is_collection_type,
    is_component_tree,
    is_index,
    is_reference,
    leaves,
    mapping_of,
    members,
    parse_yaml,
    reject,
    section_of,
    sections_of,
    slots,
    strip,
    takes_none,
    takes_text,
    type_of_unlisted,
    unknown,
    unstructure,
)
from torchtune.runs._tokens import FLOW, Override
from torchtune.runs.command_line import Suggest, suggest_run_option


@define
class Overriding:
    """Applies overrides to layers: first what shapes the config, outermost first, then single values."""

    layers: Layers
    suggest: Suggest = suggest_run_option
    layer: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.layers.depth += 1
        self.layer = self.layers.depth

    def apply(self, overrides: Sequence[Override]) -> list[Override]:
        """Apply the overrides that shape the config; return the others, which set values in that shape.

        Of several that replace the same value, the last counts. What is added to a list comes after what replaces
        it, wherever they stand on the command line, and so does a mapping that changes arguments.
        """
        last = {
            o.path: o.position
            for o in sorted(overrides, key=lambda o: o.position)
            if not (o.adds or o.merges)
        }
        counting = [o for o in overrides if o.adds or o.merges or last[o.path] == o.position]
        ordered = sorted(counting, key=lambda o: (len(o.path), o.adds, o.merges, o.position))
        rest = [self._spelt(override) for override in ordered if not self._shapes(override)]
        return sorted(rest, key=lambda o: o.position)

    def _spelt(self, override: Override) -> Override:
        """Return an override with the path as its config spells it: `batch_size` for `--batch-size`."""
        try:
            return Override(dotted(self._find(override.path)[1]), override.text, override.position)
        except RejectedError:
            return override

    def set_values(self, overrides: Sequence[Override]) -> None:
        """Apply overrides that set values, the outermost first, so that their order does not matter."""
        for override in sorted(overrides, key=lambda o: len(o.path)):
            self._set(override)

    def _shapes(self, override: Override) -> bool:
        """Apply an override that swaps, adds, empties or fills more than a single value; return whether it was one."""
        try:
            t, path = self._find(override.path)
        except RejectedError as rejected:
            shapes = override.adds or override.key.endswith(f".{COMPONENT_KEY}")
            if shapes:
                self._note(override, *rejected.mistakes)
            return shapes
        if override.adds:
            self._add(path, t, override)
        elif self._names_component(t, path, override):
            old = self._now(path)
            if not is_component_tree(old) or old[COMPONENT_KEY] != override.text:
                self._put(path, {COMPONENT_KEY: override.text}, override.origin(self.layer))
        elif override.text in choices(t) or takes_text(t):
            return False
        elif override.text in ("default", "null") or override.text[:1] in FLOW or is_reference(override.text):
            self._set(override)
        else:
            return False
        return True

    def _names_component(self, t: Any, path: Path, override: Override) -> bool:
        """Tell whether an override's text is the dotpath of a component."""
        if override.key.endswith(f".{COMPONENT_KEY}"):
            return True
        if override.text == "default" or "${" in override.text or override.text in choices(t):
            return False
        component = component_type_of(t)
        if is_component_tree(self._now(path)) and not choices(t):
            return override.text not in ("", "null", "~") and override.text[:1] not in FLOW
        return component is not None and not is_anything(component) and is_dotpath(override.text)

    def _add(self, path: Path, t: Any, override: Override) -> None:
        now = self._now(path)
        if is_reference(now):
            message = f"is the reference {now}, which nothing can be added to"
            self._note(override, Mistake("reference", message, "set it whole", path))
            return
        if now is None:
            now = self._default(path)
        collection = next((m for m in members(strip(t)) if is_collection_type(m)), None)
        if is_component_tree(now) and collection is not None:  # one of what could be a list becomes its first
            now = [now]
            self._put(path, now, override.origin(self.layer))
        if not isinstance(now, list) and not (now is None and collection is not None):
            advice = f"write {dotted(path)}={override.text} to set it"
            message = "+ adds to a list, and this is none"
            self._note(override, Mistake("wrong_type", message, advice, path))
            return
        item = item_type(collection, len(now or ()))
        component = component_type_of(item)
        among_components = bool(now) and all(map(is_component_tree, now or ()))
        named = component is not None and (among_components or not is_anything(component))
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
        if self._now(path) is None:
            self._put(path, now or [], origin)
        held = self._now(path)
        held.append(None)
        self._put((*path, len(held) - 1), value, origin)

    def _set(self, override: Override) -> None:
        try:
            t, path = self._find(override.path)
            if override.text == "default" and not takes_text(t) and "default" not in choices(t):
                self._reset(path, override)
                return
            value = self._read(override, t, path)
        except RejectedError as rejected:
            self._note(override, *rejected.mistakes)
            return
        now = self._now(path)
        if isinstance(value, Mapping) and isinstance(now, dict) and self.layers.merges(path, value):
            self.layers.merge(value, lambda _: override.origin(self.layer), path)
        else:
            self._put(path, value, override.origin(self.layer))

    def _read(self, override: Override, t: Any, path: Path) -> Any:
        """Read a value by the type of its field: text verbatim for text, YAML otherwise.

        Raises:
            RejectedError: A list, a mapping or quoted text is not valid YAML.
        """
        text = override.text
        if text.startswith("${") and text.count("{") == 1 and text.endswith("}"):
            return text
        if text in choices(t):
            return text
        if text in ("null", "~") and takes_none(t):
            return None
        if takes_text(t):
            return text
        try:
            document = parse_yaml(text, "value")
            mistakes = document.mistakes
        except ConfigError as error:
            document, mistakes = Document("value"), list(error.mistakes)
        if mistakes and text[:1] in (*FLOW, '"', "'"):
            raise RejectedError(*(m._replace(path=path) for m in mistakes))
        if mistakes or (isinstance(document.value, Mapping) and text[:1] != "{"):
            return text  # `12:30` and `a: b` are text, not mappings
        return document.value

    def _reset(self, path: Path, override: Override) -> None:
        """Take a field or an argument back to its default."""
        holder = self._now(path[:-1])
        slot = slots(self._type_of(path[:-1]), holder).get(path[-1])
        if slot is None or slot.default is REQUIRED:
            self._note(override, Mistake("missing", "has no default", path=path))
        elif is_component_tree(holder) or isinstance(slot.default, attrs.Factory):  # type: ignore[arg-type]  # a class
            holder.pop(path[-1], None)
            self.layers.forget(path)
        else:
            self._put(path, unstructure(slot.default), override.origin(self.layer))

    def _default(self, path: Path) -> Any:
        """Return the default of what is not set, as a tree; None where there is none."""
        return _default_of(slots(self._type_of(path[:-1]), self._now(path[:-1])).get(path[-1]))

    # Finding places. Naming a field of an optional section that is None switches the section on.

    def _type_of(self, path: Path) -> Any:
        return self._find(tuple(map(str, path)))[0] if path else self.layers.wanted or Any

    def _find(self, parts: tuple[str, ...]) -> tuple[Any, Path]:
        """Return the type and the path of what dotted parts name.

        Raises:
            RejectedError: They name nothing; the message has a suggestion.
        """
        t: Any = self.layers.wanted or Any
        tree: Any = self.layers.tree
        path: Path = ()
        for part in parts:
            key, t = self._step(t, tree, part, path)
            tree, above, path = self._below(tree, key), tree, (*path, key)
            if tree is None and is_component_tree(above):  # an argument at its default may be a list
                slot = slots(self._type_of(path[:-1]), above).get(key)
                tree = _default_of(slot)
        return t, path

    def _step(self, t: Any, tree: Any, part: str, path: Path) -> tuple[str | int, Any]:
        """Return the key that a part of a path means, and the type of what stands there."""
        known = slots(t, tree)
        key: str | int = int(part) if isinstance(tree, list) and is_index(part) else part
        for spelt in (key, part.replace("-", "_")):  # `--batch-size 4` is batch_size
            if spelt in known:
                return spelt, known[spelt].type
        free = type_of_unlisted(t, tree, part)
        if free is None:
            raise self._unknown(path, part, tree, known)
        return part, free

    def _below(self, tree: Any, key: str | int) -> Any:
        if isinstance(tree, list) and isinstance(key, int):
            return tree[key]
        return tree.get(key) if isinstance(tree, Mapping) else None

    def _unknown(self, path: Path, part: str, tree: Any, known: Mapping[Any, Any]) -> RejectedError:
        where = (*path, part)
        if is_component_tree(tree):
            return RejectedError(unknown(part, known, where, tree[COMPONENT_KEY]))
        if isinstance(tree, list):
            count = counted(len(tree), "item")
            return reject("unknown", f"the list has {count}, counted from 0", path=where)
        if path and not known and not isinstance(tree, Mapping):
            what = "a single value"
            if is_reference(tree):
                what = f"the reference {tree}"
            elif tree is None and not is_anything(component_type_of(self._type_of(path)) or Any):
                what = f"null; name its component first, {dotted(path)}=package.module.Name"
            return reject("unknown", f"{dotted(path)} is {what}; it has no {part!r}", path=where)
        sections = sections_of(self._type_of(path))
        names = [*known, *(n for cls in sections for n in field_names(cls))]
        found = unknown(part, names, where)
        if path or hint_for(part, names) is not None:
            return RejectedError(found)
        deep = [p for p, _ in leaves(self.layers.tree) if len(p) > 1 and p[-1] == part]
        near = f"did you mean {dotted(deep[0])!r}?" if deep else self.suggest(f"--{part}", found.suggestion)
        return RejectedError(found._replace(suggestion=near))

    def _now(self, path: Path) -> Any:
        try:
            return at(self.layers.tree, path)
        except LookupError:
            return None

    def _put(self, path: Path, value: Any, origin: Location) -> None:
        """Put a value, switching on the sections above it."""
        for length in range(1, len(path)):
            if self._now(path[:length]) is not None:
                continue
            above = self._type_of(path[:length])
            default = (
                self._default(path[:length]) if is_component_tree(self._now(path[: length - 1])) else None
            )
            if default is not None:
                self.layers.put(path[:length], default, lambda _: origin)
            elif section_of(above) or mapping_of(above):
                self.layers.put(path[:length], {}, lambda _: origin)
        holder = self._now(path[:-1])
        if isinstance(holder, (dict, list)):
            self.layers.put(path, value, lambda _: origin)
        elif is_reference(holder):
            message = f"{dotted(path[:-1])} is the reference {holder}"
            advice = "change what it names, or set it whole"
            self.layers.mistakes.append(Mistake("reference", message, advice, path, location=origin))

    def _note(self, override: Override, *mistakes: Mistake) -> None:
        where = override.origin(self.layer)
        self.layers.mistakes += [m._replace(location=where) for m in mistakes]


def override(layers: Layers, pairs: Iterable[tuple[str, str]]) -> None:
    """Apply overrides given as path and text; what is wrong with them is noted in the layers."""
    overriding = Overriding(layers)
    overriding.set_values(overriding.apply([Override(path, text, i) for i, (path, text) in enumerate(pairs)]))


def _default_of(slot: Slot | None) -> Any:
    """Return the default of a slot as a tree; None where there is none that YAML can hold."""
    if slot is None or isinstance(slot.default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
        return None
    try:
        return None if slot.default is REQUIRED else unstructure(slot.default)
    except RejectedError:
        return None


def is_dotpath(text: str) -> bool:
    """Tell whether a text looks like `package.module.Name`."""
    return "." in text and all(part.isidentifier() for part in text.split("."))


def item_type(collection: Any, index: int) -> Any:
    """Return the type of a collection's next item; `Any` where it says none."""
    args = typing.get_args(collection)
    if typing.get_origin(collection) is tuple and Ellipsis not in args:
        return args[index] if index < len(args) else Any
    return args[0] if args else Any
