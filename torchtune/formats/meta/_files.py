"""The files of Meta's own checkpoints: every GPU's part of a model.

A model that ran on several GPUs lies in as many files, `consolidated.00.pth` and on, each with its part of every matrix
(arXiv 1909.08053, section 3): some rows of those whose results stay apart, some columns of those whose results are
added, and the norms whole. Which is which stands in `Transformer` of `llama/model.py` in
https://github.com/meta-llama/llama and of `models/llama3/model.py` in https://github.com/meta-llama/llama-models.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from attrs import define, field
from torch import Tensor

from torchtune.formats._tensor_files import TensorSource, one_file
from torchtune.formats.meta._params import MetaParams

EMBEDDINGS, HEAD = "tok_embeddings.weight", "output.weight"

_ROPE = "rope.freqs"
"""A table in Llama 2's files that follows from params.json."""
_KEYS_AND_VALUES = ("attention.wk.weight", "attention.wv.weight")
_BY_ROWS = (
    "attention.wq.weight",
    *_KEYS_AND_VALUES,
    "feed_forward.w1.weight",
    "feed_forward.w3.weight",
    HEAD,
)
_BY_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight")
_QUERIES = "layers.0.attention.wq.weight"


@define
class MetaFiles:
    """The tensors of Meta's files under Meta's names, put together when they are read.

    Args:
        folder: Holds `consolidated.00.pth` and on.
        params: The folder's params.json.

    Raises:
        FileNotFoundError: there are none, or one is missing.
        ValueError: one is damaged, holds more than tensors, or does not go with the others.
    """

    folder: Path
    params: MetaParams
    shapes: dict[str, list[int]] = field(init=False, factory=dict)
    dtypes: Mapping[str, torch.dtype] = field(init=False)
    _files: dict[Path, TensorSource] = field(init=False)
    """In the order of the GPUs."""

    def __attrs_post_init__(self) -> None:
        self._files = {path: one_file(path) for path in _find(self.folder)}
        self._check_number()
        first, *_ = self._files.values()
        self.dtypes = first.dtypes
        for name in dict.fromkeys(name for file in self._files.values() for name in file.shapes):
            if name != _ROPE:
                self.shapes[name] = self._whole_shape(name)
        if EMBEDDINGS not in self.shapes:
            raise ValueError(f"no file of {self.folder} holds {EMBEDDINGS}; fetch them again")

    def read(self, name: str) -> Tensor:
        """Read one tensor, whole; backed by its file where there is one alone."""
        dim = self._split(name)
        parts = [file.read(name) for file in self._files.values()]
        if dim is None or len(parts) == 1:
            return parts[0]
        n_same = self._n_same(name)
        for i, path in enumerate(self._files):
            if not torch.equal(parts[i], parts[i - i % n_same]):
                raise ValueError(
                    f"{name} of {path} is not that of the file before it, though {len(parts)} files share"
                    f" {self.params.n_kv_heads} key-value heads; fetch it again"
                )
        return torch.cat(parts[::n_same], dim)

    def is_tied(self) -> bool:
        """Tell whether the output head is the embedding table, number by number."""
        if self.shapes.get(HEAD) != self.shapes[EMBEDDINGS]:
            return False
        return torch.equal(self.read(HEAD), self.read(EMBEDDINGS))

    def _check_number(self) -> None:
        """Compare the number of files with the part of a matrix that the first one holds."""
        (path, first), *_ = self._files.items()
        n = len(self._files)
        rows = _rows(first, _QUERIES)
        if not rows or self.params.dim % rows:
            return  # is named with all that is missing or misshapen
        expected = self.params.dim // rows
        if expected > n:
            raise FileNotFoundError(
                f"no {_name(n)} in {self.folder}: {path.name} holds one of {expected} parts of {_QUERIES}, and of"
                f" {expected} files {n} are there; fetch the rest"
            )
        if expected < n:
            raise ValueError(
                f"{self.folder} has {n} files, but {path.name} holds one of {expected} parts of {_QUERIES};"
                " they are of different models"
            )

    def _whole_shape(self, name: str) -> list[int]:
        """Return the shape of a tensor once its parts are put together."""
        (path, first), *others = self._files.items()
        dim = self._split(name)
        for other, file in others:
            if name not in file.shapes or name not in first.shapes:
                lacking = path if name not in first.shapes else other
                raise ValueError(f"{lacking} is without {name}, which files beside it hold; fetch it again")
            if file.shapes[name] != first.shapes[name]:
                raise ValueError(
                    f"{name} is {file.shapes[name]} in {other} and {first.shapes[name]} in {path.name}; they are of"
                    " different models"
                )
        shape = list(first.shapes[name])
        if dim is not None and dim < len(shape):
            shape[dim] *= len(self._files) // self._n_same(name)
        return shape

    def _split(self, name: str) -> int | None:
        """Return the dimension along which a tensor is cut; None: every file has it whole."""
        if name == EMBEDDINGS:
            return self._split_of_embeddings()
        if name.endswith(_BY_ROWS):
            return 0
        return 1 if name.endswith(_BY_COLUMNS) else None

    def _split_of_embeddings(self) -> int:
        """Tell Llama 3, which cuts the vocabulary, from Llama 2, which cuts the width."""
        path, file = next(iter(self._files.items()))
        shape = file.shapes.get(EMBEDDINGS, [])
        dim = self.params.dim
        if shape[1:] == [dim]:
            return 0
        if len(shape) == 2 and shape[1] * len(self._files) == dim:
            return 1
        raise ValueError(
            f"{EMBEDDINGS} is {shape} in {path}: {dim} columns were expected, or a {len(self._files)}th of them; the"
            " params.json beside it is another model's"
        )

    def _n_same(self, name: str) -> int:
        """Return how many files in a row hold the same: several where there are more of them than key-value heads."""
        if not name.endswith(_KEYS_AND_VALUES):
            return 1
        first, *_ = self._files.values()
        rows = _rows(first, name) * len(self._files)
        n_same, rest = divmod(rows, self.params.n_kv_heads * self.params.head_dim)
        return n_same if n_same and not rest and len(self._files) % n_same == 0 else 1


def _rows(file: TensorSource, name: str) -> int:
    return (file.shapes.get(name) or [0])[0]


def has_meta_files(folder: Path) -> bool:
    """Tell whether a folder holds files of weights of Meta's."""
    return bool(_numbered(folder))


def _numbered(folder: Path) -> dict[int, Path]:
    found = {path: re.fullmatch(r"consolidated\.(\d+)\.pth", path.name) for path in folder.iterdir()}
    return {int(match[1]): path for path, match in found.items() if match}


def _find(folder: Path) -> list[Path]:
    """Return the files in the order of their numbers, of which none may be missing."""
    found = _numbered(folder)
    for i in range(max(len(found), 1)):
        if i not in found:
            raise FileNotFoundError(f"no {_name(i)} in {folder}; fetch it")
    return [found[i] for i in sorted(found)]


def _name(i: int) -> str:
    return f"consolidated.{i:02}.pth"
