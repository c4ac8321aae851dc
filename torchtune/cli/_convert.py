"""`tune convert`: turn a checkpoint into a Hugging Face folder."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torchtune.cli._verb import Argument, Form, Verb
from torchtune.config import ConfigError
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import print_note

BASE = Option(
    "--base",
    "the model that an adapter is for, of any of the other kinds; the one that adapter_config.json names if left out",
    "B",
)
APART = Option("--apart", "keep an adapter apart: write a PEFT folder")
TOKENIZER = Option(
    "--tokenizer",
    "the folder of a tokenizer, or a file of it; if left out the checkpoint's own, which for an adapter is that of its"
    " folder or else its base's",
    "T",
)
DTYPE = Option(
    "--dtype",
    "the weights' type; their own if left out, bfloat16 for GGUF",
    "D",
    choices=("bfloat16", "float16", "float32"),
)

ADD_TOKEN = Option(
    "--add-token",
    "add a special token to the tokenizer, and a row for it to embeddings and output head: the mean of their rows",
    "TOKEN",
    repeats=True,
)
VOCAB_SIZE = Option(
    "--vocab-size", "rows of embeddings and output head, if they are to have more than they need", "N"
)

_GGUF = (
    "llama.cpp makes it of a folder: tune convert {source} {folder}; python convert_hf_to_gguf.py {folder}"
    " --outfile {target}"
)
_FOLDER = (
    "tune convert {source} {folder} writes {folder}/model.safetensors, with config.json and the tokenizer"
)
_ENDINGS = {
    ".gguf": _GGUF,
    ".ggml": _GGUF,
    **dict.fromkeys((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl"), _FOLDER),
    ".onnx": "tune convert {source} {folder} writes a folder, which Optimum exports (optimum-cli export onnx)",
}
"""Endings of files that are not written, each with the way to what is meant."""


def run(call: Call) -> int:
    """Convert a checkpoint."""
    import torch

    from torchtune.formats import convert

    source, folder = call.arguments
    _check_target(source, folder)
    dtype = call.value(DTYPE)
    with _progress() as show:
        merge = convert(
            source,
            folder,
            base=call.value(BASE),
            apart=call.has(APART),
            tokenizer=call.value(TOKENIZER),
            dtype=None if dtype is None else getattr(torch, dtype),
            add_tokens=call.values(ADD_TOKEN),
            vocab_size=call.number(VOCAB_SIZE),
            progress=show,
        )
    base = merge and merge.base
    sys.stdout.write(
        f"wrote {folder}" + (f", {source} merged into {base}\n{merge.change}\n" if merge else "\n")
    )
    files = ("tokenizer.json", "tokenizer.model", "adapter_config.json")
    if not any(Path(folder, name).is_file() for name in files):
        print_note(f"{base or source} has no tokenizer, so {folder} has none; --tokenizer adds one")
    return 0


def _check_target(source: str, target: str) -> None:
    """Check that what is to be written is a folder's name.

    Raises:
        ConfigError: It is that of a file, which is not written.
    """
    ending = Path(target).suffix.lower()
    folder = str(Path(target).with_suffix("")) if ending in _ENDINGS else ""
    if folder and not Path(target).is_dir():
        how = _ENDINGS[ending].format(source=source, folder=folder, target=target)
        raise ConfigError.of_word(target, "a folder is written, and no such file", how)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Give what draws a bar of tensors on a terminal."""
    from tqdm import tqdm

    # Elsewhere tqdm draws nothing; with a delay, nothing before the first tensor either.
    with tqdm(unit="tensor", disable=None, delay=1e-3) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


VERB = Verb(
    "convert",
    run,
    forms=(
        Form(
            (Argument("<checkpoint>"), Argument("<folder>")),
            (BASE, APART, TOKENIZER, DTYPE, ADD_TOKEN, VOCAB_SIZE),
        ),
    ),
    takes="a checkpoint and a folder",
    about="""\
Writes a Hugging Face folder (config.json, the tokenizer, safetensors) of

  a GGUF file of any supported family,
  a folder of Meta's: params.json and consolidated.00.pth, with .01 and so on,
  a Hugging Face folder, whose pickles become safetensors, or
  a PEFT folder: the adapter is merged into its base.""",
    examples=(
        "tune convert SmolLM2-135M-Instruct.Q4_1.gguf models/SmolLM2-135M-Instruct",
        "tune convert llama/llama-2-7b models/Llama-2-7b --tokenizer llama/tokenizer.model",
        "tune convert runs/smollm2_135m_lora/final models/mine",
        "tune convert models/mine models/mine-float16 --dtype float16",
        "tune convert models/mine models/more --add-token '<|im_start|>' --add-token '<|im_end|>'",
    ),
)
