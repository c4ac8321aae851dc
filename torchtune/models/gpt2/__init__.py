"""GPT-2 (Radford et al. 2019, Language Models are Unsupervised Multitask Learners)."""

from torchtune.models.gpt2._model import gpt2, gpt2_large, gpt2_medium, gpt2_xl
from torchtune.models.gpt2._tokenizer import gpt2_tokenizer

__all__ = ["gpt2", "gpt2_large", "gpt2_medium", "gpt2_tokenizer", "gpt2_xl"]
