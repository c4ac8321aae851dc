"""Tokenizers of every kind, their files, and the ids at which texts begin and end."""

from torchtune.tokenizers._any import AnyTokenizer
from torchtune.tokenizers._auto import auto_tokenizer, load_tokenizer
from torchtune.tokenizers._bpe import BPETokenizer
from torchtune.tokenizers._build import add_tokens, begin_with, from_pieces
from torchtune.tokenizers._files import (
    TOKENIZER_FILES,
    copy_files,
    copy_tokenizer,
    has_tokenizer,
    remove_tokenizer,
    tokenizer_folder,
)
from torchtune.tokenizers._gguf import adds_bos, gguf_tokenizer
from torchtune.tokenizers._hf import HFTokenizer
from torchtune.tokenizers._options import TokenizerOptions, check_options
from torchtune.tokenizers._sentencepiece import SentencePieceTokenizer
from torchtune.tokenizers._sentencepiece_model import is_plain_bpe
from torchtune.tokenizers._special_ids import GENERATION_CONFIG, SpecialIds
from torchtune.tokenizers._tekken import TekkenTokenizer
from torchtune.tokenizers._tiktoken import TiktokenTokenizer, is_tiktoken, write_tiktoken_tokenizer

__all__ = [
    "GENERATION_CONFIG",
    "TOKENIZER_FILES",
    "AnyTokenizer",
    "BPETokenizer",
    "HFTokenizer",
    "SentencePieceTokenizer",
    "SpecialIds",
    "TekkenTokenizer",
    "TiktokenTokenizer",
    "TokenizerOptions",
    "add_tokens",
    "adds_bos",
    "auto_tokenizer",
    "begin_with",
    "check_options",
    "copy_files",
    "copy_tokenizer",
    "from_pieces",
    "gguf_tokenizer",
    "has_tokenizer",
    "is_plain_bpe",
    "is_tiktoken",
    "load_tokenizer",
    "remove_tokenizer",
    "tokenizer_folder",
    "write_tiktoken_tokenizer",
]

COMPONENT_KINDS = (AnyTokenizer,)
"""Classes whose subclasses a config may name where no type is declared."""
