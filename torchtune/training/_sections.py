"""Find sections of a config by their declared type, independent of field names."""

from typing import Any, TypeVar

from attrs import has

from torchtune.config.model import fields, sections_of

S = TypeVar("S")


def section_of(cfg: object, kind: type[S]) -> S | None:
    """Return the section of a given class, or None if the config has no such section or it is null.

    Args:
        cfg: Any config object.
        kind: The section's class, such as `Placement`; fields that declare a subclass also match.

    Raises:
        ValueError: Multiple fields match.
    """
    if not has(type(cfg)):
        return None
    config_class: type = type(cfg)
    names = [name for name, field in fields(config_class).items() if _declares(field.type, kind)]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)}: a config can have only one {kind.__name__} section")
    return getattr(cfg, names[0]) if names else None


def _declares(declared: Any, kind: type) -> bool:
    return any(issubclass(section, kind) for section in sections_of(declared))
