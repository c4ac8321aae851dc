"""The start of a run: the registry, config sources, overrides, recipes and output folders."""

from typing import TYPE_CHECKING

from torchtune._lazy import lazy_exports

if TYPE_CHECKING:
    from torchtune._bundled_packages import folder_of as folder_of
    from torchtune.runs._alternatives import alternative_for as alternative_for
    from torchtune.runs._argument_origins import located_at_arguments as located_at_arguments
    from torchtune.runs._choices import components_for as components_for
    from torchtune.runs._device import Device as Device
    from torchtune.runs._device import check_device as check_device
    from torchtune.runs._device import device_type as device_type
    from torchtune.runs._device import peak_memory_bytes as peak_memory_bytes
    from torchtune.runs._discover import calls_in as calls_in
    from torchtune.runs._discover import load_recipe as load_recipe
    from torchtune.runs._discover import recipe_for as recipe_for
    from torchtune.runs._extension import extended_limits as extended_limits
    from torchtune.runs._finish import finish_run as finish_run
    from torchtune.runs._flags import print_help as print_help
    from torchtune.runs._folder import LockedError as LockedError
    from torchtune.runs._folder import RunFolder as RunFolder
    from torchtune.runs._join_timeout import join_timeout as join_timeout
    from torchtune.runs._join_timeout import set_join_timeout as set_join_timeout
    from torchtune.runs._launch import checked_layers as checked_layers
    from torchtune.runs._launch import layers_of as layers_of
    from torchtune.runs._locate import ModelFolders as ModelFolders
    from torchtune.runs._locate import check_full_model as check_full_model
    from torchtune.runs._locate import check_model_folder as check_model_folder
    from torchtune.runs._locate import locate_model as locate_model
    from torchtune.runs._locate import missing_model_message as missing_model_message
    from torchtune.runs._locate import weights_folder as weights_folder
    from torchtune.runs._locate import weights_in as weights_in
    from torchtune.runs._locate import weights_note as weights_note
    from torchtune.runs._missing_model import missing_model_hint as missing_model_hint
    from torchtune.runs._out_of_memory import Reserve as Reserve
    from torchtune.runs._out_of_memory import is_out_of_memory as is_out_of_memory
    from torchtune.runs._overrides import override as override
    from torchtune.runs._provenance import altered_inputs as altered_inputs
    from torchtune.runs._provenance import provenance as provenance
    from torchtune.runs._recipe import Recipe as Recipe
    from torchtune.runs._recipe import parse as parse
    from torchtune.runs._record import git_state as git_state
    from torchtune.runs._record import gpus as gpus
    from torchtune.runs._record import versions as versions
    from torchtune.runs._registry import config_names as config_names
    from torchtune.runs._registry import config_source as config_source
    from torchtune.runs._registry import config_sources as config_sources
    from torchtune.runs._registry import recipe_file as recipe_file
    from torchtune.runs._registry import recipe_names as recipe_names
    from torchtune.runs._registry import recipe_source as recipe_source
    from torchtune.runs._registry import unknown_name as unknown_name
    from torchtune.runs._resume import Resume as Resume
    from torchtune.runs._resume import resume_options as resume_options
    from torchtune.runs._settings import RunSettings as RunSettings
    from torchtune.runs._settings import settings_of as settings_of
    from torchtune.runs._sources import config_layers as config_layers
    from torchtune.runs._sources import load_module as load_module
else:
    __getattr__, __dir__ = lazy_exports(__name__)
