"""A model out of a folder, ready to be asked."""

import os
from typing import Unpack

import torch

from torchtune.formats import hf_decoder, load_hf_weights, load_peft_adapter
from torchtune.generation._assistant import Assistant, How
from torchtune.generation._prompts import Template
from torchtune.models import check_vocabulary
from torchtune.runs import device_type, locate_model
from torchtune.tokenizers import auto_tokenizer

StrPath = str | os.PathLike[str]


def load(  # noqa: PLR0913 -- each says something else of how a folder is read
    folder: StrPath,
    *,
    adapter: StrPath | None = None,
    tokenizer: StrPath | None = None,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    template: Template = "auto",
    system: str | None = None,
    **how: Unpack[How],
) -> Assistant:
    """Load a model and its tokenizer from a folder, to be asked in Python.

    Args:
        folder: A Hugging Face folder, a PEFT folder beside its base, or a run's folder.
        adapter: A PEFT folder or a LoRA run's, where `folder` is its base.
        tokenizer: Folder of the tokenizer, where that is another one.
        device: What to compute on; `auto` is the first that is there of cuda, mps and cpu.
        dtype: Of weights and computing. None: float32 on a CPU, bfloat16 elsewhere.
        template: As in `Assistant`, like the rest.
        system: What conversations begin with.
        how: How answers are written, unless a call says otherwise.

    Raises:
        FileNotFoundError: the folder or a file in it is missing.
        ValueError: the folder's model is not supported, its run has written no weights yet, or as in `Assistant`.
    """
    found = locate_model(folder, adapter)
    where = torch.device(device_type(device))
    words = auto_tokenizer(str(tokenizer or folder))
    with torch.device("meta"):
        model = hf_decoder(str(found.base)).requires_grad_(requires_grad=False)
    check_vocabulary(words, model)
    model.to(dtype or (torch.float32 if where.type == "cpu" else torch.bfloat16))
    if where.type != "cpu":  # on a CPU, weights of the file's dtype stay in its memory
        model.to_empty(device=where)
    load_hf_weights(model, found.base)
    if found.adapter is not None:
        load_peft_adapter(model, found.adapter)
    return Assistant(model, words, template=template, system=system, **how)
