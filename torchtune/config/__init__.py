"""Typed configs: attrs classes with lazy partials, checked before anything is built.

Config files need only the names that this package exports. `torchtune.config.model` exports the names that higher
layers use. Imports are lazy, to keep `tune ls` fast.
"""

from typing import TYPE_CHECKING

from torchtune._lazy import lazy_exports

if TYPE_CHECKING:
    from torchtune.config._component import Component as Component
    from torchtune.config._component import lazy as lazy
    from torchtune.config._component import nested as nested
    from torchtune.config._component import ref as ref
    from torchtune.config._frozen import load as load
    from torchtune.config._frozen import render as render
    from torchtune.config._frozen import resolve as resolve
    from torchtune.config._instantiate import instantiate as instantiate
    from torchtune.config._mistakes import ConfigError as ConfigError
    from torchtune.config._mistakes import InstantiationError as InstantiationError
    from torchtune.config._mistakes import Mistake as Mistake
    from torchtune.config._node import Node as Node
    from torchtune.config._signature import MayChange as MayChange
    from torchtune.config._signature import Passed as Passed
    from torchtune.config._trust import Trust as Trust
    from torchtune.config._trust import allow as allow
    from torchtune.config._trust import only_trusting as only_trusting
    from torchtune.config._types import LocalPath as LocalPath
    from torchtune.config._validators import FieldError as FieldError
    from torchtune.config._validators import Rule as Rule
    from torchtune.config._validators import above as above
    from torchtune.config._validators import arguments as arguments
    from torchtune.config._validators import at_least as at_least
    from torchtune.config._validators import between as between
    from torchtune.config._validators import each as each
    from torchtune.config._validators import fraction as fraction
    from torchtune.config._validators import not_empty as not_empty
    from torchtune.config._validators import one_of as one_of
    from torchtune.runs import parse as parse
else:
    __getattr__, __dir__ = lazy_exports(__name__)
