"""The weight files of Meta's checkpoints, one for each GPU.

A model for multiple GPUs is split into one file per GPU, `consolidated.00.pth` and so on, by tensor parallelism (arXiv
1909.08053, section 3): each file has some rows of column-parallel layers, some columns of row-parallel layers, and all
of the norms. The split of each matrix is defined in `Transformer` of `llama/model.py` in
https://github.com/meta-llama/llama and of `models/llama3/model.py` in https://github.com/meta-llama/llama-models.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from attrs import define, field
from torch import Tensor

from torchtune.formats._tensor_files import TensorSource, file_tensors
from torchtune.formats.meta._params import MetaParams

EMBEDDINGS, HEAD = "tok_embeddings.weight", "output.weight"

_ROPE = "rope.freqs"
"""A table in the files of Llama 2, which can be computed from params.json."""
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
    """The tensors of Meta's files under Meta's names; the parts of a tensor are joined when it is read.

    Args:
        folder: Contains `consolidated.00.pth` and so on.
        params: The folder's params.json.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, contains objects other than tensors, or does not match the other files.
    """

    folder: Path
    params: MetaParams
    shapes: dict[str, list[int]] = field(init=False, factory=dict)
    dtypes: Mapping[str, torch.dtype] = field(init=False)
    _files: dict[Path, TensorSource] = field(init=False)
    """The files, in the order of the GPUs."""

    def __attrs_post_init__(self) -> None:
        self._files = {path: file_tensors(path) for path in _weight_files(self.folder)}
        self._check_file_count()
        first, *_ = self._files.values()
        self.dtypes = first.dtypes
        for name in dict.fromkeys(name for file in self._files.values() for name in file.shapes):
            if name != _ROPE:
                self.shapes[name] = self._joined_shape(name)
        if EMBEDDINGS not in self.shapes:
            raise ValueError(f"no file in {self.folder} contains {EMBEDDINGS}; download the checkpoint again")

    def read(self, name: str) -> Tensor:
        """Read one tensor and join its parts; the tensor of a single file is memory-mapped."""
        dim = self._split_dim(name)
        parts = [file.read(name) for file in self._files.values()]
        if dim is None or len(parts) == 1:
            return parts[0]
        n_copies = self._n_copies(name)
        for i, path in enumerate(self._files):
            if not torch.equal(parts[i], parts[i - i % n_copies]):
                raise ValueError(
                    f"{name} in {path} differs from the previous file; expected equal copies, since {len(parts)} files"
                    f" share {self.params.n_kv_heads} key-value heads; download it again"
                )
        return torch.cat(parts[::n_copies], dim)

    def is_tied(self) -> bool:
        """Return whether the output head equals the embedding table."""
        if self.shapes.get(HEAD) != self.shapes[EMBEDDINGS]:
            return False
        return torch.equal(self.read(HEAD), self.read(EMBEDDINGS))

    def _check_file_count(self) -> None:
        """Compare the number of files with the fraction of a matrix in the first file."""
        (path, first), *_ = self._files.items()
        n = len(self._files)
        rows = _rows(first, _QUERIES)
        if not rows or self.params.dim % rows:
            return  # reported later, with all missing and wrongly shaped tensors
        expected = self.params.dim // rows
        if expected > n:
            raise FileNotFoundError(
                f"no {_file_name(n)} in {self.folder}: the shape of {_QUERIES} shows that {path.name} is 1 of"
                f" {expected} files, but the folder has {n}; download the missing files"
            )
        if expected < n:
            raise ValueError(
                f"{self.folder} has {n} files, but the shape of {_QUERIES} shows that {path.name} is 1 of {expected};"
                " the files belong to different models"
            )

    def _joined_shape(self, name: str) -> list[int]:
        """Return the shape of a tensor after its parts are joined."""
        (path, first), *others = self._files.items()
        dim = self._split_dim(name)
        for other, file in others:
            if name not in file.shapes or name not in first.shapes:
                incomplete = path if name not in first.shapes else other
                raise ValueError(
                    f"{incomplete} has no {name}, which the other files contain; download it again"
                )
            if file.shapes[name] != first.shapes[name]:
                raise ValueError(
                    f"{name} has shape {file.shapes[name]} in {other} and {first.shapes[name]} in {path.name}; the"
                    " files belong to different models"
                )
        shape = list(first.shapes[name])
        if dim is not None and dim < len(shape):
            shape[dim] *= len(self._files) // self._n_copies(name)
        return shape

    def _split_dim(self, name: str) -> int | None:
        """Return the dimension along which a tensor is split; None if every file contains the whole tensor."""
        if name == EMBEDDINGS:
            return self._embedding_split_dim()
        if name.endswith(_BY_ROWS):
            return 0
        return 1 if name.endswith(_BY_COLUMNS) else None

    def _embedding_split_dim(self) -> int:
        """Return the dimension along which embeddings are split: 0 (vocabulary) in Llama 3, 1 (width) in Llama 2."""
        path, file = next(iter(self._files.items()))
        shape = file.shapes.get(EMBEDDINGS, [])
        dim = self.params.dim
        if shape[1:] == [dim]:
            return 0
        if len(shape) == 2 and shape[1] * len(self._files) == dim:
            return 1
        raise ValueError(
            f"{EMBEDDINGS} has shape {shape} in {path}; expected {dim} columns, or"
            f" {dim / len(self._files):g} if the columns are sharded over {len(self._files)} files;"
            " params.json belongs to a different model"
        )

    def _n_copies(self, name: str) -> int:
        """Return the number of consecutive files with equal copies: above 1 if files outnumber key-value heads."""
        if not name.endswith(_KEYS_AND_VALUES):
            return 1
        first, *_ = self._files.values()
        rows = _rows(first, name) * len(self._files)
        n_copies, remainder = divmod(rows, self.params.n_kv_heads * self.params.head_dim)
        return n_copies if n_copies and not remainder and len(self._files) % n_copies == 0 else 1


def _rows(file: TensorSource, name: str) -> int:
    return (file.shapes.get(name) or [0])[0]


def has_meta_files(folder: Path) -> bool:
    """Return whether a folder contains weight files in Meta's format."""
    return bool(_files_by_number(folder))


def _files_by_number(folder: Path) -> dict[int, Path]:
    matches = {path: re.fullmatch(r"consolidated\.(\d+)\.pth", path.name) for path in folder.iterdir()}
    return {int(match[1]): path for path, match in matches.items() if match}


def _weight_files(folder: Path) -> list[Path]:
    """Return the files in the order of their numbers, and check that no number is missing."""
    files = _files_by_number(folder)
    for i in range(max(len(files), 1)):
        if i not in files:
            raise FileNotFoundError(f"no {_file_name(i)} in {folder}; download it")
    return [files[i] for i in sorted(files)]


def _file_name(i: int) -> str:
    return f"consolidated.{i:02}.pth"
