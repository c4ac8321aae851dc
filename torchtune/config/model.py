"""The data model of configs, which `torchtune.runs` and the command line build on.

Trees and their layers, mistakes, types and signatures, YAML, trust in dotpaths.
"""

from typing import TYPE_CHECKING

from torchtune._lazy import lazy_exports

if TYPE_CHECKING:
    from torchtune.config._classes import REQUIRED, field_names, fields, refused_by_converter, required_names
    from torchtune.config._component import COMPONENT_KEY, bound_keywords, is_component, written_at
    from torchtune.config._diff import ABSENT, Difference, differences
    from torchtune.config._dotpath import is_component_path
    from torchtune.config._frozen import fixed_tree, freeze, frozen_tree, may_change, resolved_tree
    from torchtune.config._interpolation import is_reference
    from torchtune.config._json_schema import json_schema
    from torchtune.config._layers import Layers, Origin, line_of
    from torchtune.config._mistakes import Path, Problem, RejectedError, did_you_mean, dotted, nearest
    from torchtune.config._schema import (
        Slot,
        component_type_of,
        mapping_of,
        section_of,
        slots,
        type_of_unlisted,
        unstructured_default,
    )
    from torchtune.config._signature import MISSING, parameters, parameters_of, result_type, unresolved
    from torchtune.config._source_lines import position_of, shown_path
    from torchtune.config._tree import BROKEN, as_path, at, is_component_tree, is_index, leaves
    from torchtune.config._trust import OWN_PACKAGES, current_trust, trust_folder_of
    from torchtune.config._types import (
        article,
        choices,
        describe,
        is_anything,
        is_collection_type,
        is_section,
        members,
        sections_of,
        strip,
        takes_none,
        takes_text,
        yaml_repr,
    )
    from torchtune.config._unstructure import unstructure, unstructure_what_can_be
    from torchtune.config._yaml import BASE_KEY, Document, inline_yaml, parse_yaml, read_yaml, render_yaml

__all__ = [
    "ABSENT",
    "BASE_KEY",
    "BROKEN",
    "COMPONENT_KEY",
    "MISSING",
    "OWN_PACKAGES",
    "REQUIRED",
    "Difference",
    "Document",
    "Layers",
    "Origin",
    "Path",
    "Problem",
    "RejectedError",
    "Slot",
    "article",
    "as_path",
    "at",
    "bound_keywords",
    "choices",
    "component_type_of",
    "current_trust",
    "describe",
    "did_you_mean",
    "differences",
    "dotted",
    "field_names",
    "fields",
    "fixed_tree",
    "freeze",
    "frozen_tree",
    "inline_yaml",
    "is_anything",
    "is_collection_type",
    "is_component",
    "is_component_path",
    "is_component_tree",
    "is_index",
    "is_reference",
    "is_section",
    "json_schema",
    "leaves",
    "line_of",
    "mapping_of",
    "may_change",
    "members",
    "nearest",
    "parameters",
    "parameters_of",
    "parse_yaml",
    "position_of",
    "read_yaml",
    "refused_by_converter",
    "render_yaml",
    "required_names",
    "resolved_tree",
    "result_type",
    "section_of",
    "sections_of",
    "shown_path",
    "slots",
    "strip",
    "takes_none",
    "takes_text",
    "trust_folder_of",
    "type_of_unlisted",
    "unresolved",
    "unstructure",
    "unstructure_what_can_be",
    "unstructured_default",
    "written_at",
    "yaml_repr",
]

__getattr__ = lazy_exports(__name__)


def __dir__() -> list[str]:
    return sorted(__all__)
