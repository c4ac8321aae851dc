"""Hints for options of other fine-tuning projects and idioms of other launchers.

The options are from transformers' TrainingArguments, TRL's SFTConfig and ModelConfig, axolotl's and LLaMA-Factory's
YAML, and the original torchtune; the idioms are from Hydra and OmegaConf.
"""

import functools
import re
from collections.abc import Iterable
from typing import Final

# Fields of torchtune, each with the names of its equivalents in other projects. The field path ends at the first
# `=`, comma or space; the remaining text is part of the hint.
_FIELDS: Final = {
    "optimizer.lr": "learning_rate lr",
    "optimizer.weight_decay": "weight_decay",
    "optimizer.eps": "adam_epsilon",
    "optimizer.betas=[0.9, 0.999]": "adam_beta1 adam_beta2 beta1 beta2",
    "optimizer, a component such as torch.optim.AdamW": "optim optimizer optimizer_type optimizer_name",
    "lr_scheduler.warmup_steps": "warmup_steps num_warmup_steps lr_warmup_steps warmup",
    "lr_scheduler.warmup_steps (a value below 1 is a fraction of the run)": "warmup_ratio lr_warmup_ratio",
    "lr_scheduler.min_ratio": "cosine_min_lr_ratio min_lr_rate min_lr_ratio",
    "lr_scheduler, a component such as torchtune.training.linear_with_warmup": (
        "lr_scheduler_type lr_scheduler_kwargs lr_scheduler scheduler"
    ),
    "clip_grad_norm": "max_grad_norm gradient_clipping gradient_clip_val grad_clip max_norm",
    "batch_size": (
        "per_device_train_batch_size per_gpu_train_batch_size micro_batch_size train_batch_size"
        " train_micro_batch_size_per_gpu"
    ),
    "gradient_accumulation_steps": "grad_accum_steps accumulate_grad_batches",
    "epochs": "num_train_epochs num_epochs max_epochs n_epochs",
    "max_steps": "max_train_steps num_training_steps train_steps total_steps",
    "dataset.max_seq_len": (
        "max_seq_length max_seq_len max_length cutoff_len sequence_len seq_len seq_length block_size model_max_length"
    ),
    "loading.packing={length: 2048}": "sample_packing neat_packing packing packed pack",
    "dataset, a component such as torchtune.datasets.ChatDataset": (
        "datasets dataset dataset_name dataset_config train_file train_data train_dataset dataset_mixer data_path"
    ),
    "dataset.source": "dataset_path dataset_dir data_files",
    "dataset.split=train[:1000]": "max_samples max_train_samples dataset_train_split",
    "dataset.load_options={streaming: true}": "streaming dataset_streaming",
    "dataset.column": "dataset_text_field text_column",
    "dataset.system": "default_system default_system_message system_prompt",
    "dataset.template, or the tokenizer's own chat template in a ChatDataset": (
        "template chat_template chat_template_path chat_template_jinja prompt_template"
    ),
    "dataset.train_on_input": "train_on_inputs train_on_prompt completion_only_loss",
    "dataset.train_on": "assistant_only_loss mask_history roles_to_train",
    "shuffle": "shuffle_dataset shuffle_merged_datasets",
    "loading.workers": (
        "dataloader_num_workers num_workers dataset_num_proc dataset_processes preprocessing_num_workers"
    ),
    "loading.group_by_length": "group_by_length",
    "loading.token_cache": "dataset_prepared_path tokenized_path",
    "validation.dataset": "test_datasets eval_dataset val_dataset dataset_val eval_file validation_file",
    "validation.fraction": "val_set_size val_size test_size",
    "validation.every_n_steps": "eval_steps run_val_every_n_steps val_check_interval eval_interval",
    "validation.every_n_steps, a number of optimizer steps": (
        "eval_strategy evaluation_strategy evals_per_epoch do_eval"
    ),
    "validation.at_start": "eval_on_start",
    "validation.batch_size": "per_device_eval_batch_size eval_batch_size batch_size_val",
    "validation.patience": "early_stopping_patience",
    "validation.keep_best": "load_best_model_at_end metric_for_best_model",
    "validation.max_new_tokens": "eval_max_new_tokens",
    "dtype=bf16": "bf16 bfloat16",
    "dtype=fp16": "fp16 float16",
    "dtype=fp32": "fp32 float32",
    "dtype": "torch_dtype precision mixed_precision",
    "placement.weights_dtype=bf16, with dtype=bf16": "pure_bf16",
    "placement.fp8=true, with dtype=bf16": "fp8 use_fp8 enable_fp8_training",
    "dtype=bf16, which halves the size of the base model; quantization is not supported": (
        "load_in_4bit load_in_8bit quantization quantization_bit quantization_config quantization_method"
        " bnb_4bit_quant_type quantize_base qlora use_qlora"
    ),
    "placement.activation_checkpointing={}": (
        "activation_checkpointing gradient_checkpointing gradient_checkpointing_kwargs use_gradient_checkpointing"
        " enable_activation_checkpointing"
    ),
    "placement.activation_checkpointing={offload: true}": "activation_offloading enable_activation_offloading",
    "placement.compile": "compile torch_compile torch_compile_backend torch_compile_mode",
    "placement.lean_layers, which is true by default": (
        "use_liger_kernel enable_liger_kernel liger_kernel_config use_unsloth unsloth"
    ),
    "enable_fsdp=true": "fsdp fsdp_config fsdp_version ddp",
    "enable_fsdp=true, which shards the model like ZeRO stage 3": "deepspeed deepspeed_config zero_stage",
    "placement.sharding.cpu_offload": "fsdp_cpu_offload cpu_offload",
    "placement.sharding.reshard_after_forward": "fsdp_reshard_after_forward",
    "lora.rank": "lora_r lora_rank r",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.targets": "lora_target_modules lora_target target_modules lora_attn_modules",
    "lora.targets=[all-linear]": "lora_target_linear",
    "lora.kind": "dora use_dora peft_use_dora",
    "lora.rank_stabilized": "use_rslora peft_use_rslora",
    "lora, the section of a lora_finetune config that describes the adapters": (
        "adapter finetuning_type use_peft peft_config lora_config"
    ),
    "model_directory, a local folder, which tune download can create": (
        "model_name_or_path base_model model_name model_id model_path pretrained_model_name_or_path"
    ),
    "model, a component such as torchtune.formats.hf_decoder": "model_type base_model_config",
    "tokenizer, a component such as torchtune.tokenizers.auto_tokenizer": "tokenizer_type",
    "tokenizer_directory": "tokenizer_name tokenizer_name_or_path tokenizer_path tokenizer_config",
    "metric_logger, a component such as torchtune.utils.metric_logging.WandBLogger": (
        "report_to logger use_tensorboard use_wandb tensorboard wandb"
    ),
    "metric_logger.log_dir": "logging_dir",
    "metric_logger.project": "wandb_project",
    "metric_logger.entity": "wandb_entity",
    "metric_logger.name": "wandb_name run_name",
    "metric_logger.mode": "wandb_mode",
    "log_every_n_steps": "logging_steps log_interval log_every_steps",
    "checkpoints.every_n_steps": "save_every_n_steps save_steps save_interval checkpointing_steps",
    "checkpoints.every_n_steps, or checkpoints.at_epoch_ends": (
        "save_strategy saves_per_epoch save_every_n_epochs save_every_epoch"
    ),
    "checkpoints.keep": "save_total_limit",
    "checkpoints.asynchronous": "enable_async_checkpointing async_save",
    "output_dir": "output_path output_directory out_dir save_dir",
    "output_dir with a different path, or the option --overwrite": "overwrite_output_dir",
    "profiling={}": "profiler profiler_steps",
    "seed": "random_seed random_state data_seed",
    "device": "device_map accelerator",
    "device=cpu": "cpu use_cpu no_cuda",
    "max_new_tokens": "max_tokens max_completion_tokens",
    "temperature, where 0 corresponds to do_sample=false": "do_sample",
    "stop": "stop_sequences stop_strings",
}

