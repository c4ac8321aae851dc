"""YAML of axolotl, LLaMA-Factory and TRL: what each of its keys is here."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from torchtune._hints import hint_for

_OF_LLAMA_FACTORY: Final = {"stage", "finetuning_type", "template", "cutoff_len", "dataset_dir"}
_METHOD_KEYS: Final = ("stage", "rl")
_SUPERVISED: Final = ("sft", "pt")
_NEEDLESS: Final = {
    "attention": "the kernel of attention follows from the device",
    "attn_implementation": "the kernel of attention follows from the device",
    "flash_attention": "the kernel of attention follows from the device",
    "flash_attn": "the kernel of attention follows from the device",
    "sdp_attention": "the kernel of attention follows from the device",
    "xformers_attention": "the kernel of attention follows from the device",
    "do_train": "a recipe of fine-tuning trains",
    "low_cpu_mem_usage": "weights are read tensor by tensor",
    "overwrite_cache": "token_cache is never out of date",
    "pad_to_sequence_len": "rows of a batch are filled up to the longest",
    "plot_loss": "tune plot draws any run",
    "special_tokens": "special tokens are those of the tokenizer's folder",
    "strict": "every unknown key is a mistake",
    "tokenizer_use_fast": "the tokenizer is read from its files",
    "trust_remote_code": "no code comes with a model",
    "use_fast_tokenizer": "the tokenizer is read from its files",
}
_WHOLE_BATCH: Final = (
    "counts the rows of all ranks and accumulated batches there; write batch_size, the rows of one"
)


def project_of(tree: Mapping[str, Any]) -> str | None:
    """Return the project that a YAML was written for, if it is one of the three."""
    if "base_model" in tree:
        return "axolotl"
    if "model_name_or_path" in tree:
        return "LLaMA-Factory" if tree.keys() & _OF_LLAMA_FACTORY else "TRL"
    return None


def explain_keys(tree: Mapping[str, Any], known_fields: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each key that is set, with what to write for it here.

    Args:
        tree: The YAML.
        known_fields: The fields of our recipe.
    """
    for key, value in tree.items():
        if value not in (None, False, [], {}):
            yield key, _explained(key, value, known_fields)


def _explained(key: str, value: Any, known_fields: Collection[str]) -> str:
    if key in _METHOD_KEYS:
        is_ours = value in _SUPERVISED
        return "is what the recipes do" if is_ours else f"{value} is not done by any recipe of ours"
    if key == "batch_size":
        return _WHOLE_BATCH
    if key in _NEEDLESS:
        return f"is not needed: {_NEEDLESS[key]}"
    same = "is the same here" if key in known_fields else "has no counterpart"
    return hint_for(key, known_fields) or same
