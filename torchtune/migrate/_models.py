"""Map the original torchtune's model builders to torchtune's model builders."""

from typing import Final

_PACKAGES: Final = {
    "llama3_1": "llama3",
    "llama3_2": "llama3",
    "llama3_3": "llama3",
    "gemma2": "gemma",
    "qwen2_5": "qwen2",
}
"""Model families of the original torchtune whose builders are in a different package of torchtune."""
_RENAMED: Final = {
    "code_llama2_7b": "torchtune.models.llama2.code_llama_7b",
    "phi3_mini": "torchtune.models.phi3.phi3_mini_4k",
    "phi4_14b": "torchtune.models.phi3.phi4",
    "qwen2_5_0_5b": "torchtune.models.qwen2.qwen2_0_5b",
    "qwen2_5_1_5b_base": "torchtune.models.qwen2.qwen2_1_5b",
    "qwen2_5_1_5b_instruct": "torchtune.models.qwen2.qwen2_1_5b",
    "qwen2_5_7b_base": "torchtune.models.qwen2.qwen2_7b",
    "qwen2_5_7b_instruct": "torchtune.models.qwen2.qwen2_7b",
}
"""Builders with a different name in torchtune."""


def candidate_models(family: str, name: str) -> list[str]:
    """Return the possible dotpaths of a builder's equivalent, most likely first.

    Args:
        family: The package of the original torchtune's builder, such as `torchtune.models.llama3_1`.
        name: The name of the original torchtune's builder.
    """
    parent, _, package = family.rpartition(".")
    base_name = name.removesuffix("_base").removesuffix("_instruct")
    package_path = f"{parent}.{_PACKAGES.get(package, package)}"
    return [
        f"{family}.{name}",
        *([_RENAMED[name]] if name in _RENAMED else []),
        f"{package_path}.{name}",
        f"{package_path}.{base_name}",
    ]
