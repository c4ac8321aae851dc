"""The data model of configs, used by `torchtune.runs` and the command line.

It includes trees and layers, mistakes, types and signatures, YAML, and trust in dotpaths.
"""

from typing import TYPE_CHECKING

from torchtune._lazy import lazy_exports

if TYPE_CHECKING:
    from torchtune.config._classes import REQUIRED as REQUIRED
    from torchtune.config._classes import Field as Field
    from torchtune.config._classes import converter_mistake as converter_mistake
    from torchtune.config._classes import field_names as field_names
    from torchtune.config._classes import fields as fields
    from torchtune.config._classes import message_of as message_of
    from torchtune.config._classes import missing_field as missing_field
    from torchtune.config._classes import required_names as required_names
    from torchtune.config._component import COMPONENT_KEY as COMPONENT_KEY
    from torchtune.config._component import bound_keywords as bound_keywords
    from torchtune.config._component import is_component as is_component
    from torchtune.config._component import written_at as written_at
    from torchtune.config._components import argument_type as argument_type
    from torchtune.config._components import is_accepted as is_accepted
    from torchtune.config._components import item_mismatch as item_mismatch
    from torchtune.config._components import item_type_mismatch as item_type_mismatch
    from torchtune.config._diff import ABSENT as ABSENT
    from torchtune.config._diff import Difference as Difference
    from torchtune.config._diff import differences as differences
    from torchtune.config._docstrings import documentation as documentation
    from torchtune.config._dotpath import dotpath as dotpath
    from torchtune.config._dotpath import is_component_path as is_component_path
    from torchtune.config._dotpath import locate as locate
    from torchtune.config._frozen import drop_paths as drop_paths
    from torchtune.config._frozen import fixed_tree as fixed_tree
    from torchtune.config._frozen import freeze as freeze
    from torchtune.config._frozen import frozen_tree as frozen_tree
    from torchtune.config._frozen import may_change as may_change
    from torchtune.config._frozen import resolved_tree as resolved_tree
    from torchtune.config._interpolation import REQUIRED_NAME as REQUIRED_NAME
    from torchtune.config._interpolation import is_reference as is_reference
    from torchtune.config._interpolation import reference_target as reference_target
    from torchtune.config._interpolation import resolve_tree as resolve_tree
    from torchtune.config._layers import HELPER_PREFIX as HELPER_PREFIX
    from torchtune.config._layers import Layers as Layers
    from torchtune.config._mistakes import Location as Location
    from torchtune.config._mistakes import Path as Path
    from torchtune.config._mistakes import RejectedError as RejectedError
    from torchtune.config._mistakes import did_you_mean as did_you_mean
    from torchtune.config._mistakes import display_path as display_path
    from torchtune.config._mistakes import dotted as dotted
    from torchtune.config._mistakes import nearest as nearest
    from torchtune.config._mistakes import reject as reject
    from torchtune.config._mistakes import unknown_name as unknown_name
    from torchtune.config._schema import Slot as Slot
    from torchtune.config._schema import component_type_of as component_type_of
    from torchtune.config._schema import declared_components as declared_components
    from torchtune.config._schema import mapping_of as mapping_of
    from torchtune.config._schema import section_of as section_of
    from torchtune.config._schema import section_slots as section_slots
    from torchtune.config._schema import slots as slots
    from torchtune.config._schema import type_of_unlisted_name as type_of_unlisted_name
    from torchtune.config._schema import unstructured_default as unstructured_default
    from torchtune.config._signature import MISSING as MISSING
    from torchtune.config._signature import accepts_kwargs as accepts_kwargs
    from torchtune.config._signature import parameters as parameters
    from torchtune.config._signature import parameters_of as parameters_of
    from torchtune.config._signature import result_type as result_type
    from torchtune.config._signature import type_hints as type_hints
    from torchtune.config._signature import unresolved_hints as unresolved_hints
    from torchtune.config._source_lines import position_of as position_of
    from torchtune.config._tree import BROKEN as BROKEN
    from torchtune.config._tree import as_path as as_path
    from torchtune.config._tree import is_component_tree as is_component_tree
    from torchtune.config._tree import is_index as is_index
    from torchtune.config._tree import leaves as leaves
    from torchtune.config._tree import value_at as value_at
    from torchtune.config._trust import TORCHTUNE_PACKAGES as TORCHTUNE_PACKAGES
    from torchtune.config._trust import current_trust as current_trust
    from torchtune.config._trust import is_user_code as is_user_code
    from torchtune.config._trust import trust_folder_of as trust_folder_of
    from torchtune.config._types import SCALARS as SCALARS
    from torchtune.config._types import accepts_null as accepts_null
    from torchtune.config._types import article as article
    from torchtune.config._types import choices as choices
    from torchtune.config._types import describe as describe
    from torchtune.config._types import is_any_type as is_any_type
    from torchtune.config._types import is_collection_type as is_collection_type
    from torchtune.config._types import is_component_type as is_component_type
    from torchtune.config._types import is_path as is_path
    from torchtune.config._types import is_section as is_section
    from torchtune.config._types import is_torch_name as is_torch_name
    from torchtune.config._types import is_union as is_union
    from torchtune.config._types import members as members
    from torchtune.config._types import metavar as metavar
    from torchtune.config._types import passed_in as passed_in
    from torchtune.config._types import reads_text_verbatim as reads_text_verbatim
    from torchtune.config._types import sections_of as sections_of
    from torchtune.config._types import storable as storable
    from torchtune.config._types import strip as strip
    from torchtune.config._types import yaml_repr as yaml_repr
    from torchtune.config._unstructure import unstructure as unstructure
    from torchtune.config._unstructure import unstructure_partially as unstructure_partially
    from torchtune.config._validators import Arguments as Arguments
    from torchtune.config._validators import rules as rules
    from torchtune.config._yaml import BASE_KEY as BASE_KEY
    from torchtune.config._yaml import Document as Document
    from torchtune.config._yaml import inline_yaml as inline_yaml
    from torchtune.config._yaml import parse_yaml as parse_yaml
    from torchtune.config._yaml import read_yaml as read_yaml
    from torchtune.config._yaml import render_yaml as render_yaml
else:
    __getattr__, __dir__ = lazy_exports(__name__)
