"""Words that are no verb, recipe or config of `tune`, each with what does that job."""

import re
from typing import Final, NamedTuple


class Job(NamedTuple):
    """Something that people ask for by a word that `tune` does not have."""

    words: str
    """What it is called: words that may stand after `tune`."""
    name: str
    """What it is, as the start of a sentence."""
    instead: str
    """What does it, here or elsewhere."""


NOT_HERE: Final = (
    Job(
        "dpo ipo kto orpo simpo cpo preference rlaif",
        "preference tuning has no recipe",
        "docs/own_recipe.md writes one, and TRL's DPOTrainer reads a run's final/",
    ),
    Job(
        "ppo grpo rloo reinforce rlhf rl reward",
        "reinforcement learning and reward models have no recipe",
        "TRL's GRPOTrainer and RewardTrainer read a run's final/",
    ),
    Job(
        "kd distill distillation",
        "distillation has no recipe",
        "a recipe with a scorer of your own does it (docs/own_recipe.md)",
    ),
    Job(
        "qlora qat quantize quantise quantization nf4 gptq awq bnb",
        "weights are not quantised",
        "LoRA with dtype=bf16 halves the base model's memory, and llama.cpp quantises a run's final/",
    ),
    Job(
        "gguf ggml",
        "GGUF files are read, and not written",
        "llama.cpp's convert_hf_to_gguf.py takes a run's final/, or the folder that tune convert makes of an adapter",
    ),
    Job(
        "serve server api deploy vllm ollama",
        "nothing is served",
        "vLLM (vllm serve FOLDER) and llama.cpp's server take a run's final/, or what tune convert makes of an adapter",
    ),
    Job(
        "eval evaluate eleuther_eval lm_eval harness benchmark",
        "benchmarks are not run",
        "EleutherAI's harness takes a run's final/ (lm_eval --model hf --model_args pretrained=FOLDER), an adapter"
        " after tune convert has merged it, or as pretrained=BASE,peft=FOLDER; validation.share=0.1 reports the loss of"
        " held-out rows",
    ),
    Job(
        "sweep search hpo tuner optuna multirun",
        "a call is one run",
        "a shell loop over overrides starts several, and tune plot compares them",
    ),
    Job(
        "push upload publish share",
        "nothing is uploaded",
        "hf upload OWNER/NAME runs/mine/final does it (huggingface_hub's command)",
    ),
    Job("login auth whoami", "there is no login", "tune download reads the token in HF_TOKEN"),
    Job(
        "webui ui gui studio dashboard",
        "there is no web page to click on",
        "tune data --html and tune plot write pages",
    ),
    Job(
        "vision image multimodal audio",
        "models read text alone",
        "TRL and LLaMA-Factory fine-tune models of images",
    ),
)
"""What torchtune does not do, and what does it."""

OTHERWISE: Final = (
    Job(
        "train finetune tune sft fit start learn",
        "a run is a recipe with a config",
        "tune lora_finetune --config lora model_directory=DIR dataset.source=rows.jsonl",
    ),
    Job(
        "pretrain cpt",
        "training on plain text is full_finetune",
        "tune full_finetune --config full model_directory=DIR dataset.source=texts.jsonl, rows with a column text",
    ),
    Job(
        "chat talk ask infer inference predict answer complete",
        "answers come from alpaca_generate",
        "tune alpaca_generate --config generate model_directory=runs/mine prompt='Who are you?', or no prompt, to chat",
    ),
    Job(
        "merge fuse merge_lora", "adapters are merged by tune convert", "tune convert runs/mine/final merged"
    ),
    Job(
        "resume continue restart",
        "the same command again resumes a run",
        "with --extend, it continues one that has finished",
    ),
    Job(
        "launch torchrun distributed accelerate deepspeed",
        "torchrun's options stand before the recipe",
        "tune --nproc_per_node 2 full_finetune --config full ...",
    ),
    Job(
        "tokenize tokenise preprocess prepare inspect preview",
        "rows are encoded as the run reads them",
        "tune data RECIPE --config CONFIG shows them, and loading.token_cache=FOLDER stores them",
    ),
    Job(
        "memory vram estimate",
        "memory is estimated by tune validate",
        "tune validate --memory RECIPE --config CONFIG",
    ),
    Job(
        "logs log watch monitor status metrics",
        "metrics.jsonl has a run's metrics",
        "tune plot runs/mine draws them",
    ),
    Job(
        "tensorboard",
        "TensorBoard reads the files of a logger",
        "a run writes them with metric_logger=torchtune.utils.metric_logging.TensorBoardLogger"
        " metric_logger.log_dir=runs/mine/tensorboard",
    ),
    Job(
        "wandb",
        "metrics go to Weights & Biases by a logger",
        "a run sends them with metric_logger=torchtune.utils.metric_logging.WandBLogger metric_logger.project=mine"
        " metric_logger.log_dir=runs/mine",
    ),
    Job("new init create copy", "recipes and configs are copied by tune cp", "tune cp lora my_run.yaml"),
    Job("list recipes configs models", "recipes and configs are listed by tune ls", "tune ls"),
    Job(
        "pull fetch get",
        "models are fetched by tune download",
        "tune download OWNER/NAME --output-dir FOLDER",
    ),
    Job(
        "check lint test dry_run",
        "configs are checked by tune validate",
        "tune validate RECIPE --config CONFIG",
    ),
    Job("version", "the version is an option", "tune --version"),
)
"""What torchtune does under another name."""

_IN_NAMES: Final = NOT_HERE[:5]
"""Methods, which other projects name recipes after: `lora_dpo_single_device`."""


def pointer_for(word: str) -> tuple[str, str] | None:
    """Return what a word that is no verb, recipe or config stands for, and what to do; None if it is in no table."""
    name = re.sub(r"[-.\s]", "_", word.lower())
    for job in (*NOT_HERE, *OTHERWISE):
        if name in job.words.split():
            return job.name, job.instead
    parts = set(name.split("_"))
    return next(((job.name, job.instead) for job in _IN_NAMES if parts & set(job.words.split())), None)
