"""Meta's own checkpoints of Llama 2, Code Llama and Llama 3 to 3.3 as where a model comes from."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from torchtune.files import write_json
from torchtune.formats._source import Checkpoint
from torchtune.formats.hf._weights import expected_shapes
from torchtune.formats.meta._files import EMBEDDINGS, HEAD, MetaFiles, has_meta_files
from torchtune.formats.meta._params import FILE, read_params
from torchtune.formats.meta._weights import meta_weights
from torchtune.modules import Decoder
from torchtune.tokenizers import (
    GENERATION_CONFIG,
    SentencePieceTokenizer,
    SpecialIds,
    add_tokens,
    begin_with,
    from_pieces,
    is_plain_bpe,
    is_tiktoken,
    write_tiktoken_tokenizer,
)

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer as Backend

_TOKENIZER = "tokenizer.model"


def is_meta(folder: Path) -> bool:
    """Tell whether a folder looks like one of Meta's, or like what is left of one."""
    return (folder / FILE).is_file() or has_meta_files(folder)


def open_meta(folder: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Look into a checkpoint of Meta's.

    Args:
        folder: Holds params.json and `consolidated.00.pth`, with further ones for a model that was cut into several.
        tokenizer: A tokenizer.model or its folder. None: the folder's own.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file is damaged, does not go with the others, or is of a model that is not supported.
    """
    params = read_params(folder)
    files = MetaFiles(folder, params)
    if params.n_layers > len(files.shapes):
        raise ValueError(
            f"{folder / FILE} speaks of {params.n_layers} layers, the files beside it hold {len(files.shapes)} tensors"
        )
    vocab_size = params.vocab_size or files.shapes[EMBEDDINGS][0]
    tied = params.use_scaled_rope and files.is_tied()
    try:
        with torch.device("meta"):
            model = Decoder(params.architecture(vocab_size, tied_embeddings=tied))
    except (ValueError, ArithmeticError, RuntimeError) as error:  # the latter two: numbers beyond all models
        raise ValueError(f"{folder / FILE}: {error}") from error
    weights = meta_weights(files, expected_shapes(model), {HEAD} if tied else ())

    def write_tokenizer(target: Path) -> SpecialIds:
        file = _find_tokenizer(folder if tokenizer is None else tokenizer)
        write = write_tiktoken_tokenizer if is_tiktoken(file) else _write_sentencepiece
        return write(file, target)

    return Checkpoint(
        path=folder, model=model, weights=weights, write_tokenizer=write_tokenizer, tokenizer=tokenizer
    )


def _find_tokenizer(path: Path) -> Path:
    file = path / _TOKENIZER if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"no {file.name} in {file.parent}: name the model's tokenizer.model (--tokenizer), which may lie in another"
            " folder of the download"
        )
    return file


def _write_sentencepiece(file: Path, folder: Path) -> SpecialIds:
    """Copy Llama 2's tokenizer, and write down what Meta's code knows of it: it begins texts with BOS.

    A tokenizer.json says the same once more, since transformers' own reading of a tokenizer.model splits several spaces
    otherwise than SentencePiece does.
    """
    from sentencepiece import SentencePieceProcessor

    SentencePieceTokenizer(str(file))  # tells what is wrong with it, if anything
    shutil.copyfile(file, folder / _TOKENIZER)
    model = SentencePieceProcessor(model_file=str(file))
    ids = {"bos": model.bos_id(), "eos": model.eos_id(), "unk": model.unk_id(), "pad": model.pad_id()}
    named = {name: model.id_to_piece(i) for name, i in ids.items() if i >= 0}
    is_plain = is_plain_bpe(file.read_bytes())
    if is_plain:
        backend = sentencepiece_backend(model, named)
        (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast" if is_plain else "LlamaTokenizer",
        **{f"{name}_token": piece for name, piece in named.items()},
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,  # each text between special tokens is one of its own, as in Meta's code
    }
    write_json(folder / "tokenizer_config.json", config)
    special_ids = SpecialIds({f"{name}_token_id": ids[name] for name in named if name != "unk"})
    write_json(folder / GENERATION_CONFIG, special_ids)
    return special_ids


def sentencepiece_backend(model: "SentencePieceProcessor", named: Mapping[str, str]) -> "Backend":
    """Build what tokenizer.json holds out of a plain BPE model; `named` are its `bos`, `eos` and `unk`."""
    numbers = range(model.vocab_size())
    backend = from_pieces(
        [model.id_to_piece(i) for i in numbers],
        [model.get_score(i) for i in numbers],
        unknown=named["unk"],
        space_prefix=True,
    )
    add_tokens(backend, ((piece, True) for piece in named.values()))
    begin_with(backend, named["bos"])
    return backend
