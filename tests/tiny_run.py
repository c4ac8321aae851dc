"""A tiny model with random weights and a few rows, which replace the demo's model and rows in command-line runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.formats.tiny_gguf import write_gguf
from torchtune.formats import architecture_from_hf

ROWS = [
    {"instruction": f"What is the number {i} called?", "input": "", "output": f"It is called number {i}."}
    for i in range(12)
]

DIMENSIONS = (
    "vocab_size",
    "num_layers",
    "embed_dim",
    "num_heads",
    "num_kv_heads",
    "ffn_dim",
    "max_seq_len",
    "rope_base",
)


class Tiny(NamedTuple):
    """A folder that contains a tiny model and rows."""

    folder: Path
    overrides: list[str]
    """Overrides that replace the model with the tiny one."""

    @property
    def rows(self) -> list[str]:
        """Overrides that replace the demo's rows with the tiny ones."""
        return [f"{name}.source={self.folder / 'rows.json'}" for name in ("dataset", "validation.dataset")]


def tiny_run(folder: Path, tune: Callable[..., int]) -> Tiny:
    """Write rows and a tiny model that `tune convert` converts from a GGUF file.

    Args:
        folder: The output folder.
        tune: A function that calls `tune` with its arguments and returns the exit status.
    """
    gguf = write_gguf(folder / "tiny.gguf")
    assert tune("convert", str(gguf), str(folder / "model")) == 0
    (folder / "rows.json").write_text(json.dumps(ROWS))
    a = architecture_from_hf(json.loads((folder / "model/config.json").read_text()))
    overrides = ["model=torchtune.models.smollm2.smollm2", *(f"model.{d}={a.flat()[d]}" for d in DIMENSIONS)]
    overrides += [
        f"model.tied_embeddings={str(a.tied_embeddings).lower()}",
        f"model_directory={folder / 'model'}",
    ]
    return Tiny(folder, overrides)
