"""Explain the keys of axolotl, LLaMA-Factory and TRL configs."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from torchtune._hints import hint_for

_LLAMA_FACTORY_KEYS: Final = {"stage", "finetuning_type", "template", "cutoff_len", "dataset_dir"}
_METHOD_KEYS: Final = ("stage", "rl")
_SUPERVISED: Final = ("sft", "pt")
_UNNEEDED: Final = {
    "attention": "the device determines the attention kernel",
    "attn_implementation": "the device determines the attention kernel",
    "flash_attention": "the device determines the attention kernel",
    "flash_attn": "the device determines the attention kernel",
    "sdp_attention": "the device determines the attention kernel",
    "xformers_attention": "the device determines the attention kernel",
    "do_train": "fine-tuning recipes always train",
    "low_cpu_mem_usage": "weights are always read one tensor at a time",
    "overwrite_cache": "token_cache is never out of date",
    "pad_to_sequence_len": "examples are padded to the longest example of their batch",
    "plot_loss": "tune plot plots any run",
    "special_tokens": "special tokens are read from the tokenizer's folder",
    "strict": "unknown keys are always reported as mistakes",
    "tokenizer_use_fast": "the tokenizer is read from its files",
    "trust_remote_code": "model folders cannot contain code",
    "use_fast_tokenizer": "the tokenizer is read from its files",
}
_GLOBAL_BATCH: Final = (
    "this value includes all ranks and accumulated micro-batches; in torchtune, set batch_size to the number of"
    " rows in one micro-batch"
)


def project_of(tree: Mapping[str, Any]) -> str | None:
    """Return the project that a YAML config belongs to; None for any other project."""
    if "base_model" in tree:
        return "axolotl"
    if "model_name_or_path" in tree:
        return "LLaMA-Factory" if tree.keys() & _LLAMA_FACTORY_KEYS else "TRL"
    return None


def explain_keys(tree: Mapping[str, Any], known_fields: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each key that is set, with its equivalent in torchtune.

    Args:
        tree: The config of the other project.
        known_fields: The fields of the recipe.
    """
    for key, value in tree.items():
        if value not in (None, False, [], {}):
            yield key, _explained(key, value, known_fields)


def _explained(key: str, value: Any, known_fields: Collection[str]) -> str:
    if key in _METHOD_KEYS:
        is_supported = value in _SUPERVISED
        return "supported by the fine-tuning recipes" if is_supported else f"no recipe supports {value}"
    if key == "batch_size":
        return _GLOBAL_BATCH
    if key in _UNNEEDED:
        return f"not needed: {_UNNEEDED[key]}"
    fallback = "same name in torchtune" if key in known_fields else "no equivalent"
    return hint_for(key, known_fields) or fallback
