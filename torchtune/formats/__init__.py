"""Read and write checkpoint formats: Hugging Face, PEFT, GGUF and Meta."""

from torchtune.formats._convert import convert
from torchtune.formats.hf._config import architecture_from_hf, hf_config
from torchtune.formats.hf._decoder import hf_decoder
from torchtune.formats.hf._save import save_hf_folder
from torchtune.formats.hf._weights import load_hf_weights, read_hf_weights, stored_dtypes
from torchtune.formats.peft._load import load_peft_adapter, read_peft_adapter
from torchtune.formats.peft._resume import check_same_adapters, load_same_adapters
from torchtune.formats.peft._save import check_peft_adapter, save_peft_adapter

__all__ = [
    "architecture_from_hf",
    "check_peft_adapter",
    "check_same_adapters",
    "convert",
    "hf_config",
    "hf_decoder",
    "load_hf_weights",
    "load_peft_adapter",
    "load_same_adapters",
    "read_hf_weights",
    "read_peft_adapter",
    "save_hf_folder",
    "save_peft_adapter",
    "stored_dtypes",
]
