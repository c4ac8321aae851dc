"""Convert the original torchtune's tokenizers."""

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
"""Tokenizers with a different name in torchtune."""
_IMAGE_KEYWORDS: Final = ("vision", "clip", "flux", "llava", "multimodal", "cauldron", "vqa")


def no_equivalent(path: str, kind: str) -> str:
    """Return the reason why a model, tokenizer or dataset of the original torchtune has no equivalent.

    Args:
        path: The dotpath of the component.
        kind: The kind of the component: `model`, `tokenizer` or `dataset`.
    """
    if any(word in path for word in _IMAGE_KEYWORDS):
        return f"{path} reads images, but only text is supported"
    return f"{path} has no equivalent; choose a different {kind}"


def import_tokenizer(
    path: str, arguments: Tree, exists: Callable[[str], bool]
) -> tuple[str, PurePosixPath, Tree]:
    """Convert a tokenizer.

    Args:
        path: The dotpath of the original torchtune's builder.
        arguments: The builder's arguments. Arguments that are converted, or need no equivalent, are removed.
        exists: Returns whether a dotpath names a component of torchtune.

    Returns:
        The new component's dotpath, empty without an equivalent; the file that it reads; and the arguments without an
        equivalent, each with the reason.
    """
    new_path = _RENAMED.get(path.rpartition(".")[2], path)
    file = PurePosixPath(str(arguments.pop("path", None) or arguments.pop("vocab_path", None) or ""))
    unmapped: Tree = {}
    for name in ("merges_file", "merges_path"):
        merges = arguments.pop(name, None)
        if merges is not None and PurePosixPath(str(merges)).parent != file.parent:
            unmapped[name] = f"merges are read from the folder of {file.name}"
    if arguments.pop("special_tokens_path", None) is not None:
        unmapped["special_tokens_path"] = "special tokens are read from the tokenizer's folder"
    template = arguments.pop("prompt_template", None)
    if template is not None:
        unmapped["prompt_template"] = (
            f"{template!r} has no equivalent; set chat_template to the path of a Jinja file"
        )
    return (new_path if exists(new_path) else ""), file, unmapped
