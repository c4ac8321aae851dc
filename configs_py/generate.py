"""Config for generation with the model in any folder."""

from torchtune.config import lazy
from torchtune.formats import hf_decoder
from torchtune.recipes.alpaca_generate import AlpacaGenerateConfig
from torchtune.tokenizers import auto_tokenizer


def generate() -> AlpacaGenerateConfig:
    """Answer prompts with a Hugging Face model, an adapter or a run; without a prompt, chat."""
    return AlpacaGenerateConfig(
        device="auto",
        dtype="auto",
        model=lazy(hf_decoder, path="${model_directory}"),
        model_directory="models/SmolLM2-135M-Instruct",
        tokenizer=lazy(auto_tokenizer, path="${tokenizer_directory}"),
        template="auto",
    )
