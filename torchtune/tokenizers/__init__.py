"""Tokenizers of all supported kinds, their files and their special token ids."""

from torchtune.tokenizers._added import add_special_tokens
from torchtune.tokenizers._auto import auto_tokenizer, load_tokenizer
from torchtune.tokenizers._base import BaseTokenizer
from torchtune.tokenizers._bpe import BPETokenizer
from torchtune.tokenizers._files import (
    TOKENIZER_FILES,
    copy_files,
    copy_tokenizer,
    has_tokenizer,
    remove_tokenizer,
    tokenizer_folder,
)
from torchtune.tokenizers._gguf import gguf_tokenizer_writer
from torchtune.tokenizers._hf import HFTokenizer
from torchtune.tokenizers._meta import write_meta_tokenizer
from torchtune.tokenizers._options import TokenizerOptions, check_options
from torchtune.tokenizers._sentencepiece import SentencePieceTokenizer
from torchtune.tokenizers._special_ids import GENERATION_CONFIG, SpecialIds
from torchtune.tokenizers._tekken import TekkenTokenizer
from torchtune.tokenizers._tiktoken import TiktokenTokenizer

__all__ = [
    "GENERATION_CONFIG",
    "TOKENIZER_FILES",
    "BPETokenizer",
    "BaseTokenizer",
    "HFTokenizer",
    "SentencePieceTokenizer",
    "SpecialIds",
    "TekkenTokenizer",
    "TiktokenTokenizer",
    "TokenizerOptions",
    "add_special_tokens",
    "auto_tokenizer",
    "check_options",
    "copy_files",
    "copy_tokenizer",
    "gguf_tokenizer_writer",
    "has_tokenizer",
    "load_tokenizer",
    "remove_tokenizer",
    "tokenizer_folder",
    "write_meta_tokenizer",
]

COMPONENT_KINDS = (BaseTokenizer,)
"""Base classes of components that configs may name in fields without a declared type."""
