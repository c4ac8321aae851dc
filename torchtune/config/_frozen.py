"""The frozen form of a config: complete and self-contained, with all defaults written out and references kept."""

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import attrs
from attrs import define, field

from torchtune.config._classes import REQUIRED, fields
from torchtune.config._interpolation import is_reference, resolve_tree
from torchtune.config._layers import Layers
from torchtune.config._mistakes import ConfigError, Path, RejectedError, dotted
from torchtune.config._schema import slots
from torchtune.config._structure import structure
from torchtune.config._tree import copy_tree
from torchtune.config._types import sections_of
from torchtune.config._unstructure import unstructure
from torchtune.config._yaml import parse_yaml, render_yaml

C = TypeVar("C")


@define
class Frozen:
    """A config's tree, including the default of every field and argument."""

    tree: dict[str, Any]
    omitted: list[str] = field(factory=list)
    """Arguments whose default cannot be represented in YAML, each with its owner."""

    def render(self) -> str:
        """Return the tree as YAML, with a comment for each omitted argument."""
        notes = [f"# omitted, because YAML cannot represent it: {text}\n" for text in self.omitted]
        return "".join([*notes, render_yaml(self.tree)])


def freeze(layers: Layers) -> Frozen:
    """Write out the default of every field and argument of merged layers; keep references."""
    layers.normalise()
    frozen = Frozen(copy_tree(layers.tree))
    _fill(layers.config_class or Any, frozen.tree, (), frozen)
    return frozen


def _fill(t: Any, tree: Any, path: Path, frozen: Frozen) -> None:
    for key, slot in slots(t, tree).items():
        inner_path = (*path, key)
        if isinstance(tree, dict) and key not in tree and slot.default is not REQUIRED:
            try:
                tree[str(key)] = unstructure(slot.default)
            except RejectedError:
                default = _describe(slot.default)
                frozen.omitted.append(f"{dotted(inner_path)} (default of {slot.owner}: {default})")
        value = tree[int(key)] if isinstance(tree, list) else tree.get(key)
        if value is not None and not is_reference(value):
            _fill(slot.type, value, inner_path, frozen)


def _describe(default: Any) -> str:
    """Describe a default that YAML cannot represent; the description is identical in every process."""
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
        return "computed from other fields"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(default))


def render(config: Any) -> str:
    """Return a config object as YAML: all fields, and the arguments that its components set. References are kept.

    Raises:
        ConfigError: The config contains a value that YAML cannot represent.
    """
    try:
        return render_yaml(unstructure(config))
    except RejectedError as rejected:
        raise ConfigError(rejected.mistakes) from rejected


def load(text: str, config_class: type[C], name: str = "the YAML") -> C:
    """Read a complete config from YAML text, keeping references; the inverse of `render`.

    Raises:
        ConfigError: The text is not a valid config; contains every mistake.
    """
    document = parse_yaml(text, name)
    layers = Layers.of_defaults(config_class)
    layers.add_document(document)
    try:
        loaded: C = structure(layers.tree, config_class, references=True)
    except RejectedError as rejected:
        layers.mistakes += [m._replace(location=layers.origin(m.path)) for m in rejected.mistakes]
    layers.check(name)
    return loaded


def resolve(config: C) -> C:
    """Return a config object with every reference replaced by its value, with the same checks as for YAML.

    Raises:
        ConfigError: The resolved config is not valid; contains every mistake.
    """
    try:
        layers = _without_locations(config)
    except RejectedError as rejected:
        raise ConfigError(rejected.mistakes) from rejected
    resolved: C = layers.build(f"the {type(config).__name__}")
    return resolved


def frozen_tree(config: Any) -> dict[str, Any]:
    """Return the tree of a resolved config object, with defaults written out and references resolved."""
    tree: dict[str, Any] = resolved_tree(freeze(_without_locations(config)).tree)
    return tree


def _without_locations(config: Any) -> Layers:
    return Layers(type(config), unstructure(config))


def fixed_tree(config: Any) -> dict[str, Any]:
    """Return the part of a config that must not change when a run is resumed, with defaults written out.

    Args:
        config: A resolved config object. Fields annotated with `MayChange` and the output folder are excluded.
    """
    return drop_paths(frozen_tree(config), {"output_dir", *may_change(type(config))})


def may_change(config_class: type | None) -> set[str]:
    """Return the dotted paths of the fields annotated with `MayChange`, which a resumed run may change."""
    paths: set[str] = set()
    for name, f in fields(config_class).items() if config_class else ():
        if f.may_change:
            paths.add(name)
        else:
            paths |= {f"{name}.{inner}" for section in sections_of(f.type) for inner in may_change(section)}
    return paths


def drop_paths(tree: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """Return a tree of mappings without the values at the given dotted paths."""
    remaining = {}
    for name, value in tree.items():
        inner = {path.removeprefix(f"{name}.") for path in paths if path.startswith(f"{name}.")}
        if name not in paths:
            remaining[name] = drop_paths(value, inner) if inner and isinstance(value, Mapping) else value
    return remaining


def resolved_tree(tree: Any) -> Any:
    """Return a tree with its references resolved; references that cannot be resolved are kept."""
    return resolve_tree(tree)[0]
