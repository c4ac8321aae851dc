"""`tune convert`: a checkpoint of another format as a Hugging Face folder."""

import sys
from collections.abc import Sequence

HELP = """\
usage: tune convert <checkpoint> <folder>

Reads a GGUF file of any supported family and writes a Hugging Face folder:
config.json, tokenizer.json, tokenizer_config.json and safetensors in bfloat16.

  tune convert SmolLM2-135M-Instruct.Q4_1.gguf models/SmolLM2-135M-Instruct
"""


def main(argv: Sequence[str]) -> int:
    """Convert a checkpoint."""
    if "-h" in argv or "--help" in argv:
        sys.stdout.write(HELP)
        return 0
    if len(argv) != 2 or any(word.startswith("-") for word in argv):
        sys.stderr.write(f"tune convert takes a checkpoint and a folder\n{HELP}")
        return 2
    from torchtune.models import convert

    source, folder = argv
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(unit="tensor") as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            convert(source, folder, progress=show)
    else:
        convert(source, folder)
    sys.stdout.write(f"wrote {folder}\n")
    return 0
