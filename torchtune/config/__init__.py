"""Typed configs: attrs classes with lazy components, checked before anything is built.

What a config file needs is here; `torchtune.config.model` has what the layers above build on. Names are imported when
they are first used, so that `tune ls` does not pay for the engine.
"""

from typing import TYPE_CHECKING

from torchtune._lazy import lazy_exports

if TYPE_CHECKING:
    from torchtune.config._component import Component, lazy, nested, ref
    from torchtune.config._frozen import load, render, resolve
    from torchtune.config._instantiate import instantiate
    from torchtune.config._mistakes import ConfigError, InstantiationError, Mistake
    from torchtune.config._node import Node
    from torchtune.config._signature import MayChange, Passed
    from torchtune.config._trust import Trust, allow, only_trusting
    from torchtune.config._validators import (
        Rule,
        above,
        arguments,
        at_least,
        between,
        each,
        not_empty,
        one_of,
        share,
    )
    from torchtune.runs import parse

__all__ = [
    "Component",
    "ConfigError",
    "InstantiationError",
    "MayChange",
    "Mistake",
    "Node",
    "Passed",
    "Rule",
    "Trust",
    "above",
    "allow",
    "arguments",
    "at_least",
    "between",
    "each",
    "instantiate",
    "lazy",
    "load",
    "nested",
    "not_empty",
    "one_of",
    "only_trusting",
    "parse",
    "ref",
    "render",
    "resolve",
    "share",
]

__getattr__ = lazy_exports(__name__)


def __dir__() -> list[str]:
    return sorted(__all__)
