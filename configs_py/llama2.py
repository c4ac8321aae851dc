"""Configs for Llama 2 7B and the Stanford Alpaca dataset."""

from torch.optim import AdamW

from torchtune.config import lazy
from torchtune.datasets import AlpacaDataset
from torchtune.models.llama2 import llama2_7b, llama2_tokenizer
from torchtune.recipes.alpaca_generate import AlpacaGenerateConfig
from torchtune.recipes.full_finetune import FullFinetuneConfig
from torchtune.recipes.lora_finetune import LoraFinetuneConfig
from torchtune.training import Lora, cosine_with_warmup


def alpaca_llama2_full_finetune() -> FullFinetuneConfig:
    """Full fine-tuning of Llama 2 7B on Alpaca, on multiple GPUs with FSDP."""
    return FullFinetuneConfig(
        output_dir="runs/alpaca_llama2_full_finetune",
        device="cuda",
        dtype="bf16",
        enable_fsdp=True,
        model=lazy(llama2_7b),
        model_directory="models/Llama-2-7b-hf",
        tokenizer=lazy(llama2_tokenizer, path="${tokenizer_directory}/tokenizer.model"),
        dataset=lazy(AlpacaDataset, train_on_input=True),
        batch_size=2,
        epochs=3,
        optimizer=lazy(AdamW, lr=2e-5, fused=True),
        lr_scheduler=lazy(cosine_with_warmup, warmup_steps=100),
    )


def alpaca_llama2_lora_finetune() -> LoraFinetuneConfig:
    """LoRA (q_proj and v_proj) for Llama 2 7B on Alpaca, on one GPU."""
    return LoraFinetuneConfig(
        output_dir="runs/alpaca_llama2_lora_finetune",
        device="cuda",
        dtype="bf16",
        enable_fsdp=False,
        model=lazy(llama2_7b),
        model_directory="models/Llama-2-7b-hf",
        tokenizer=lazy(llama2_tokenizer, path="${tokenizer_directory}/tokenizer.model"),
        dataset=lazy(AlpacaDataset, train_on_input=True, use_clean=True),
        lora=Lora(targets=["q_proj", "v_proj"], rank=8, alpha=16.0),
        batch_size=2,
        gradient_accumulation_steps=16,
        optimizer=lazy(AdamW, lr=3e-4, weight_decay=0.01, fused=True),
        lr_scheduler=lazy(cosine_with_warmup, warmup_steps=100),
    )


def alpaca_llama2_generate() -> AlpacaGenerateConfig:
    """Answer a prompt with Llama 2 7B after alpaca_llama2_lora_finetune."""
    return AlpacaGenerateConfig(
        device="cuda",
        dtype="bf16",
        model=lazy(llama2_7b),
        model_directory="models/Llama-2-7b-hf",
        adapter_directory="runs/alpaca_llama2_lora_finetune/final",
        tokenizer=lazy(llama2_tokenizer, path="${tokenizer_directory}/tokenizer.model"),
        template="alpaca",
        prompt="Name three colours of the rainbow.",
    )
