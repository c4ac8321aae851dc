"""The original torchtune's tokenizers as ours."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, Final

Tree = dict[str, Any]

_RENAMED: Final = {
    "code_llama2_tokenizer": "torchtune.models.llama2.llama2_tokenizer",
    "gemma2_tokenizer": "torchtune.models.gemma.gemma_tokenizer",
    "phi3_mini_tokenizer": "torchtune.models.phi3.phi3_tokenizer",
    "phi4_tokenizer": "torchtune.models.phi3.phi3_tokenizer",
    "qwen2_5_tokenizer": "torchtune.models.qwen2.qwen2_tokenizer",
}
"""Tokenizers that have another name here."""
_OF_IMAGES: Final = ("vision", "clip", "flux", "llava", "multimodal", "cauldron", "vqa")


def why_none(path: str, kind: str) -> str:
    """Say that there is no model, tokenizer or dataset here of the original's name.

    Args:
        path: Its dotpath.
        kind: Which of the three it is.
    """
    if any(word in path for word in _OF_IMAGES):
        return f"{path} reads images, and every {kind} of ours reads text only"
    return f"{path} is no {kind} of ours; name one that is"


def import_tokenizer(
    path: str, given: Tree, exists: Callable[[str], bool]
) -> tuple[str, PurePosixPath, Tree]:
    """Import a tokenizer.

    Args:
        path: The builder's dotpath.
        given: Its arguments; those that are imported, or need not be, are taken out.
        exists: Tells whether a dotpath names a component of ours.

    Returns:
        Our component's dotpath, empty where there is none; the file that it reads; and the arguments that have no
        counterpart, with the reason.
    """
    ours = _RENAMED.get(path.rpartition(".")[2], path)
    file = PurePosixPath(str(given.pop("path", None) or given.pop("vocab_path", None) or ""))
    lost: Tree = {}
    for name in ("merges_file", "merges_path"):
        merges = given.pop(name, None)
        if merges is not None and PurePosixPath(str(merges)).parent != file.parent:
            lost[name] = f"merges are read from the folder of {file.name}"
    if given.pop("special_tokens_path", None) is not None:
        lost["special_tokens_path"] = "special tokens are read from the tokenizer's own folder"
    template = given.pop("prompt_template", None)
    if template is not None:
        lost["prompt_template"] = (
            f"{template!r} has no counterpart; write a Jinja file's path as chat_template"
        )
    return (ours if exists(ours) else ""), file, lost
