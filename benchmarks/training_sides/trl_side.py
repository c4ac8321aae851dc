"""The TRL side: SFTTrainer with PEFT on pre-encoded rows; every step is timed."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, TypedDict

from benchmarks.process_memory import peak_bytes
from benchmarks.training_sides.cases import Case
from benchmarks.training_sides.measurement import Measurement, ModelSizes, build_measurement, matmul_flops


class TRLRun(TypedDict):
    """The arguments of a TRL run."""

    model: str
    """The model's folder."""
    rows: str
    """A file of encoded rows."""
    case: Case
    n_steps: int
    """Optimizer steps."""
    batch_size: int
    """Rows per step."""
    length: int
    """Maximum number of tokens per row."""


def train(command_time: float, run: TRLRun, sizes: ModelSizes) -> Measurement:
    """Train with TRL.

    Args:
        command_time: Start time of this process (seconds since the epoch).
        run: Model, rows and settings.
        sizes: Sizes of the timed matrix products.
    """
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    end_times: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            end_times.append(time.time())

        def on_log(self, *_: Any, **event: Any) -> None:
            if "loss" in event["logs"]:
                losses.append(float(event["logs"]["loss"]))

    case, batch_size = run["case"], run["batch_size"]
    is_bf16 = case["dtype"] == "bf16"
    # With bf16, LoRA stores the frozen base model in bf16; full fine-tuning stores fp32 weights and uses autocast.
    dtype = torch.bfloat16 if is_bf16 and case["lora"] else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_steps=run["n_steps"],
            per_device_train_batch_size=batch_size,
            train_sampling_strategy="sequential",
            learning_rate=1e-4,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            max_length=run["length"],
            packing=case.get("is_packed_in_trl", False),
            gradient_checkpointing=False,
            completion_only_loss=True,
            bf16=is_bf16,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(run["model"], dtype=dtype),
            config,
            train_dataset=datasets.Dataset.from_list(
                json.loads(Path(run["rows"]).read_text(encoding="utf-8"))
            ),
            processing_class=AutoTokenizer.from_pretrained(run["model"]),
            peft_config=build_peft_config(case),
            callbacks=[Clock()],
        )
        trainer.train()
        row_lengths = [row.get("seq_lengths") or [len(row["input_ids"])] for row in trainer.train_dataset]
    lengths = step_lengths(row_lengths[: run["n_steps"] * batch_size], batch_size)
    return build_measurement(
        command_time,
        end_times,
        losses=losses,
        lengths=lengths,
        peak=peak_bytes(),
        matmul=matmul_flops(case["dtype"], sizes),
    )


def build_peft_config(case: Case) -> Any:
    """Return the PEFT config of the case's adapters, or None for full fine-tuning."""
    from peft import LoraConfig

    if not case["lora"]:
        return None
    rank = case["rank"]
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=case["lora"], task_type="CAUSAL_LM")


def step_lengths(row_lengths: list[list[int]], batch_size: int) -> list[list[int]]:
    """Return the token counts of each step's examples, excluding their last tokens, as torchtune counts them.

    Args:
        row_lengths: Token counts of the examples of each row.
        batch_size: Rows per step.
    """
    starts = range(0, len(row_lengths), batch_size)
    return [[n - 1 for row in row_lengths[i : i + batch_size] for n in row] for i in starts]
