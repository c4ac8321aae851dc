"""Convert a YAML config of the original torchtune, field by field and component by component.

Names are from its public documentation and from the configs in its repository (versions 0.1 to 0.6):
https://docs.pytorch.org/torchtune/stable/. Fields without an equivalent are reported with the reason, and never dropped
silently.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define, field

from torchtune.migrate._datasets import ImportedDataset, import_dataset
from torchtune.migrate._models import candidate_models
from torchtune.migrate._tokenizers import import_tokenizer, no_equivalent

Tree = dict[str, Any]

SAME_FIELDS: Final = (
    "seed",
    "shuffle",
    "batch_size",
    "epochs",
    "max_steps_per_epoch",
    "gradient_accumulation_steps",
    "log_every_n_steps",
    "device",
    "prompt",
    "max_new_tokens",
    "temperature",
    "top_k",
)
"""Fields with the same meaning in torchtune."""

SWITCHES: Final = {
    "resume_from_checkpoint": "a run resumes when it is started again with the same output_dir",
    "optimizer_in_bwd": "the optimizer always steps after the backward pass",
    "memory_efficient_fsdp_wrap": "every layer is sharded separately",
    "custom_sharded_layers": "every layer is sharded separately",
    "save_adapter_weights_only": "a LoRA run always writes only the adapter",
    "low_cpu_ram": "weights are always read one tensor at a time",
    "use_fp8": "set placement.fp8=true, which requires dtype=bf16 and compiled layers",
    "enable_fp8_training": "set placement.fp8=true, which requires dtype=bf16 and compiled layers",
    "quantizer": "quantization is not supported",
    "enable_async_checkpointing": "checkpoints are written synchronously unless checkpoints.asynchronous is true",
    "async_save": "checkpoints are written synchronously unless checkpoints.asynchronous is true",
}
"""Fields that have an effect only if true, each with the reason why it has no equivalent."""

UNNEEDED: Final = {
    "log_peak_memory_stats",
    "enable_kv_cache",
    "log_level",
    "model_type",
    "cudnn_deterministic_mode",
}
"""Fields that need no equivalent: they are always enabled in torchtune, or do not affect results."""

LOSSES: Final = {
    "torchtune.modules.loss.CEWithChunkedOutputLoss",
    "torchtune.modules.loss.LinearCrossEntropyLoss",
    "torchtune.modules.loss.ChunkedCrossEntropyLoss",
}
SCHEDULES: Final = {
    "torchtune.modules.get_cosine_schedule_with_warmup",
    "torchtune.modules.lr_schedulers.get_cosine_schedule_with_warmup",
    "torchtune.training.get_cosine_schedule_with_warmup",
    "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
}
LOGGERS: Final = {
    "DiskLogger": ("log_dir", "filename"),
    "StdoutLogger": (),
    "TensorBoardLogger": ("log_dir",),
    "WandBLogger": ("log_dir", "project", "entity", "group", "name", "mode"),
}
"""Loggers with the same name in torchtune, each with the arguments that have the same meaning."""
MLP: Final = ["gate_proj", "up_proj", "down_proj"]
TARGETS: Final = {"output_proj": "o_proj"}
"""Linear layers with different names in torchtune."""


@define
class Import:
    """A conversion of a config of the original torchtune to a torchtune config.

    Attributes:
        old: The config of the original torchtune, with references to renamed fields resolved.
        exists: Returns whether a dotpath names a component of torchtune.
        new: The converted config.
        unmapped: Fields without an equivalent, by path, with the reason.
    """

    old: Tree
    exists: Callable[[str], bool]
    new: Tree = field(factory=dict)
    unmapped: dict[str, str] = field(factory=dict)
    changed: dict[str, str] = field(factory=dict)
    """Converted fields whose behavior differs from the original torchtune, by path, with the difference."""
    converted: set[str] = field(factory=set)
    """Fields of the original torchtune that have been converted."""
    max_seq_len: int | None = None
    """The length to which the original torchtune's tokenizer truncated rows; in torchtune, the dataset does."""
    truncate: str | None = None
    """The end at which the original torchtune's tokenizer truncated rows."""
    checkpoint_output: str | None = None
    """Output folder of the original torchtune's checkpointer; torchtune writes all files to `output_dir`."""

    @property
    def recipe(self) -> str:
        """The recipe for the converted config."""
        if "prompt" in self.old and "optimizer" not in self.old:
            return "alpaca_generate"
        return "lora_finetune" if "lora" in self.new else "full_finetune"

    def run(self, *, sharded: bool) -> None:
        """Convert the whole config.

        Args:
            sharded: Whether the config is for one of the original torchtune's distributed recipes.
        """
        self.model()
        self.checkpointer()
        self.tokenizer()
        self.fields(sharded=sharded)
        if self.recipe == "alpaca_generate":
            self.generation()
        else:
            self.dataset()
            self.validation()
            for part in (self.loss, self.optimizer, self.lr_scheduler, self.metric_logger):
                part()
        for name in self.old.keys() - self.converted:
            self.report_unknown(name, self.old[name])

    def take(self, name: str) -> Any:
        """Return a field of the original torchtune, and mark it as converted."""
        self.converted.add(name)
        return self.old.get(name)

    def component(self, name: str) -> tuple[str, Tree]:
        """Return the dotpath and arguments of a component of the original torchtune; both are empty without one."""
        tree = self.take(name)
        if not isinstance(tree, Mapping):
            return "", {}
        arguments = {key: value for key, value in tree.items() if key != "_component_"}
        return str(tree.get("_component_", "")), arguments

    def report_unmapped(self, path: str, arguments: Tree, reason: str = "") -> None:
        """Report arguments without an equivalent, unless their value is null or false, which has no effect."""
        for name, value in arguments.items():
            if value not in (None, False):
                self.unmapped[f"{path}.{name}"] = reason or f"{value!r} has no equivalent"

    def model(self) -> None:
        """Convert the model; a LoRA builder becomes a plain builder and a `lora` section."""
        path, arguments = self.component("model")
        family, _, name = path.rpartition(".")
        plain_name = (
            name.removeprefix("q").removeprefix("lora_") if name.startswith(("lora_", "qlora_")) else name
        )
        if plain_name != name:
            self.lora(arguments)
            if name.startswith("qlora_") or arguments.pop("quantize_base", False):
                self.unmapped["model.quantize_base"] = (
                    "the base model is loaded in `dtype`, without quantization"
                )
        builder = next(
            (candidate for candidate in candidate_models(family, plain_name) if self.exists(candidate)), None
        )
        if builder is not None:
            self.new["model"] = {"_component_": builder}
            self.report_unmapped("model", arguments)
        elif path:
            self.unmapped["model"] = no_equivalent(f"{family}.{plain_name}", "model")

    def lora(self, arguments: Tree) -> None:
        """Convert the arguments of a LoRA builder."""
        targets = [TARGETS.get(name, name) for name in arguments.pop("lora_attn_modules", [])]
        targets += MLP if arguments.pop("apply_lora_to_mlp", False) else []
        if arguments.pop("apply_lora_to_output", False):
            self.unmapped["model.apply_lora_to_output"] = "the output head cannot have an adapter"
        lora: Tree = {"targets": targets}
        if arguments.pop("use_dora", False):
            lora["kind"] = "dora"
        for old, new in (("lora_rank", "rank"), ("lora_alpha", "alpha"), ("lora_dropout", "dropout")):
            value = arguments.pop(old, None)
            if value is not None:
                lora[new] = value
        self.new["lora"] = lora

    def checkpointer(self) -> None:
        """Convert the folder that weights are read from; new weights are always written to `output_dir`."""
        path, arguments = self.component("checkpointer")
        self.new["model_directory"] = arguments.pop("checkpoint_dir", None)
        for name in ("checkpoint_files", "model_type", "safe_serialization", "should_load_recipe_state"):
            arguments.pop(name, None)  # these are read from the folder's index and config.json
        self.checkpoint_output = arguments.pop("output_dir", None)
        if path and "HF" not in path.rpartition(".")[2]:
            self.unmapped["checkpointer"] = "weights are read from a Hugging Face folder; see tune convert"
        self.report_unmapped("checkpointer", arguments, "a run resumes from its output_dir")

    def tokenizer(self) -> None:
        """Convert the tokenizer; the path of its file is relative to `tokenizer_directory`."""
        path, arguments = self.component("tokenizer")
        self.max_seq_len, self.truncate = (
            arguments.pop("max_seq_len", None),
            arguments.pop("truncation_type", None),
        )
        new_tokenizer, file, unmapped = import_tokenizer(path, arguments, self.exists)
        self.unmapped |= {f"tokenizer.{name}": reason for name, reason in unmapped.items()}
        if new_tokenizer:
            folder = str(file.parent)
            if folder.rstrip("/") != str(self.new["model_directory"]).rstrip("/"):
                self.new["tokenizer_directory"] = folder
            self.new["tokenizer"] = {
                "_component_": new_tokenizer,
                "path": f"${{tokenizer_directory}}/{file.name}",
            }
            self.report_unmapped("tokenizer", arguments)
        elif path:
            self.unmapped["tokenizer"] = no_equivalent(path, "tokenizer")

    def fields(self, *, sharded: bool) -> None:
        """Convert plain fields."""
        for name in SAME_FIELDS:
            if name in self.old:
                self.new[name] = self.take(name)
        output = self.take("output_dir") or self.checkpoint_output
        if output is not None:
            self.new["output_dir"] = output
        self.dtype()
        for name, reason in SWITCHES.items():
            if self.take(name):
                self.unmapped[name] = reason
        self.converted |= UNNEEDED
        self.placement(sharded=sharded)
        if self.recipe != "alpaca_generate":
            self.new["clip_grad_norm"] = self.take("clip_grad_norm")  # the original torchtune does not clip

    def placement(self, *, sharded: bool) -> None:
        """Convert sharding, activation checkpointing, compilation and profiling."""
        checkpointed = self.take("enable_activation_checkpointing")
        offloaded = self.take("enable_activation_offloading")
        compiled, profiler = self.take("compile"), self.take("profiler")
        on_cpu, resharded = self.take("fsdp_cpu_offload"), self.take("fsdp_reshard_after_forward")
        if self.recipe == "alpaca_generate":
            return
        self.new["enable_fsdp"] = sharded
        if not sharded:
            self.changed["enable_fsdp"] = (
                "the import sets this field to false, so that each rank has a full copy of the model; set it to true to"
                " shard the model"
            )
        section: Tree = {}
        if sharded and (on_cpu or resharded is False):
            section["sharding"] = {
                "cpu_offload": bool(on_cpu),
                "reshard_after_forward": resharded is not False,
            }
        if checkpointed or offloaded:
            section["activation_checkpointing"] = {"offload": bool(offloaded)}
        if compiled and offloaded:
            self.unmapped["compile"] = "layers with offloaded activations are not compiled"
        elif compiled:
            section["compile"] = True
        if section:
            self.new["placement"] = section
        if isinstance(profiler, Mapping) and profiler.get("enabled"):
            before = int(profiler.get("wait_steps") or 0) + int(profiler.get("warmup_steps") or 0)
            steps = int(profiler.get("active_steps") or 1)
            self.new["profiling"] = {"first_step": max(2, before + 1), "n_steps": steps}

    def dtype(self) -> None:
        """Convert the precision."""
        dtype = self.take("dtype")
        if dtype not in (None, "fp32", "bf16", "fp16"):
            self.unmapped["dtype"] = f"training in {dtype} is not supported; the run uses fp32"
            self.new["dtype"] = "fp32"
        elif dtype is not None:
            self.new["dtype"] = dtype
            if dtype == "bf16" and self.recipe == "full_finetune":
                self.changed["dtype"] = (
                    "computation is in bf16, but trained weights and optimizer state are fp32"
                )

    def dataset(self) -> None:
        """Convert the training data."""
        imported = self.rows("dataset", self.take("dataset"))
        if imported.new is not None:
            self.new["dataset"] = imported.new
        if imported.packing is not None:
            self.new["loading"] = {"packing": imported.packing}

    def validation(self) -> None:
        """Convert the validation data; the original torchtune only uses it if both of its fields are set."""
        every_n_steps, rows = self.take("run_val_every_n_steps"), self.take("dataset_val")
        batch_size = self.take("batch_size_val")
        if every_n_steps is None or rows is None:
            return
        imported = self.rows("dataset_val", rows)
        if imported.new is not None:
            section = {
                "dataset": imported.new,
                "every_n_steps": every_n_steps,
                "at_start": False,
                "keep_best": False,
            }
            self.new["validation"] = section | ({} if batch_size is None else {"batch_size": batch_size})

    def rows(self, name: str, value: Any) -> ImportedDataset:
        """Convert a dataset or a list of datasets, and report arguments without an equivalent."""
        imported = import_dataset(value, self.max_seq_len, self.truncate)
        self.unmapped |= {f"{name}.{key}".rstrip("."): reason for key, reason in imported.unmapped.items()}
        if imported.changed:
            self.changed[name] = imported.changed
        return imported

    def loss(self) -> None:
        """Convert the loss; its reduction and its ignored label are fixed in torchtune."""
        path, arguments = self.component("loss")
        for name in ("reduction", "ignore_index", "num_output_chunks", "tp_enabled", "mask_ignored_tokens"):
            arguments.pop(name, None)
        if path in LOSSES:
            self.new["loss"] = {"_component_": "torchtune.modules.LinearCrossEntropy"}
            self.report_unmapped("loss", arguments)
        elif path:
            self.keep_component("loss", path, arguments)

    def optimizer(self) -> None:
        """Convert the optimizer."""
        path, arguments = self.component("optimizer")
        if path:
            self.keep_component("optimizer", path, arguments)

    def lr_scheduler(self) -> None:
        """Convert the learning rate schedule; without a schedule, the learning rate is constant."""
        path, arguments = self.component("lr_scheduler")
        if path in SCHEDULES:
            schedule = {"_component_": "torchtune.training.cosine_with_warmup"}
            schedule["warmup_steps"] = arguments.pop("num_warmup_steps", 0)
            if arguments.pop("num_cycles", 0.5) != 0.5:
                self.unmapped["lr_scheduler.num_cycles"] = "the schedule is always half a cosine"
            self.new["lr_scheduler"] = schedule
            self.report_unmapped("lr_scheduler", arguments)
        elif path:
            self.keep_component("lr_scheduler", path, arguments)
        else:
            self.new["lr_scheduler"] = None

    def metric_logger(self) -> None:
        """Convert the logger."""
        path, arguments = self.component("metric_logger")
        name = path.rpartition(".")[2]
        if name in LOGGERS:
            logger = {"_component_": f"torchtune.utils.metric_logging.{name}"}
            logger |= {n: arguments.pop(n) for n in LOGGERS[name] if n in arguments}
            if name != "StdoutLogger":
                logger.setdefault("log_dir", "${output_dir}")
            self.new["metric_logger"] = logger
            self.report_unmapped("metric_logger", arguments)
        elif path:
            self.unmapped["metric_logger"] = (
                f"{path} has no equivalent; metrics.jsonl contains the metrics of every step"
            )

    def generation(self) -> None:
        """Convert the fields of the generation recipe."""
        self.new.pop("shuffle", None)
        prompt = self.new.get("prompt")
        if isinstance(prompt, Mapping):
            self.new["prompt"] = prompt.get("user")
            if prompt.get("system"):
                self.new |= {"system": prompt["system"], "template": "chat"}
        if "template" not in self.new:
            self.changed["prompt"] = (
                "the prompt is formatted with template=alpaca; the original torchtune did not format it"
            )
        for name in ("instruct_template", "chat_format"):
            value = self.take(name)
            if value is not None:
                self.unmapped[name] = f"{value} has no equivalent; use template=alpaca or template=chat"

    def keep_component(self, name: str, path: str, arguments: Tree) -> None:
        """Keep a component of another library, such as torch, or one whose name is unchanged."""
        if path.startswith("torchtune.") and not self.exists(path):
            self.unmapped[name] = f"{path} has no equivalent"
            return
        self.new[name] = {"_component_": path, **arguments}

    def report_unknown(self, name: str, value: Any) -> None:
        """Report an unknown field, unless it has an empty value."""
        if value not in (None, False, [], {}):
            self.unmapped[name] = "no equivalent"
