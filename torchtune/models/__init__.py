"""Model families, their tokenizers, and their weights in other people's formats."""

from torchtune.models._auto_tokenizer import AnyTokenizer, auto_tokenizer
from torchtune.models._bpe_tokenizer import BPETokenizer
from torchtune.models._convert import convert
from torchtune.models._folders import written_whole
from torchtune.models._found import FoundModel, found_model
from torchtune.models._gguf import convert_gguf
from torchtune.models._hf_config import architecture_from_hf, hf_config
from torchtune.models._hf_decoder import hf_decoder
from torchtune.models._hf_folder import save_hf_folder
from torchtune.models._hf_tokenizer import HFTokenizer
from torchtune.models._hf_weights import (
    hf_groups,
    hf_name,
    is_transposed,
    load_hf_weights,
    read_hf_weights,
    stored_dtypes,
)
from torchtune.models._peft_adapter import load_peft_adapter
from torchtune.models._peft_export import check_peft_adapter, save_peft_adapter
from torchtune.models._sentencepiece_tokenizer import SentencePieceTokenizer
from torchtune.models._tekken import TekkenTokenizer
from torchtune.models._tiktoken import TiktokenTokenizer
from torchtune.models._tokenizer_options import TokenizerOptions
from torchtune.models._vocabulary import check_vocabulary

__all__ = [
    "AnyTokenizer",
    "BPETokenizer",
    "FoundModel",
    "HFTokenizer",
    "SentencePieceTokenizer",
    "TekkenTokenizer",
    "TiktokenTokenizer",
    "TokenizerOptions",
    "architecture_from_hf",
    "auto_tokenizer",
    "check_peft_adapter",
    "check_vocabulary",
    "convert",
    "convert_gguf",
    "found_model",
    "hf_config",
    "hf_decoder",
    "hf_groups",
    "hf_name",
    "is_transposed",
    "load_hf_weights",
    "load_peft_adapter",
    "read_hf_weights",
    "save_hf_folder",
    "save_peft_adapter",
    "stored_dtypes",
    "written_whole",
]
