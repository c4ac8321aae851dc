"""Convert the tokenizer.model of Meta's checkpoints to the Hugging Face format."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchtune.tokenizers._build import add_tokens, from_pieces, prepend_token
from torchtune.tokenizers._files import write_tokenizer
from torchtune.tokenizers._sentencepiece import SentencePieceTokenizer
from torchtune.tokenizers._sentencepiece_model import is_plain_bpe
from torchtune.tokenizers._special_ids import SpecialIds
from torchtune.tokenizers._tiktoken import is_tiktoken, write_tiktoken_tokenizer

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer as Backend


def write_meta_tokenizer(file: Path, folder: Path) -> SpecialIds:
    """Write the tokenizer of Llama 2 (SentencePiece) or Llama 3 (tiktoken) to a Hugging Face folder.

    Args:
        file: The tokenizer.model.
        folder: Target folder.

    Returns:
        `bos_token_id`, `eos_token_id` and `pad_token_id`, for config.json.

    Raises:
        ValueError: The file is damaged, or belongs to a different model.
    """
    write = write_tiktoken_tokenizer if is_tiktoken(file) else _write_sentencepiece
    return write(file, folder)


def _write_sentencepiece(file: Path, folder: Path) -> SpecialIds:
    """Copy Llama 2's tokenizer, and write the settings that are in Meta's code: plain text begins with BOS.

    A plain BPE model is also written as tokenizer.json, because transformers splits several spaces differently from
    SentencePiece when it converts a tokenizer.model.
    """
    from sentencepiece import SentencePieceProcessor

    SentencePieceTokenizer(str(file))  # raises if the file is damaged
    shutil.copyfile(file, folder / "tokenizer.model")
    model = SentencePieceProcessor(model_file=str(file))
    ids = {"bos": model.bos_id(), "eos": model.eos_id(), "unk": model.unk_id(), "pad": model.pad_id()}
    pieces = {name: model.id_to_piece(i) for name, i in ids.items() if i >= 0}
    is_plain = is_plain_bpe(file.read_bytes())
    tokenizer_json = sentencepiece_backend(model, pieces).to_str() if is_plain else None
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast" if is_plain else "LlamaTokenizer",
        **{f"{name}_token": piece for name, piece in pieces.items()},
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,  # texts between special tokens are encoded separately, as in Meta's code
    }
    special_ids = SpecialIds({f"{name}_token_id": ids[name] for name in pieces if name != "unk"})
    return write_tokenizer(folder, tokenizer_json, config, special_ids)


def sentencepiece_backend(model: "SentencePieceProcessor", pieces: Mapping[str, str]) -> "Backend":
    """Convert a plain BPE model to the `tokenizers` library; `pieces` maps `bos`, `eos` and `unk` to pieces."""
    ids = range(model.vocab_size())
    backend = from_pieces(
        [model.id_to_piece(i) for i in ids],
        [model.get_score(i) for i in ids],
        unknown=pieces["unk"],
        space_prefix=True,
    )
    add_tokens(backend, ((piece, True) for piece in pieces.values()))
    prepend_token(backend, pieces["bos"])
    return backend