_ONE_RUN: Final = "a command starts a single run; start several runs in a shell loop"
_VALIDATE: Final = "tune validate RECIPE --config NAME checks a config without running it"
_EXPORT: Final = "tune export RECIPE --config NAME prints every value of a config"
_IDIOMS: Final = {
    **dict.fromkeys(
        ("resume", "resume_from_checkpoint", "auto_resume_from_checkpoints"),
        "running the same command again resumes an unfinished run",
    ),
    **dict.fromkeys(("dry_run", "dryrun", "check", "validate", "validate_only"), _VALIDATE),
    **dict.fromkeys(("cfg", "print_config", "show_config"), _EXPORT),
    "list": "tune ls lists recipes and configs",
    "version": "use tune --version",
    "~": "fields cannot be removed; use KEY=null or KEY=default",
    "force": "use --overwrite",
    "-c": "use --config NAME",
    "multirun": _ONE_RUN,
    "-m": _ONE_RUN,
    "config_name": "use --config NAME",
    "-cn": "use --config NAME",
    "config_path": "use --config FILE",
    "defaults": "use _base_, the name of a config or a YAML file",
    **dict.fromkeys(
        ("num_processes", "num_gpus", "gpus", "num_workers_per_node", "nproc", "world_size", "devices"),
        "use tune --nproc_per_node N before the recipe",
    ),
    **dict.fromkeys(("num_machines", "num_nodes"), "use tune --nnodes N before the recipe"),
    **dict.fromkeys(("local_rank", "rank"), "torchrun assigns ranks: tune --nproc_per_node N RECIPE ..."),
    "cuda_visible_devices": "environment variables go before the command: CUDA_VISIBLE_DEVICES=0 tune ...",
    "_target_": "use _component_",
    "hydra": "Hydra's settings are not supported; output_dir sets the run's folder",
}
"""Advice for keys and options of Hydra, launchers and other programs."""
_PREFIX_HINTS: Final = {
    "~": "fields cannot be removed; use {1}=null or {1}=default",
    "++": "use {0}",
    "oc.env:": 'let the shell expand environment variables instead: "output_dir=$HOME/runs"',
    "now:": 'let the shell expand the date instead: "output_dir=runs/$(date +%F)"',
    "oc.": "OmegaConf's resolvers are not supported; use the path of a field, ${{a.b}}",
    "hydra:": "Hydra's settings are not supported; use the path of a field, ${{a.b}}",
    ".": "a key that only defines anchors must begin with x-, such as x-{0}",
    "x-": "x- keys are valid only at the top level of a file, and only YAML aliases (*name) can refer to them",
}
"""Advice by prefix of a key; `{0}` is the remainder of the key, `{1}` the remainder up to `=`."""

