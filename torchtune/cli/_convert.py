"""`tune convert`: convert a checkpoint to a Hugging Face folder."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torchtune.cli._command import Argument, Command, Form
from torchtune.config import ConfigError
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import print_note

BASE = Option(
    "--base",
    "base model of an adapter, in any of the formats above except PEFT (default: the model in adapter_config.json)",
    "MODEL",
)
KEEP_ADAPTER = Option("--keep-adapter", "write a PEFT folder instead of merging the adapter")
TOKENIZER = Option(
    "--tokenizer",
    "folder or file of a tokenizer (default: the checkpoint's tokenizer; for an adapter, the tokenizer in its folder"
    " or else the tokenizer of its base model)",
    "PATH",
)
DTYPE = Option(
    "--dtype",
    "data type of the weights (default: unchanged; bfloat16 for GGUF)",
    "D",
    choices=("bfloat16", "float16", "float32"),
)
ADD_TOKEN = Option(
    "--add-token",
    "add a special token to the tokenizer; its rows in the embeddings and the output head are the mean of the other"
    " rows",
    "TOKEN",
    repeats=True,
)
VOCAB_SIZE = Option("--vocab-size", "pad the embeddings and the output head to this number of rows", "N")

_GGUF = (
    "llama.cpp converts a folder to GGUF: tune convert {source} {folder}; python convert_hf_to_gguf.py {folder}"
    " --outfile {target}"
)
_FOLDER = (
    "tune convert {source} {folder} writes {folder}/model.safetensors, with config.json and the tokenizer"
)
_UNWRITABLE_EXTENSIONS = {
    ".gguf": _GGUF,
    ".ggml": _GGUF,
    **dict.fromkeys((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl"), _FOLDER),
    ".onnx": "tune convert {source} {folder} writes a folder that Optimum can export (optimum-cli export onnx)",
}
"""Extensions of files that `tune convert` cannot write, each with the commands to run instead."""


def run(call: Call) -> int:
    """Convert a checkpoint."""
    import torch

    from torchtune.formats import convert

    source, folder = call.arguments
    _check_target(source, folder)
    dtype = call.value(DTYPE)
    with _progress_bar() as update:
        merge = convert(
            source,
            folder,
            base=call.value(BASE),
            keep_adapter=call.has(KEEP_ADAPTER),
            tokenizer=call.value(TOKENIZER),
            dtype=None if dtype is None else getattr(torch, dtype),
            add_tokens=call.values(ADD_TOKEN),
            vocab_size=call.number(VOCAB_SIZE),
            progress=update,
        )
    base = merge and merge.base
    sys.stdout.write(
        f"wrote {folder}" + (f", with {source} merged into {base}\n{merge.change}\n" if merge else "\n")
    )
    files = ("tokenizer.json", "tokenizer.model", "adapter_config.json")
    if not any(Path(folder, name).is_file() for name in files):
        print_note(f"{folder} has no tokenizer, because {base or source} has none; add one with --tokenizer")
    return 0


def _check_target(source: str, target: str) -> None:
    """Check that the target is a folder name, not a file name.

    Raises:
        ConfigError: The target has the extension of a file.
    """
    extension = Path(target).suffix.lower()
    folder = str(Path(target).with_suffix("")) if extension in _UNWRITABLE_EXTENSIONS else ""
    if folder and not Path(target).is_dir():
        advice = _UNWRITABLE_EXTENSIONS[extension].format(source=source, folder=folder, target=target)
        raise ConfigError.of_argument(target, "tune convert writes a folder, not a file", advice)


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal, and yield the function that updates it with the number of tensors."""
    from tqdm import tqdm

    # `disable=None` hides the bar outside a terminal; the delay hides it until the first tensor.
    with tqdm(unit="tensor", disable=None, delay=1e-3) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


COMMAND = Command(
    "convert",
    run,
    forms=(
        Form(
            (Argument("<checkpoint>"), Argument("<folder>")),
            (BASE, KEEP_ADAPTER, TOKENIZER, DTYPE, ADD_TOKEN, VOCAB_SIZE),
        ),
    ),
    expects="a checkpoint and a folder",
    description="""\
Writes a Hugging Face folder: config.json, tokenizer files and safetensors. The
checkpoint can be

- a GGUF file of any supported model family,
- a folder in Meta's format, with params.json and consolidated.*.pth,
- a Hugging Face folder; pickled weights are converted to safetensors,
- a PEFT folder; the adapter is merged into its base model.""",
    examples=(
        "tune convert SmolLM2-135M-Instruct.Q4_1.gguf models/SmolLM2-135M-Instruct",
        "tune convert llama/llama-2-7b models/Llama-2-7b --tokenizer llama/tokenizer.model",
        "tune convert runs/smollm2_135m_lora/final models/mine",
        "tune convert models/mine models/mine-float16 --dtype float16",
        "tune convert models/mine models/more --add-token '<|im_start|>' --add-token '<|im_end|>'",
    ),
)
