"""`tune convert`: a checkpoint of another format as a Hugging Face folder."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from attrs import define, field

from torchtune.cli._style import paint
from torchtune.config import ConfigError, Mistake

HELP = """\
usage: tune convert <checkpoint> <folder> [--base B] [--apart] [--tokenizer T]
                    [--dtype bfloat16|float16|float32]

Writes a Hugging Face folder (config.json, the tokenizer, safetensors) of

  a GGUF file of any supported family,
  a folder of Meta's: params.json and consolidated.00.pth, with .01 and so on,
  a Hugging Face folder, whose pickles become safetensors, or
  a PEFT folder: the adapter is merged into its base.

  --base B       the model that an adapter is for, of any of the other kinds;
                 the one that adapter_config.json names if left out
  --apart        keep an adapter apart: write a PEFT folder
  --tokenizer T  the folder of a tokenizer, or a file of it; if left out the
                 checkpoint's own, which for an adapter is that of its folder
                 or else its base's
  --dtype D      the weights' type; their own if left out, bfloat16 for GGUF

  tune convert SmolLM2-135M-Instruct.Q4_1.gguf models/SmolLM2-135M-Instruct
  tune convert llama/llama-2-7b models/Llama-2-7b --tokenizer llama/tokenizer.model
  tune convert runs/smollm2_135m_lora/final models/mine
  tune convert models/mine models/mine-float16 --dtype float16
"""

VALUED = ("--base", "--tokenizer", "--dtype")
DTYPES = ("bfloat16", "float16", "float32")


@define
class Order:
    """What one call asks for."""

    paths: list[str] = field(factory=list)
    options: dict[str, str] = field(factory=dict)
    """By their names with dashes; empty text for a switch."""


def main(argv: Sequence[str]) -> int:
    """Convert a checkpoint."""
    if "-h" in argv or "--help" in argv:
        sys.stdout.write(HELP)
        return 0
    order = read(argv)
    if len(order.paths) != 2:
        sys.stderr.write(f"tune convert takes a checkpoint and a folder\n{HELP}")
        return 2
    import torch

    from torchtune.formats import convert

    source, folder = order.paths
    dtype = order.options.get("--dtype")
    with _progress() as show:
        base = convert(
            source,
            folder,
            base=order.options.get("--base"),
            apart="--apart" in order.options,
            tokenizer=order.options.get("--tokenizer"),
            dtype=None if dtype is None else getattr(torch, dtype),
            progress=show,
        )
    sys.stdout.write(f"wrote {folder}" + (f", {source} merged into {base}\n" if base else "\n"))
    if not any(
        Path(folder, name).is_file() for name in ("tokenizer.json", "tokenizer.model", "adapter_config.json")
    ):
        note = paint("note:", "yellow", stream=sys.stderr)
        sys.stderr.write(
            f"{note} {base or source} has no tokenizer, so {folder} has none; --tokenizer adds one\n"
        )
    return 0


def read(argv: Sequence[str]) -> Order:
    """Read the words behind the verb.

    Raises:
        ConfigError: There are words that mean nothing, options without a value, or options given twice.
    """
    order = Order()
    mistakes = []
    words = list(argv)
    while words:
        name, equals, text = words.pop(0).partition("=")
        if not name.startswith("-"):
            order.paths.append(f"{name}{equals}{text}")
            continue
        if name in VALUED and not equals:
            text = "" if not words or words[0].startswith("-") else words.pop(0)
        if name not in (*VALUED, "--apart") or (name == "--apart" and equals):
            advice = "tune convert --help lists the options"
            mistakes.append(Mistake.of_word(f"{name}{equals}{text}", "is not understood", advice))
        elif name in order.options:
            mistakes.append(Mistake.of_word(name, "is given twice"))
        elif name in VALUED and not text:
            mistakes.append(Mistake.of_word(name, "needs a value"))
        elif name == "--dtype" and text not in DTYPES:
            mistakes.append(Mistake.of_word(name, f"is {text!r}", f"{', '.join(DTYPES)} are possible"))
        order.options[name] = text
    if mistakes:
        raise ConfigError(mistakes, "the command line")
    return order


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Give what draws a bar of tensors on a terminal; nothing where there is none."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    bar: tqdm[NoReturn] | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, unit="tensor")
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
