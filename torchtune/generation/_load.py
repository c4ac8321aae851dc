"""Load an `Assistant` from a folder."""

import os
from typing import Unpack

import torch

from torchtune.formats import hf_decoder, load_hf_weights, load_peft_adapter
from torchtune.generation._assistant import AnswerOptions, Assistant
from torchtune.generation._prompts import Template
from torchtune.models import check_vocabulary
from torchtune.modules import Hardware, hardware_of
from torchtune.runs import device_type, locate_model
from torchtune.tokenizers import auto_tokenizer

StrPath = str | os.PathLike[str]


def load(  # noqa: PLR0913 -- the arguments are independent
    folder: StrPath,
    *,
    adapter: StrPath | None = None,
    tokenizer: StrPath | None = None,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    template: Template = "auto",
    system: str | None = None,
    **options: Unpack[AnswerOptions],
) -> Assistant:
    """Load a model and its tokenizer from a folder, for use in Python.

    Args:
        folder: A Hugging Face folder, a PEFT folder whose base model can be found, or a run's folder.
        adapter: Folder of a PEFT adapter or of a LoRA run whose base model is `folder`.
        tokenizer: Folder of the tokenizer; None: `folder`.
        device: Device to compute on; `auto` is the first available of cuda, mps and cpu.
        dtype: Dtype of weights, adapters and computation; None: float32 on a CPU, bfloat16 on other devices, or
            float16 on GPUs that do not support bfloat16.
        template: As in `Assistant`.
        system: As in `Assistant`.
        options: Default options of answers; each call may override them.

    Raises:
        FileNotFoundError: The folder or a file in it is missing.
        ValueError: The model is not supported, the run has not written weights yet, or as in `Assistant`.
    """
    folders = locate_model(folder, adapter)
    torch_device = torch.device(device_type(device))
    loaded_tokenizer = auto_tokenizer(str(tokenizer or folder))
    with torch.device("meta"):
        model = hf_decoder(str(folders.base)).requires_grad_(requires_grad=False)
    check_vocabulary(loaded_tokenizer, model)
    dtype = dtype or _default_dtype(hardware_of(torch_device))
    model.to(dtype)
    if torch_device.type != "cpu":  # On a CPU, weights in the file's dtype stay memory-mapped.
        model.to_empty(device=torch_device)
    load_hf_weights(model, folders.base)
    if folders.adapter is not None:
        load_peft_adapter(model, folders.adapter, dtype=dtype)
    return Assistant(model, loaded_tokenizer, template=template, system=system, **options)


def _default_dtype(hardware: Hardware) -> torch.dtype:
    """Return float32 on a CPU, bfloat16 on other devices, and float16 on GPUs that do not support bfloat16."""
    if hardware.is_cpu:
        return torch.float32
    has_bfloat16 = not hardware.is_cuda or hardware.capability >= (8, 0)
    return torch.bfloat16 if has_bfloat16 else torch.float16