_SHARED_VALIDATION_FIELDS: Final = {"batch_size", "dataset", "max_new_tokens"}
"""Fields of `validation` that are also fields of a recipe."""
_RECIPE_SPECIFIC_FIELDS: Final = {
    "lora": "lora_finetune",
    **dict.fromkeys(("prompt", "system", "temperature", "top_k", "top_p"), "alpaca_generate"),
}
"""Fields that only one recipe has but that users may try in others, mapped to that recipe."""


@functools.cache
def _fields_by_key() -> dict[str, str]:
    return {key: text for text, keys in _FIELDS.items() for key in keys.split()}


def hint_for(key: str, known_fields: Iterable[object] = ()) -> str | None:
    """Return a hint for a key of another project or an idiom of another launcher; None for other keys.

    Args:
        key: An unknown key, the name in a reference, or a command-line argument without its dashes.
        known_fields: The names that would be valid instead of the key. Other fields are suggested only if exactly
            one recipe has them; the hint then names that recipe.
    """
    name, known_names = key.lower().replace("-", "_"), set(map(str, known_fields))
    if name in _fields_by_key():
        return _hint_for_context(_fields_by_key()[name], known_names)
    if name in _RECIPE_SPECIFIC_FIELDS and known_names and name not in known_names:
        return f"only the recipe {_RECIPE_SPECIFIC_FIELDS[name]} has this field"
    for start, text in _PREFIX_HINTS.items():
        if key.startswith(start) and key != start:
            remainder = key[len(start) :]
            return text.format(remainder, remainder.partition("=")[0])
    return _IDIOMS.get(name) or _IDIOMS.get(key)


def _hint_for_context(text: str, names: set[str]) -> str | None:
    """Return a hint with the full field path or only the argument, depending on the names that are valid."""
    path = re.split("[=, ]", text, maxsplit=1)[0]
    root, _, argument = path.rpartition(".")
    if path.partition(".")[0] in names:
        return f"use {text}"
    if root and argument in names - _SHARED_VALIDATION_FIELDS:
        return f"use {text.removeprefix(f'{root}.')}"
    recipe = _RECIPE_SPECIFIC_FIELDS.get(path.partition(".")[0])
    if recipe is None or not names:
        return None
    return f"use {text}" if recipe in text else f"use {text} in a config of the recipe {recipe}"
