"""TRL's side: SFTTrainer with PEFT on rows that are encoded already, with the clock read behind every step."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.training_sides.measured import order, peak_bytes, report


def main() -> None:
    given = order()
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    times: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # untyped
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.time())

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    rows = json.loads(Path(given["rows"]).read_text())
    is_bf16 = given["dtype"] == "bf16"
    # What computes in bf16 holds a frozen base in bf16; what is trained whole stays in fp32 below autocast.
    kind = torch.bfloat16 if is_bf16 and given["lora"] else torch.float32
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=kind)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_steps=given["steps"],
            per_device_train_batch_size=given["batch"],
            train_sampling_strategy="sequential",
            learning_rate=1e-4,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            max_length=given["length"],
            packing=given["packed"],
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
        adapter = None
        if given["lora"]:
            adapter = LoraConfig(
                r=given["rank"],
                lora_alpha=2 * given["rank"],
                target_modules=given["lora"],
                task_type="CAUSAL_LM",
            )
        trainer = SFTTrainer(
            model,
            config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(given["model"]),
            peft_config=adapter,
            callbacks=[Clock()],
        )
        trainer.train()
        read = [row.get("seq_lengths") or [len(row["input_ids"])] for row in trainer.train_dataset]
    each = given["batch"]
    steps = [[n - 1 for row in read[i * each : (i + 1) * each] for n in row] for i in range(given["steps"])]
    report(times, losses, peak_bytes(), given, steps)


if __name__ == "__main__":
    main()
