"""Tiny models and tokenizers for tests."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = "The tiny tokenizer was trained on these words, these digits 0123456789 and nothing more.\n"
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] +"
    " '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_smollm2(*, tied_embeddings: bool = True) -> Decoder:
    """Build a float64 SmolLM2 with 2 layers and random weights of order one, norms included."""
    torch.manual_seed(0)
    model = smollm2(
        vocab_size=300,
        num_layers=2,
        embed_dim=64,
        num_heads=4,
        num_kv_heads=2,
        ffn_dim=96,
        max_seq_len=64,
        tied_embeddings=tied_embeddings,
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def random_tokens(*shape: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(300, shape)


def tiny_tokenizer() -> Tokenizer:
    """Train a byte-level BPE tokenizer of 300 tokens with SmolLM2's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return tokenizer


def tokenizer_config() -> dict[str, object]:
    """Return a tokenizer_config.json like SmolLM2's."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
    }


def write(folder: Path, **files: str) -> Path:
    """Write text files, whose names have `__` in place of the dot; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder
