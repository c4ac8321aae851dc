"""The original torchtune's model builders as ours."""

from typing import Final

_HOMES: Final = {
    "llama3_1": "llama3",
    "llama3_2": "llama3",
    "llama3_3": "llama3",
    "gemma2": "gemma",
    "qwen2_5": "qwen2",
}
"""Families of the original's that stand in another's package here."""
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
"""Builders that have another name here."""


def model_places(family: str, name: str) -> list[str]:
    """Return where a builder of the original's may stand here.

    Args:
        family: Its package, such as `torchtune.models.llama3_1`.
        name: Its own name.
    """
    parent, _, package = family.rpartition(".")
    plain = name.removesuffix("_base").removesuffix("_instruct")
    here = f"{parent}.{_HOMES.get(package, package)}"
    return [
        f"{family}.{name}",
        *([_RENAMED[name]] if name in _RENAMED else []),
        f"{here}.{name}",
        f"{here}.{plain}",
    ]
