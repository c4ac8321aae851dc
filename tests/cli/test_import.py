"""`tune import` converts configs in the format documented by the original torchtune."""

from pathlib import Path
from typing import Any

import pytest

from tests.tune import Tune
from torchtune.config.model import read_yaml
from torchtune.migrate._original import SWITCHES

LORA = """# for the recipe lora_finetune_distributed
model:
  _component_: torchtune.models.llama2.lora_llama2_7b
  lora_attn_modules: [q_proj, v_proj, output_proj]
  apply_lora_to_mlp: True
  apply_lora_to_output: False
  lora_rank: 16
  lora_alpha: 32
  lora_dropout: 0.1
tokenizer:
  _component_: torchtune.models.llama2.llama2_tokenizer
  path: ${checkpointer.checkpoint_dir}/tokenizer.model
  max_seq_len: 1024
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: /tmp/llama
  checkpoint_files: [a.bin, b.bin]
  recipe_checkpoint: null
  output_dir: ${output_dir}
  model_type: LLAMA2
output_dir: /tmp/run
resume_from_checkpoint: False
dataset:
  _component_: torchtune.datasets.alpaca_cleaned_dataset
  packed: True
  train_on_input: False
seed: null
shuffle: True
batch_size: 2
epochs: 1
max_steps_per_epoch: null
gradient_accumulation_steps: 8
optimizer:
  _component_: torch.optim.AdamW
  fused: True
  weight_decay: 0.01
  lr: 3e-4
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
loss:
  _component_: torchtune.modules.loss.CEWithChunkedOutputLoss
device: cuda
dtype: bf16
enable_activation_checkpointing: True
compile: False
metric_logger:
  _component_: torchtune.training.metric_logging.DiskLogger
  log_dir: ${output_dir}/logs
log_every_n_steps: 1
log_peak_memory_stats: True
profiler:
  _component_: torchtune.training.setup_torch_profiler
  enabled: False
"""


def import_config(tune: Tune, folder: Path, text: str, *overrides: str) -> tuple[dict[str, Any], str, str]:
    """Import YAML text and return the new config, standard output and standard error."""
    (folder / "old.yaml").write_text(text)
    result = tune("import", str(folder / "old.yaml"), *overrides, "-o", str(folder / "new.yaml"))
    assert result.status == 0, result.err
    return read_yaml(str(folder / "new.yaml")).value, result.out, result.err


@pytest.mark.slow
def test_lora_config_is_imported_completely(tune: Tune, tmp_path: Path) -> None:
    new, out, err = import_config(tune, tmp_path, LORA)
    assert out == f"wrote {tmp_path}/new.yaml; run: tune lora_finetune --config {tmp_path}/new.yaml\n"
    assert err == ""
    assert new == {
        "output_dir": "/tmp/run",
        "seed": None,
        "device": "cuda",
        "dtype": "bf16",
        "enable_fsdp": True,
        "placement": {"activation_checkpointing": {"offload": False}},
        "loading": {"packing": {"length": 1024}},
        "model": {"_component_": "torchtune.models.llama2.llama2_7b"},
        "model_directory": "/tmp/llama",
        "tokenizer": {
            "_component_": "torchtune.models.llama2.llama2_tokenizer",
            "path": "${tokenizer_directory}/tokenizer.model",
        },
        "dataset": {
            "_component_": "torchtune.datasets.AlpacaDataset",
            "use_clean": True,
            "train_on_input": False,
            "max_seq_len": 1024,
        },
        "shuffle": True,
        "batch_size": 2,
        "gradient_accumulation_steps": 8,
        "epochs": 1,
        "max_steps_per_epoch": None,
        "loss": {"_component_": "torchtune.modules.LinearCrossEntropy"},
        "lr_scheduler": {"_component_": "torchtune.training.cosine_with_warmup", "warmup_steps": 100},
        "clip_grad_norm": None,
        "metric_logger": {
            "_component_": "torchtune.utils.metric_logging.DiskLogger",
            "log_dir": "${output_dir}/logs",
        },
        "log_every_n_steps": 1,
        "lora": {
            "targets": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            "rank": 16,
            "alpha": 32,
            "dropout": 0.1,
        },
        "optimizer": {"_component_": "torch.optim.AdamW", "fused": True, "weight_decay": 0.01, "lr": 3e-4},
    }
    assert tune("validate", "lora_finetune", "--config", str(tmp_path / "new.yaml")).out.startswith("ok: ")
    assert tune("validate", "--all", str(tmp_path)).status == 2  # the folder also contains the old config


