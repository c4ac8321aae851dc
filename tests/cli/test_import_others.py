"""`tune import` gives advice for configs of other training methods and other projects, and does not convert them."""

from pathlib import Path

import pytest
import yaml

from tests.tune import Tune

OTHER_METHODS = {
    "loss: {_component_: torchtune.rlhf.loss.DPOLoss, beta: 0.1}": ("loss", "preference tuning (DPO)"),
    "dataset: {_component_: torchtune.datasets.preference_dataset, source: json}": (
        "dataset",
        "preference tuning",
    ),
    "dataset: [{_component_: torchtune.datasets.stack_exchange_paired_dataset}]": (
        "dataset",
        "preference tuning",
    ),
    "dataset: {_component_: torchtune.datasets.hh_rlhf_helpful_dataset}": ("dataset", "preference tuning"),
    "policy_model: {_component_: torchtune.models.mistral.mistral_7b}": ("policy_model", "PPO"),
    "loss: {_component_: torchtune.rlhf.loss.PPOLoss}": ("loss", "PPO"),
    "loss: {_component_: torchtune.dev.grpo.loss.GRPOSimpleLoss}": ("loss", "GRPO"),
    "teacher_model: {_component_: torchtune.models.qwen2_5.qwen2_5_14b_instruct}": (
        "teacher_model",
        "knowledge distillation",
    ),
    "kd_ratio: 0.5": ("kd_ratio", "knowledge distillation"),
    "quantizer: {_component_: torchtune.training.quantization.Int8DynActInt4WeightQATQuantizer}": (
        "quantizer",
        "quantization-aware training",
    ),
    'tasks: ["truthfulqa_mc2"]': ("tasks", "an evaluation"),
}


@pytest.mark.parametrize("text", OTHER_METHODS)
def test_config_of_another_method_is_not_converted_to_supervised_fine_tuning(
    text: str, tune: Tune, tmp_path: Path
) -> None:
    key, method = OTHER_METHODS[text]
    old = tmp_path / "old.yaml"
    old.write_text(f"{text}\ncheckpointer: {{_component_: torchtune.training.FullModelHFCheckpointer}}\n")
    result = tune("import", str(old), "-o", str(tmp_path / "new.yaml"))
    assert result.status == 2
    assert result.err == (
        f"1 mistake in {old}:\n  {old}:1: {key}: configs for {method} cannot be imported; the recipes support"
        " supervised fine-tuning and generation\n"
    )
    assert not (tmp_path / "new.yaml").exists()


AXOLOTL = """\
base_model: NousResearch/Meta-Llama-3-8B
tokenizer_type: AutoTokenizer
load_in_8bit: false
load_in_4bit: true
datasets:
  - path: tatsu-lab/alpaca
    type: alpaca
dataset_prepared_path:
val_set_size: 0.02
output_dir: ./outputs/out
adapter: qlora
sequence_len: 4096
sample_packing: true
lora_r: 32
lora_target_linear: true
batch_size: 32
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
gradient_checkpointing: true
flash_attention: true
warmup_steps: 10
evals_per_epoch: 4
rl: dpo
weird: 3
"""
LLAMA_FACTORY = """\
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
stage: sft
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity
template: llama3
cutoff_len: 2048
max_samples: 1000
logging_steps: 10
save_steps: 500
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
"""
TRL = (
    "model_name_or_path: Qwen/Qwen2-0.5B\ndataset_name: trl-lib/Capybara\nmax_length: 1024\nuse_peft: true\n"
)


@pytest.mark.parametrize(
    ("text", "project", "answers"),
    [
        (
            AXOLOTL,
            "axolotl",
            {
                4: "load_in_4bit: use dtype=bf16, which halves the size of the base model; quantization",
                10: "output_dir: same name in torchtune",
                12: "sequence_len: use dataset.max_seq_len",
                16: "batch_size: this value includes all ranks",
                25: "flash_attention: not needed",
                28: "rl: no recipe supports dpo",
                29: "weird: no equivalent",
            },
        ),
        (
            LLAMA_FACTORY,
            "LLaMA-Factory",
            {2: "stage: supported by the fine-tuning recipes", 8: "cutoff_len: use dataset.max_seq_len"},
        ),
        (TRL, "TRL", {3: "max_length: use dataset.max_seq_len", 4: "use_peft: use lora"}),
    ],
)
def test_every_key_in_the_config_of_another_project_gets_advice(
    text: str, project: str, answers: dict[int, str], tune: Tune, tmp_path: Path
) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(text)
    result = tune("import", str(old), "-o", str(tmp_path / "new.yaml"))
    assert result.status == 2
    assert not (tmp_path / "new.yaml").exists()
    heading, *lines = result.err.splitlines()
    assert f"is a {project} config, which cannot be converted" in heading
    set_keys = [key for key, value in yaml.safe_load(text).items() if value not in (None, False)]
    assert [line.split(": ")[1] for line in lines] == set_keys
    assert [line for line in lines if "no equivalent" in line] == [
        f"  {old}:{number}: {answer}" for number, answer in answers.items() if "no equivalent" in answer
    ]
    for number, answer in answers.items():
        assert any(line.startswith(f"  {old}:{number}: {answer}") for line in lines), answer
