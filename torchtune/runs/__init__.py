"""A run, from its name to its folder: the registry, sources of configs, overrides, recipes, output folders."""

from typing import TYPE_CHECKING

from torchtune._lazy import lazy_exports

if TYPE_CHECKING:
    from torchtune.runs._device import Device, check_device, device_type
    from torchtune.runs._flags import print_help
    from torchtune.runs._folder import LockedError, RunFolder
    from torchtune.runs._locate import ModelFolders, locate_model, result_of
    from torchtune.runs._overrides import override
    from torchtune.runs._recipe import Recipe, parse
    from torchtune.runs._record import versions
    from torchtune.runs._registry import (
        config_names,
        config_source,
        config_sources,
        folder_of,
        recipe_names,
        recipe_source,
        unknown_name,
    )
    from torchtune.runs._sources import config_layers, load_module

__all__ = [
    "Device",
    "LockedError",
    "ModelFolders",
    "Recipe",
    "RunFolder",
    "check_device",
    "config_layers",
    "config_names",
    "config_source",
    "config_sources",
    "device_type",
    "folder_of",
    "load_module",
    "locate_model",
    "override",
    "parse",
    "print_help",
    "recipe_names",
    "recipe_source",
    "result_of",
    "unknown_name",
    "versions",
]

__getattr__ = lazy_exports(__name__)


def __dir__() -> list[str]:
    return sorted(__all__)