@pytest.mark.slow
def test_fields_of_later_versions_are_imported(tune: Tune, tmp_path: Path) -> None:
    overrides = (
        "model.use_dora=True",
        "compile=True",
        "dtype=fp16",
        "fsdp_cpu_offload=True",
        "profiler={enabled: True, wait_steps: 5, warmup_steps: 3, active_steps: 2}",
        "metric_logger={_component_: torchtune.training.metric_logging.WandBLogger, project: p}",
    )
    new, _, err = import_config(tune, tmp_path, LORA, *overrides)
    assert err == ""
    assert (new["lora"]["kind"], new["placement"]["compile"], new["dtype"]) == ("dora", True, "fp16")
    assert new["placement"]["sharding"] == {"cpu_offload": True, "reshard_after_forward": True}
    assert new["profiling"] == {"first_step": 9, "n_steps": 2}
    assert new["metric_logger"] == {
        "_component_": "torchtune.utils.metric_logging.WandBLogger",
        "project": "p",
        "log_dir": "${output_dir}",
    }
    assert tune("validate", "lora_finetune", "--config", str(tmp_path / "new.yaml")).out.startswith("ok: ")


def test_overrides_of_an_import_use_the_original_field_names(tune: Tune, tmp_path: Path) -> None:
    overrides = (
        "checkpointer.checkpoint_dir=models/l",
        "optimizer.lr=0.5",
        "tokenizer.path=other/tokenizer.model",
    )
    new, *_ = import_config(tune, tmp_path, LORA, *overrides)
    assert new["model_directory"] == "models/l"
    assert new["tokenizer_directory"] == "other"
    assert new["optimizer"]["lr"] == 0.5


def test_full_config_without_schedule_keeps_a_constant_learning_rate(tune: Tune, tmp_path: Path) -> None:
    text = (
        LORA.replace("lora_llama2_7b", "llama2_7b")
        .replace("# for the recipe lora_finetune_distributed\n", "")
        .replace("torchtune.datasets.alpaca_cleaned_dataset", "torchtune.datasets.alpaca_dataset")
    )
    lines = [line for line in text.splitlines() if "lora_" not in line or "_component_" in line]
    start = lines.index("lr_scheduler:")
    text = "\n".join([*lines[:start], *lines[start + 3 :]])
    new, out, _ = import_config(tune, tmp_path, text, "dataset.source=json", "dataset.data_files=rows.json")
    assert "tune full_finetune --config" in out
    assert new["lr_scheduler"] is None
    assert new["enable_fsdp"] is False
    assert new["dataset"]["source"] == "rows.json"


def test_generation_config_is_imported(tune: Tune, tmp_path: Path) -> None:
    text = """
model: {_component_: torchtune.models.llama2.llama2_7b}
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: /tmp/llama
  checkpoint_files: [a.bin]
  output_dir: /tmp/llama
  model_type: LLAMA2
tokenizer: {_component_: torchtune.models.llama2.llama2_tokenizer, path: /tmp/llama/tokenizer.model}
prompt: {system: Be brief., user: Tell a joke.}
max_new_tokens: 10
temperature: 0.6
top_k: 10
enable_kv_cache: True
quantizer: null
device: cpu
dtype: bf16
seed: 1234
"""
    new, out, err = import_config(tune, tmp_path, text)
    assert "tune alpaca_generate --config" in out
    assert err == ""
    assert (new["prompt"], new["system"], new["template"]) == ("Tell a joke.", "Be brief.", "chat")
    assert tune("validate", "alpaca_generate", "--config", str(tmp_path / "new.yaml")).out.startswith("ok: ")


