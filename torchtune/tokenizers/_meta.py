"""The tokenizer.model of Meta's checkpoints as Hugging Face has it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchtune.tokenizers._build import add_tokens, begin_with, from_pieces
from torchtune.tokenizers._files import write_tokenizer
from torchtune.tokenizers._sentencepiece import SentencePieceTokenizer
from torchtune.tokenizers._sentencepiece_model import is_plain_bpe
from torchtune.tokenizers._special_ids import SpecialIds
from torchtune.tokenizers._tiktoken import is_tiktoken, write_tiktoken_tokenizer

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer as Backend


def write_meta_tokenizer(file: Path, folder: Path) -> SpecialIds:
    """Write the tokenizer of Llama 2, which is SentencePiece's, or of Llama 3 into a Hugging Face folder.

    Args:
        file: The tokenizer.model.
        folder: Where to.

    Returns:
        `bos_token_id`, `eos_token_id` and `pad_token_id`, for config.json.

    Raises:
        ValueError: the file is damaged, or another model's.
    """
    write = write_tiktoken_tokenizer if is_tiktoken(file) else _write_sentencepiece
    return write(file, folder)


def _write_sentencepiece(file: Path, folder: Path) -> SpecialIds:
    """Copy Llama 2's tokenizer, and write down what Meta's code knows of it: it begins texts with BOS.

    A tokenizer.json says the same once more, since transformers' own reading of a tokenizer.model splits several spaces
    otherwise than SentencePiece does.
    """
    from sentencepiece import SentencePieceProcessor

    SentencePieceTokenizer(str(file))  # tells what is wrong with it, if anything
    shutil.copyfile(file, folder / "tokenizer.model")
    model = SentencePieceProcessor(model_file=str(file))
    ids = {"bos": model.bos_id(), "eos": model.eos_id(), "unk": model.unk_id(), "pad": model.pad_id()}
    named = {name: model.id_to_piece(i) for name, i in ids.items() if i >= 0}
    is_plain = is_plain_bpe(file.read_bytes())
    tokenizer_json = sentencepiece_backend(model, named).to_str() if is_plain else None
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast" if is_plain else "LlamaTokenizer",
        **{f"{name}_token": piece for name, piece in named.items()},
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,  # each text between special tokens is one of its own, as in Meta's code
    }
    special_ids = SpecialIds({f"{name}_token_id": ids[name] for name in named if name != "unk"})
    return write_tokenizer(folder, tokenizer_json, config, special_ids)


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
