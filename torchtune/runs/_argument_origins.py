"""Locate an error of a component at the arguments that caused the error, rather than at the component's dotpath."""

import re
from typing import Any, Final

from torchtune.config import InstantiationError
from torchtune.config.model import (
    COMPONENT_KEY,
    Layers,
    Path,
    is_component_tree,
    message_of,
    reference_target,
    value_at,
)

MAX_REFERENCES: Final = 30
"""The maximum number of references to follow in a chain; circular references are rejected earlier."""


def located_at_arguments(error: InstantiationError, layers: Layers) -> InstantiationError:
    """Return a component's error, located at the arguments that were set separately from the component's dotpath.

    If the cause mentions the values of some arguments, such as a missing file, only these arguments are considered.

    Args:
        error: An error located at the component's dotpath; its cause is an exception raised by the component's code.
        layers: The merged config, with the location of each argument.
    """
    cause = error.__cause__
    if cause is None or error.location is None:
        return error
    arguments = _arguments(layers, error.path)
    mentioned = {path: value for path, value in arguments.items() if _is_mentioned(value, str(cause))}
    origins = {path: layers.last_origin(path) for path in mentioned or arguments}
    # An argument set in the same layer as the component is considered only if the cause mentions its value.
    first_layer = error.location.layer + (0 if mentioned else 1)
    later = {
        path: origin
        for path, origin in origins.items()
        if origin.layer >= first_layer and origin.source != error.location.source
    }
    if not later:
        return error
    if len(later) == 1:
        ((path, origin),) = later.items()
        return InstantiationError(message_of(cause), origin, path if mentioned else error.path)
    ordered = sorted(set(later.values()))
    source = ", ".join(map(str, ordered))
    return InstantiationError(message_of(cause), ordered[-1]._replace(position=0, source=source), error.path)


def _is_mentioned(value: object, message: str) -> bool:
    """Return whether a message mentions a value outside longer names and paths; very short values are ignored."""
    text = value if isinstance(value, str) else ""
    return len(text) > 2 and re.search(rf"(?<![\w./-]){re.escape(text)}(?![\w/-])", message) is not None


def _arguments(layers: Layers, path: Path) -> dict[Path, Any]:
    """Return the arguments of a component with their paths; a reference is replaced by its target."""
    try:
        component = value_at(layers.tree, path)
    except LookupError:
        return {}
    if not is_component_tree(component):
        return {}
    return dict(_final_target(layers, (*path, name)) for name in component if name != COMPONENT_KEY)


def _final_target(layers: Layers, path: Path) -> tuple[Path, Any]:
    """Follow references from a path, and return the path and value of the final target."""
    value = value_at(layers.tree, path)
    for _ in range(MAX_REFERENCES):
        target = reference_target(value)
        if target is None:
            break
        try:
            path, value = target, value_at(layers.tree, target)
        except LookupError:  # the field has a computed default
            break
    return path, value
