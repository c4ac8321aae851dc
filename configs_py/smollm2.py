"""Configs for SmolLM2-135M-Instruct, which is small enough to train on two CPU cores of a laptop."""

from torch.optim import AdamW

from torchtune.config import lazy
from torchtune.datasets import InstructDataset
from torchtune.models.smollm2 import smollm2_135m, smollm2_tokenizer
from torchtune.recipes.alpaca_generate import AlpacaGenerateConfig
from torchtune.recipes.full_finetune import FullFinetuneConfig
from torchtune.recipes.lora_finetune import LoraFinetuneConfig
from torchtune.training import Checkpoints, Lora, Validation, cosine_with_warmup

MODEL = "models/SmolLM2-135M-Instruct"
"""The folder into which `make demo` downloads the model."""


def smollm2_135m_lora() -> LoraFinetuneConfig:
    """LoRA (all linear layers) for SmolLM2 135M on the demo's data: a minute on two cores."""
    return LoraFinetuneConfig(
        output_dir="runs/smollm2_135m_lora",
        seed=1,
        device="auto",
        model=lazy(smollm2_135m),
        model_directory=MODEL,
        tokenizer=lazy(smollm2_tokenizer, path="${tokenizer_directory}/tokenizer.json"),
        dataset=lazy(InstructDataset, source="demo/assistant.json"),
        lora=Lora(targets=["all-linear"], rank=16, alpha=32.0),
        validation=Validation(
            dataset=lazy(InstructDataset, source="demo/held_out.json"),
            every_n_steps=10,
            prompts=["Who are you?", "What is the capital of France?"],
            max_new_tokens=32,
        ),
        batch_size=8,
        optimizer=lazy(AdamW, lr=1e-3, weight_decay=0.0, fused=True),
        lr_scheduler=lazy(cosine_with_warmup, warmup_steps=3),
        checkpoints=Checkpoints(every_n_steps=10),
    )


def smollm2_135m_full() -> FullFinetuneConfig:
    """Full fine-tuning of SmolLM2 135M on the demo's data: a few minutes on two cores."""
    return FullFinetuneConfig(
        output_dir="runs/smollm2_135m_full",
        seed=1,
        device="auto",
        model=lazy(smollm2_135m),
        model_directory=MODEL,
        tokenizer=lazy(smollm2_tokenizer, path="${tokenizer_directory}/tokenizer.json"),
        dataset=lazy(InstructDataset, source="demo/assistant.json"),
        validation=Validation(
            dataset=lazy(InstructDataset, source="demo/held_out.json"),
            every_n_steps=10,
        ),
        batch_size=8,
        optimizer=lazy(AdamW, lr=5e-5, weight_decay=0.0, fused=True),
        lr_scheduler=lazy(cosine_with_warmup, warmup_steps=3),
    )


def smollm2_135m_generate() -> AlpacaGenerateConfig:
    """Answer a prompt with SmolLM2 135M after smollm2_135m_lora."""
    return AlpacaGenerateConfig(
        device="auto",
        model=lazy(smollm2_135m),
        model_directory=MODEL,
        adapter_directory="runs/smollm2_135m_lora/final",
        tokenizer=lazy(smollm2_tokenizer, path="${tokenizer_directory}/tokenizer.json"),
        template="chat",
        prompt="Who are you?",
    )
