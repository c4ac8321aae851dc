"""Configs for any model and dataset: set `model_directory` and `dataset.source` to run them."""

from torch.optim import AdamW

from torchtune.config import lazy, ref
from torchtune.datasets import auto_dataset
from torchtune.formats import hf_decoder
from torchtune.recipes.full_finetune import FullFinetuneConfig
from torchtune.recipes.lora_finetune import LoraFinetuneConfig
from torchtune.tokenizers import auto_tokenizer
from torchtune.training import Loading, Lora, Packing, Validation, cosine_with_warmup


def lora() -> LoraFinetuneConfig:
    """LoRA for any model and dataset: set model_directory and dataset.source."""
    return LoraFinetuneConfig(
        output_dir="runs/lora",
        device="auto",
        dtype="auto",
        model=lazy(hf_decoder, path=ref("model_directory")),
        model_directory=ref("required"),
        tokenizer=lazy(auto_tokenizer, path=ref("tokenizer_directory")),
        dataset=lazy(auto_dataset, source=ref("required")),
        loading=Loading(packing=Packing(length=2048)),
        validation=Validation(fraction=0.05, max_rows=200, every_n_steps=50),
        lora=Lora(targets=["all-linear"], rank=16, alpha=32.0),
        batch_size=1,
        epochs=3,
        optimizer=lazy(AdamW, lr=2e-4, fused=True),
        lr_scheduler=lazy(cosine_with_warmup, warmup_steps=0.05),
    )


def full() -> FullFinetuneConfig:
    """Full fine-tuning for any model and dataset: set model_directory and dataset.source."""
    return FullFinetuneConfig(
        output_dir="runs/full",
        device="auto",
        dtype="auto",
        model=lazy(hf_decoder, path=ref("model_directory")),
        model_directory=ref("required"),
        tokenizer=lazy(auto_tokenizer, path=ref("tokenizer_directory")),
        dataset=lazy(auto_dataset, source=ref("required")),
        loading=Loading(packing=Packing(length=2048)),
        validation=Validation(fraction=0.05, max_rows=200, every_n_steps=50),
        batch_size=1,
        epochs=3,
        optimizer=lazy(AdamW, lr=2e-5, fused=True),
        lr_scheduler=lazy(cosine_with_warmup, warmup_steps=0.05),
    )
