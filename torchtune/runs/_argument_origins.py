"""Where the arguments of a component were set that could not be built: an override, rather than what names it."""

import re
from typing import Any, Final

from torchtune.config import InstantiationError
from torchtune.config.model import (
    COMPONENT_KEY,
    Layers,
    Path,
    at,
    is_component_tree,
    message_of,
    referred,
)

MOST_REFERENCES: Final = 30
"""References that are followed from one value to the next; a circle of them is a mistake that is found before."""


def located_at_arguments(error: InstantiationError, layers: Layers) -> InstantiationError:
    """Return the error of a component, located at the arguments that were set elsewhere than it was named.

    If the cause names the values of some arguments, such as a file that is not there, it is only about those.

    Args:
        error: Its location is where the component was named; its cause is an exception of the component's code.
        layers: Know where each argument was set.
    """
    cause = error.__cause__
    if cause is None or error.location is None:
        return error
    arguments = _arguments(layers, error.path)
    mentioned = {path: value for path, value in arguments.items() if _is_named(value, str(cause))}
    origins = {path: layers.last_origin(path) for path in mentioned or arguments}
    # An argument that is set with the component, in the same layer, is only wrong if the cause names it.
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


def _is_named(value: object, message: str) -> bool:
    """Tell whether a message names a value, as a word or a path of its own; short words are in many sentences."""
    text = value if isinstance(value, str) else ""
    return len(text) > 2 and re.search(rf"(?<![\w./-]){re.escape(text)}(?![\w/-])", message) is not None


def _arguments(layers: Layers, path: Path) -> dict[Path, Any]:
    """Return the arguments of a component with their paths; one that refers to another field is that field."""
    try:
        component = at(layers.tree, path)
    except LookupError:
        return {}
    if not is_component_tree(component):
        return {}
    return dict(_followed(layers, (*path, name)) for name in component if name != COMPONENT_KEY)


def _followed(layers: Layers, path: Path) -> tuple[Path, Any]:
    """Return the path and the value that a reference leads to; those of any other value as they are."""
    value = at(layers.tree, path)
    for _ in range(MOST_REFERENCES):
        target = referred(value)
        if target is None:
            break
        try:
            path, value = target, at(layers.tree, target)
        except LookupError:  # a field at a default that is computed
            break
    return path, value
