"""Find the components of torchtune and torch that a field accepts."""

import difflib
import importlib
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from torchtune.config import Mistake, Passed
from torchtune.config.model import (
    COMPONENT_KEY,
    TORCHTUNE_PACKAGES,
    Layers,
    Path,
    RejectedError,
    component_type_of,
    describe,
    dotpath,
    is_accepted,
    is_any_type,
    is_component_tree,
    is_component_type,
    is_reference,
    locate,
    members,
    parameters,
    passed_in,
    slots,
    strip,
)

PACKAGES: Final = (
    "torch.nn",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "torch.utils.data",
    "torchtune.datasets",
    "torchtune.formats",
    "torchtune.models",
    "torchtune.modules",
    "torchtune.tokenizers",
    "torchtune.training",
    "torchtune.utils.metric_logging",
)
"""Packages whose components are listed in schemas, help pages and suggestions."""
MAX_LISTED: Final = 8
"""The maximum number of components that help pages and messages list by name; the rest are counted."""
MAX_SUGGESTED: Final = 4
"""The maximum number of components in a suggestion."""


def components_of_field(t: Any) -> list[str]:
    """Return the dotpaths of the components that a field of type `t` accepts; empty if it accepts any value."""
    component = component_type_of(t)
    expected_type = (
        (typing.get_args(strip(component)) or (Any,))[0] if is_component_type(component) else component
    )
    if component is None or is_any_type(component):
        return []
    return [path for path, _ in components_for(expected_type, passed_in(component))]


def format_components(paths: Sequence[str]) -> str:
    """Return dotpaths as a list, torchtune's own first, with the number of omitted dotpaths."""
    ordered, others = sorted(paths, key=_is_from_torch), len(paths) - MAX_LISTED
    return ", ".join([*ordered[:MAX_LISTED], *([f"{others} others"] if others > 0 else [])])


def similar_components(name: str, paths: Sequence[str]) -> list[str]:
    """Return the dotpaths whose last part is similar to a name, most likely first.

    Exact matches are returned if there are any; otherwise dotpaths whose last part contains the name, first those that
    begin with it; otherwise the longest last part that the name contains (`AdamW` in `adamw_torch`) or the closest one.
    """
    target = _normalized(name)
    normalized = {path: _normalized(path) for path in sorted(paths, key=_is_from_torch)}
    equal = [path for path, last in normalized.items() if last == target]
    if equal or len(target) < 2:
        return equal
    containing = [path for path, last in normalized.items() if target in last]
    if containing:
        return sorted(
            containing,
            key=lambda path: (not normalized[path].startswith(target), _is_from_torch(path), len(path)),
        )
    contained = [path for path, last in normalized.items() if len(last) > 2 and last in target]
    if contained:
        return [max(contained, key=lambda path: len(normalized[path]))]
    similar = difflib.get_close_matches(target, normalized.values(), 1, 0.6)
    return [path for path, last in normalized.items() if last in similar][:1]


def note_unknown_components(layers: Layers) -> None:
    """Record a mistake for each component that does not exist, suggesting components that its field accepts."""
    for path, value, t in _component_values(layers.config_class or Any, layers.tree, ()):
        mistake = _missing_component(value) if isinstance(value, Mapping) else _not_a_mapping(value, t)
        if mistake is not None:
            suggestion = _suggestion(mistake, components_of_field(t))
            layers.mistakes.append(layers.located(mistake._replace(path=path, suggestion=suggestion)))
            # The dropped arguments cannot be determined for an unknown component.
            layers.dropped = [dropped for dropped in layers.dropped if dropped.path != path]


def _component_values(t: Any, tree: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    """Yield the path, value and type of each component, and of each string in a field that accepts only components."""
    if is_component_tree(tree):
        yield path, tree, t
    field_slots = slots(t, tree)
    for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        inner = field_slots[key].type if key in field_slots else Any
        if isinstance(value, Mapping | list):
            yield from _component_values(inner, value, (*path, key))
        elif isinstance(value, str) and not is_reference(value) and _accepts_only_components(inner):
            yield (*path, key), value, inner


def _accepts_only_components(t: Any) -> bool:
    """Return whether a field accepts only a component or null."""
    types = [m for m in members(t if is_component_type(t) else strip(t)) if m is not type(None)]
    return bool(types) and all(component_type_of(m) is not None and not is_any_type(m) for m in types)


def _missing_component(component: Mapping[str, Any]) -> Mistake | None:
    """Return the mistake for a component whose dotpath cannot be resolved, or None."""
    path = component[COMPONENT_KEY]
    try:
        if isinstance(path, str) and not is_reference(path):
            locate(path)
    except RejectedError as rejected:
        return next((mistake for mistake in rejected.mistakes if mistake.got), None)
    return None


def _not_a_mapping(text: str, t: Any) -> Mistake:
    expected = f"{describe(t)}, a mapping with {COMPONENT_KEY}"
    return Mistake("wrong_type", expected=expected, got=repr(text))


def _suggestion(mistake: Mistake, allowed: Sequence[str]) -> str:
    """Return a suggestion of components with a similar name, or else of components that the field accepts.

    For names in the user's packages, the mistake's own suggestion is kept.
    """
    name = mistake.got.strip("'")
    is_users_component = "." in name and name.partition(".")[0] not in (*TORCHTUNE_PACKAGES, "torch")
    similar = similar_components(name, allowed or [path for path, _ in components_for(Any, Passed())])
    if is_users_component or not (similar or allowed):
        return mistake.suggestion
    if similar:
        *others, last = [repr(path) for path in similar[:MAX_SUGGESTED]]
        return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    return f"choose one of {format_components(allowed)}, or your own package.module.Name"


def _normalized(name: str) -> str:
    """Return the last part of a dotpath, normalized for comparison."""
    return name.rpartition(".")[2].lower().replace("_", "").replace("-", "")


def _is_from_torch(path: str) -> bool:
    return path.startswith("torch.")


def components_for(expected_type: Any, passed_arguments: Passed) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the dotpath and object of each public component that a field accepts."""
    yielded: set[str] = set()
    for module in _modules():
        for name in sorted(getattr(module, "__all__", None) or vars(module)):
            fn = getattr(module, name, None)
            if (
                name.startswith("_")
                or not callable(fn)
                or not is_accepted(fn, expected_type, passed_arguments)
            ):
                continue
            if "component" in parameters(fn):
                continue  # a builder for a component in the config, such as torchtune.training.build_optimizer
            try:
                path = dotpath(fn)
            except ValueError:
                continue
            if fn is strip(expected_type) and path.startswith("torch."):
                continue  # an abstract base class, such as torch.optim.Optimizer
            if path not in yielded:
                yielded.add(path)
                yield path, fn


def _modules() -> Iterator[Any]:
    for name in PACKAGES:
        module = importlib.import_module(name)
        yield module
        if name == "torchtune.models":  # model families are separate modules
            for entry in pkgutil.iter_modules(module.__path__):
                if not entry.name.startswith("_"):
                    yield importlib.import_module(f"{name}.{entry.name}")
