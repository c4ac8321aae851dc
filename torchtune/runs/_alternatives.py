"""Names that users may try with `tune` although no command, recipe or config has them, with alternatives."""

import re
from typing import Final, NamedTuple


class Task(NamedTuple):
    """A task that users may request by a name that no command, recipe or config has."""

    keywords: str
    """Names for the task, separated by spaces."""
    summary: str
    """The status of the task in torchtune, as a clause."""
    alternative: str
    """A command of torchtune, or another project, for the task."""


UNSUPPORTED: Final = (
    Task(
        "dpo ipo kto orpo simpo cpo preference rlaif",
        "there is no recipe for preference tuning",
        "docs/custom_recipe.md shows how to write one, and TRL's DPOTrainer loads a run's final/",
    ),
    Task(
        "ppo grpo rloo reinforce rlhf rl reward",
        "there are no recipes for reinforcement learning or reward models",
        "TRL's GRPOTrainer and RewardTrainer load a run's final/",
    ),
    Task(
        "kd distill distillation",
        "there is no recipe for distillation",
        "write a recipe with your own scorer (docs/custom_recipe.md)",
    ),
    Task(
        "qlora qat quantize quantise quantization nf4 gptq awq bnb",
        "weights are not quantized",
        "LoRA with dtype=bf16 halves the base model's memory, and llama.cpp quantizes a run's final/",
    ),
    Task(
        "gguf ggml",
        "GGUF files can be read but not written",
        "llama.cpp's convert_hf_to_gguf.py converts a run's final/, or an adapter merged by tune convert",
    ),
    Task(
        "serve server api deploy vllm ollama",
        "torchtune has no server",
        "vLLM (vllm serve FOLDER) and llama.cpp's server load a run's final/, or an adapter merged by tune convert",
    ),
    Task(
        "eval evaluate eleuther_eval lm_eval harness benchmark",
        "torchtune does not run benchmarks",
        "EleutherAI's harness loads a run's final/ with lm_eval --model hf --model_args pretrained=FOLDER, and an"
        " adapter with pretrained=BASE,peft=FOLDER; validation.fraction=0.1 reports the loss on held-out rows",
    ),
    Task(
        "sweep search hpo tuner optuna multirun",
        "each command starts one run",
        "start runs in a shell loop over overrides, and compare them with tune plot",
    ),
    Task(
        "push upload publish share",
        "torchtune does not upload models",
        "use huggingface_hub's command: hf upload OWNER/NAME runs/mine/final",
    ),
    Task("login auth whoami", "there is no login", "tune download reads the token in HF_TOKEN"),
    Task(
        "webui ui gui studio dashboard",
        "there is no web interface",
        "tune data --html and tune plot write HTML pages",
    ),
    Task(
        "vision image multimodal audio",
        "only text models are supported",
        "TRL and LLaMA-Factory can fine-tune vision models",
    ),
)
"""Tasks that torchtune does not support, with alternatives."""

OTHER_NAMES: Final = (
    Task(
        "train finetune tune sft fit start learn",
        "to start a run, name a recipe and a config",
        "tune lora_finetune --config lora model_directory=DIR dataset.source=rows.jsonl",
    ),
    Task(
        "pretrain cpt",
        "full_finetune can train on plain text",
        "tune full_finetune --config full model_directory=DIR dataset.source=texts.jsonl, for rows with a text column",
    ),
    Task(
        "chat talk ask infer inference predict answer complete",
        "alpaca_generate answers prompts",
        "tune alpaca_generate --config generate model_directory=runs/mine prompt='Who are you?' (omit prompt to chat)",
    ),
    Task("merge fuse merge_lora", "tune convert merges adapters", "tune convert runs/mine/final merged"),
    Task(
        "resume continue restart",
        "running the same command again resumes a run",
        "add --extend to continue a finished run",
    ),
    Task(
        "launch torchrun distributed accelerate deepspeed",
        "torchrun's options go before the recipe",
        "tune --nproc_per_node 2 full_finetune --config full ...",
    ),
    Task(
        "tokenize tokenise preprocess prepare inspect preview",
        "rows are tokenized while the run reads them",
        "tune data RECIPE --config CONFIG shows them, and loading.token_cache=FOLDER stores them",
    ),
    Task(
        "memory vram estimate",
        "tune validate estimates memory",
        "tune validate --memory RECIPE --config CONFIG",
    ),
    Task(
        "logs log watch monitor status metrics",
        "a run's metrics are in metrics.jsonl",
        "tune plot runs/mine plots them",
    ),
    Task(
        "tensorboard",
        "a run can log metrics to TensorBoard",
        "set metric_logger=torchtune.utils.metric_logging.TensorBoardLogger"
        " metric_logger.log_dir=runs/mine/tensorboard",
    ),
    Task(
        "wandb",
        "a run can log metrics to Weights & Biases",
        "set metric_logger=torchtune.utils.metric_logging.WandBLogger metric_logger.project=mine"
        " metric_logger.log_dir=runs/mine",
    ),
    Task("new init create copy", "tune cp copies recipes and configs", "tune cp lora my_run.yaml"),
    Task("list recipes configs models", "tune ls lists recipes and configs", "tune ls"),
    Task(
        "pull fetch get",
        "tune download downloads models",
        "tune download OWNER/NAME --output-dir FOLDER",
    ),
    Task(
        "check lint test dry_run",
        "tune validate checks configs",
        "tune validate RECIPE --config CONFIG",
    ),
    Task("version", "tune --version prints the version", "tune --version"),
)
"""Tasks that torchtune supports under another name."""

_METHODS: Final = UNSUPPORTED[:5]
"""Training methods that other projects use in recipe names, such as `lora_dpo_single_device`."""


def alternative_for(name: str) -> tuple[str, str] | None:
    """Return the status of the task with this name, and an alternative; None if the name is unknown."""
    name = re.sub(r"[-.\s]", "_", name.lower())
    for task in (*UNSUPPORTED, *OTHER_NAMES):
        if name in task.keywords.split():
            return task.summary, task.alternative
    parts = set(name.split("_"))
    methods = (task for task in _METHODS if parts & set(task.keywords.split()))
    return next(((task.summary, task.alternative) for task in methods), None)
