"""Command-line flags, based on tyro, for every field and component argument, with type, value and documentation."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, cast

from torchtune.config.model import (
    COMPONENT_KEY,
    REQUIRED,
    REQUIRED_NAME,
    Layers,
    Path,
    Slot,
    inline_yaml,
    is_component_tree,
    is_reference,
    metavar,
    reference_target,
    section_of,
    slots,
    unstructured_default,
    value_at,
)
from torchtune.runs._choices import components_of_field, format_components
from torchtune.runs._tokens import Override
from torchtune.runs.command_line import RUN_OPTIONS, options_table


class Typed(str):
    """The text of a flag; it is converted to its field's type after all fields are known."""

    __slots__ = ()


class _HelpTexts(NamedTuple):
    """What help texts contain; listing each field's components takes half a second for a recipe's config."""

    only_defaults: bool = False  # no config sets any value
    lists_components: bool = True


class _Group:
    """A group of flags for a config class, component or list; each subclass defines a tyro specification."""

    spec: Any = None


def match_flags(layers: Layers, overrides: Sequence[Override]) -> dict[str, str]:
    """Parse overrides with tyro against the flags of a config.

    Returns:
        The text of every key that is a flag. Unknown keys are omitted; the caller reports them.
    """
    import tyro

    latest = {override.key: override.text for override in overrides}
    args = [f"--{key}={text}" for key, text in latest.items()]
    parsed, _unknown = tyro.cli(
        _group(layers.config_class or Any, layers.tree, "config", "", _HelpTexts(lists_components=False)),
        args=args,
        registry=_registry(),
        use_underscores=True,
        return_unknown_args=True,
        add_help=False,
        console_outputs=False,
    )
    return dict(_typed(cast("Any", parsed), ()))


def print_help(layers: Layers, prog: str, description: str) -> None:
    """Print the options of a run, and the flags of a config with types, values and documentation, by component.

    Args:
        layers: The config; if it has only the class's defaults, all values are shown as defaults.
        prog: The program's name.
        description: A description of the program.
    """
    import tyro

    texts = _HelpTexts(only_defaults=not layers.sources and layers.depth <= 1)
    description = f"{description}\n\n{options_table(RUN_OPTIONS)}".strip("\n")
    group = _group(layers.config_class or Any, layers.tree, "config", description, texts)
    options: Any = {"prog": prog, "description": description}
    with contextlib.suppress(SystemExit):  # tyro exits after printing
        tyro.cli(group, args=["--help"], registry=_registry(), use_underscores=True, **options)


def _typed(parsed: Mapping[str, Any], path: Path) -> Any:
    for key, value in parsed.items():
        if isinstance(value, Mapping):
            yield from _typed(value, (*path, key))
        elif isinstance(value, Typed):
            yield ".".join(map(str, (*path, key))), str(value)


def _registry() -> Any:
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.struct_rule
    def group_rule(info: Any) -> Any:
        return info.type.spec if isinstance(info.type, type) and issubclass(info.type, _Group) else None

    @registry.primitive_rule
    def typed_rule(info: Any) -> Any:
        if info.type is not Typed:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="VALUE",
            instance_from_str=lambda args: Typed(args[0]),
            is_instance=lambda value: isinstance(value, str),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _group(t: Any, tree: Any, name: str, doc: str, texts: _HelpTexts) -> type[_Group]:
    """Return a group with a flag for each slot of a value."""
    from tyro.constructors import StructConstructorSpec

    fields = []
    if is_component_tree(tree):
        doc = f"Dotpath of the component{_choices(t, texts)}."
        fields.append(
            _leaf(COMPONENT_KEY, "DOTPATH", tree[COMPONENT_KEY], doc, is_default=texts.only_defaults)
        )
    # tyro treats `a-b` and `a_b` as one name; the second one is parsed without tyro.
    slots_by_name = {
        str(key).replace("-", "_"): (key, slot) for key, slot in reversed(slots(t, tree).items())
    }
    for key, slot in reversed(slots_by_name.values()):
        fields.append(_field(str(key), slot, _value(tree, key, slot), texts))
    spec = StructConstructorSpec(instantiate=dict, fields=tuple(fields))
    return type(name, (_Group,), {"__doc__": doc or name, "spec": spec})


def _value(tree: Any, key: str | int, slot: Slot) -> Any:
    try:
        return value_at(tree, (key,))
    except LookupError:
        return _default(slot)


def _default(slot: Slot) -> Any:
    """Return a slot's default as a tree, or its repr if YAML cannot represent it."""
    has_default, value = unstructured_default(slot)
    return value if has_default else REQUIRED


def _field(name: str, slot: Slot, value: Any, texts: _HelpTexts) -> Any:
    from tyro.constructors import StructFieldSpec

    has_parts = any(map(is_component_tree, value if isinstance(value, list) else [value]))
    section = section_of(slot.type)
    if has_parts or (section is not None and not is_reference(value)):
        group = _group(slot.type, value, name, slot.doc, texts)
        return StructFieldSpec(name=name, type=group, default=group(), helptext=slot.doc or None)
    is_default = texts.only_defaults or value == _default(slot)
    choices = _choices(slot.type, texts)
    doc = f"{slot.doc} Components{choices}.".strip() if choices else slot.doc
    return _leaf(name, metavar(slot.type), value, doc, is_default=is_default)


def _choices(t: Any, texts: _HelpTexts) -> str:
    """Return the components that a field accepts, after a colon; empty if it accepts any value."""
    paths = components_of_field(t) if texts.lists_components else []
    return f": {format_components(paths)}, or your own package.module.Name" if paths else ""


def _leaf(name: str, kind: str, value: Any, doc: str, *, is_default: bool) -> Any:
    import tyro
    from tyro.constructors import StructFieldSpec

    if value is REQUIRED or reference_target(value) == (REQUIRED_NAME,):
        text_of_default = hint = "(required)"
    else:
        text_of_default = value if isinstance(value, str) else inline_yaml(value)
        hint = f"({'default' if is_default else 'config'}: {text_of_default or repr(text_of_default)})"
    text = Typed(text_of_default)
    kind_of_value: Any = Annotated[Typed, tyro.conf.arg(metavar=kind, help_behavior_hint=hint)]
    return StructFieldSpec(name=name, type=kind_of_value, default=text, helptext=doc or None)