def test_field_without_an_equivalent_is_reported_with_the_reason(tune: Tune, tmp_path: Path) -> None:
    text = LORA.replace("llama2.lora_llama2_7b", "llama9.qlora_llama9_7b").replace(
        "alpaca_cleaned_dataset", "fancy_dataset"
    )
    text = text.replace("torch.optim.AdamW", "bitsandbytes.optim.PagedAdamW8bit").replace(
        "dtype: bf16", "dtype: fp8"
    )
    text = text.replace("DiskLogger", "CometLogger")
    new, _, err = import_config(
        tune, tmp_path, text, "loss._component_=torchtune.modules.loss.FancyLoss", "weird=3"
    )
    for part in (
        "model.quantize_base: the base model is loaded in `dtype`, without quantization",
        "model: torchtune.models.llama9.llama9_7b has no equivalent; choose a different model",
        "dataset: torchtune.datasets.fancy_dataset has no equivalent; choose a different dataset",
        "dtype: training in fp8 is not supported; the run uses fp32",
        "loss: torchtune.modules.loss.FancyLoss has no equivalent",
        "metric_logger: torchtune.training.metric_logging.CometLogger has no equivalent",
        "weird: no equivalent",
    ):
        assert f"not converted: {part}" in err
    assert f"3 mistakes in {tmp_path}/new.yaml, to be fixed by hand" in err
    assert "bitsandbytes.optim.PagedAdamW8bit is not allowed" in err
    assert new["optimizer"]["_component_"] == "bitsandbytes.optim.PagedAdamW8bit"
    assert "# Not converted: weird: no equivalent" in (tmp_path / "new.yaml").read_text()


@pytest.mark.parametrize("name", SWITCHES)
def test_unsupported_switch_is_reported_only_if_it_is_enabled(name: str, tune: Tune, tmp_path: Path) -> None:
    text = LORA.replace("enable_activation_checkpointing: True\n", "").replace("compile: False\n", "")
    text = text.replace("resume_from_checkpoint: False\n", "")
    assert (
        f"not converted: {name}: {SWITCHES[name]}"
        in import_config(tune, tmp_path, f"{text}\n{name}: true\n")[2]
    )
    (tmp_path / "new.yaml").unlink()
    assert name not in import_config(tune, tmp_path, f"{text}\n{name}: false\n")[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "is not a config of the original torchtune"),
        ("model: [\n", "not valid YAML"),
        ("model: 1\nmodel: 2\n", "duplicate key"),
    ],
)
def test_file_that_is_not_an_original_config_is_reported_as_one_mistake(
    text: str, message: str, tune: Tune, tmp_path: Path
) -> None:
    (tmp_path / "old.yaml").write_text(text)
    result = tune("import", str(tmp_path / "old.yaml"), "-o", str(tmp_path / "new.yaml"))
    assert result.status == 2
    assert message in result.err
    assert not (tmp_path / "new.yaml").exists()
    assert tune("import", str(tmp_path / "old.yaml")).status == 2


@pytest.mark.parametrize(
    ("original", "converted"),
    [
        ("llama3.lora_llama3_8b", "llama3.llama3_8b"),
        ("llama3_1.lora_llama3_1_8b", "llama3.llama3_1_8b"),
        ("llama3_2.qlora_llama3_2_1b", "llama3.llama3_2_1b"),
        ("llama3_3.lora_llama3_3_70b", "llama3.llama3_3_70b"),
        ("mistral.lora_mistral_7b", "mistral.mistral_7b"),
        ("gemma.lora_gemma_2b", "gemma.gemma_2b"),
        ("gemma2.lora_gemma2_9b", "gemma.gemma2_9b"),
        ("phi3.lora_phi3_mini", "phi3.phi3_mini_4k"),
        ("qwen2.lora_qwen2_0_5b", "qwen2.qwen2_0_5b"),
        ("qwen2_5.lora_qwen2_5_7b_instruct", "qwen2.qwen2_7b"),
        ("qwen2_5.lora_qwen2_5_14b_instruct", "qwen2.qwen2_5_14b"),
        ("qwen3.lora_qwen3_8b_base", "qwen3.qwen3_8b"),
        ("code_llama2.lora_code_llama2_7b", "llama2.code_llama_7b"),
    ],
)
def test_original_models_are_converted(original: str, converted: str, tune: Tune, tmp_path: Path) -> None:
    new, *_ = import_config(tune, tmp_path, LORA.replace("llama2.lora_llama2_7b", original))
    assert new["model"] == {"_component_": f"torchtune.models.{converted}"}
