"""From a YAML of the original torchtune to one of ours: the map of its fields and components.

The names are those of its public documentation and of the configs in its repository (versions 0.1 to 0.6):
https://docs.pytorch.org/torchtune/stable/. What maps to nothing is noted with the reason, never dropped in silence.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define, field

from torchtune.migrate._datasets import ImportedDataset, import_dataset
from torchtune.migrate._models import model_places
from torchtune.migrate._tokenizers import import_tokenizer, why_none

Tree = dict[str, Any]

KEPT: Final = (
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
"""Fields that mean the same here."""

SWITCHES: Final = {
    "resume_from_checkpoint": "a run goes on by itself when it is started again with the same output_dir",
    "optimizer_in_bwd": "the optimizer steps after the backward pass",
    "memory_efficient_fsdp_wrap": "every layer is sharded by itself",
    "custom_sharded_layers": "every layer is sharded by itself",
    "save_adapter_weights_only": "a LoRA run always writes the adapter alone",
    "low_cpu_ram": "weights are always read part by part",
    "use_fp8": "fp8 is not trained in",
    "enable_fp8_training": "fp8 is not trained in",
    "quantizer": "nothing is quantised",
    "enable_async_checkpointing": "checkpoints are written by the run itself",
    "async_save": "checkpoints are written by the run itself",
}
"""Fields whose false or null needs no counterpart, and why a true one has none."""

NEEDLESS: Final = {
    "log_peak_memory_stats",
    "enable_kv_cache",
    "log_level",
    "model_type",
    "cudnn_deterministic_mode",
}
"""Fields that are always so here, or that change no result."""

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
"""Loggers that stand here under the same name, with the arguments that mean the same."""
MLP: Final = ["gate_proj", "up_proj", "down_proj"]
TARGETS: Final = {"output_proj": "o_proj"}
"""Names of its linear layers that are others here."""


@define
class Import:
    """An import as it goes on.

    Attributes:
        old: The original's config, references resolved where they lead to what moves.
        exists: Tells whether a dotpath names a component of ours.
        new: Our config.
        lost: What has no counterpart, by path, and why.
    """

    old: Tree
    exists: Callable[[str], bool]
    new: Tree = field(factory=dict)
    lost: dict[str, str] = field(factory=dict)
    changed: dict[str, str] = field(factory=dict)
    """What has a counterpart that does not mean the same, by path, and how it differs."""
    done: set[str] = field(factory=set)
    max_seq_len: int | None = None
    """What the original's tokenizer cut rows to; here the dataset does."""
    truncate: str | None = None
    """At which end it cut them."""
    checkpoint_output: str | None = None
    """Where its checkpointer wrote; here all goes to `output_dir`."""

    @property
    def recipe(self) -> str:
        """The recipe of ours that the config is for."""
        if "prompt" in self.old and "optimizer" not in self.old:
            return "alpaca_generate"
        return "lora_finetune" if "lora" in self.new else "full_finetune"

    def run(self, *, sharded: bool) -> None:
        """Import everything.

        Args:
            sharded: The config is for one of the original's distributed recipes.
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
        for name in self.old.keys() - self.done:
            self.unknown(name, self.old[name])

    def take(self, name: str) -> Any:
        """Return a field of the original's, and note that it was dealt with."""
        self.done.add(name)
        return self.old.get(name)

    def component(self, name: str) -> tuple[str, Tree]:
        """Return the dotpath and the arguments of one of its components; empty where there is none."""
        found = self.take(name)
        if not isinstance(found, Mapping):
            return "", {}
        arguments = {key: value for key, value in found.items() if key != "_component_"}
        return str(found.get("_component_", "")), arguments

    def lose(self, path: str, arguments: Tree, why: str = "") -> None:
        """Note arguments that have no counterpart; those that are null or false need none."""
        for name, value in arguments.items():
            if value not in (None, False):
                self.lost[f"{path}.{name}"] = why or f"{value!r} has no counterpart"

    def model(self) -> None:
        """Import the model; its LoRA builders become a plain one and a `lora` section."""
        path, given = self.component("model")
        family, _, name = path.rpartition(".")
        plain = name.removeprefix("q").removeprefix("lora_") if name.startswith(("lora_", "qlora_")) else name
        if plain != name:
            self.lora(given)
            if name.startswith("qlora_") or given.pop("quantize_base", False):
                self.lost["model.quantize_base"] = "the base is not quantised; it is held in dtype"
        found = next((ours for ours in model_places(family, plain) if self.exists(ours)), None)
        if found is not None:
            self.new["model"] = {"_component_": found}
            self.lose("model", given)
        elif path:
            self.lost["model"] = why_none(f"{family}.{plain}", "model")

    def lora(self, given: Tree) -> None:
        """Import the arguments of a LoRA builder."""
        targets = [TARGETS.get(name, name) for name in given.pop("lora_attn_modules", [])]
        targets += MLP if given.pop("apply_lora_to_mlp", False) else []
        if given.pop("apply_lora_to_output", False):
            self.lost["model.apply_lora_to_output"] = "the output head cannot have an adapter"
        lora: Tree = {"targets": targets}
        if given.pop("use_dora", False):
            lora["kind"] = "dora"
        for old, new in (("lora_rank", "rank"), ("lora_alpha", "alpha"), ("lora_dropout", "dropout")):
            value = given.pop(old, None)
            if value is not None:
                lora[new] = value
        self.new["lora"] = lora

    def checkpointer(self) -> None:
        """Import where weights come from; where they go to is `output_dir`."""
        path, given = self.component("checkpointer")
        self.new["model_directory"] = given.pop("checkpoint_dir", None)
        for name in ("checkpoint_files", "model_type", "safe_serialization", "should_load_recipe_state"):
            given.pop(name, None)  # the folder's index and config.json say this
        self.checkpoint_output = given.pop("output_dir", None)
        if path and "HF" not in path.rpartition(".")[2]:
            self.lost["checkpointer"] = "weights are read from a Hugging Face folder; see tune convert"
        self.lose("checkpointer", given, "a run goes on from its own output_dir")

    def tokenizer(self) -> None:
        """Import the tokenizer, its file relative to the model's folder where it lies there."""
        path, given = self.component("tokenizer")
        self.max_seq_len, self.truncate = given.pop("max_seq_len", None), given.pop("truncation_type", None)
        ours, file, lost = import_tokenizer(path, given, self.exists)
        self.lost |= {f"tokenizer.{name}": why for name, why in lost.items()}
        if ours:
            folder = str(file.parent)
            if folder.rstrip("/") != str(self.new["model_directory"]).rstrip("/"):
                self.new["tokenizer_directory"] = folder
            self.new["tokenizer"] = {"_component_": ours, "path": f"${{tokenizer_directory}}/{file.name}"}
            self.lose("tokenizer", given)
        elif path:
            self.lost["tokenizer"] = why_none(path, "tokenizer")

    def fields(self, *, sharded: bool) -> None:
        """Import plain fields."""
        for name in KEPT:
            if name in self.old:
                self.new[name] = self.take(name)
        output = self.take("output_dir") or self.checkpoint_output
        if output is not None:
            self.new["output_dir"] = output
        self.dtype()
        for name, why in SWITCHES.items():
            if self.take(name):
                self.lost[name] = why
        self.done |= NEEDLESS
        self.placement(sharded=sharded)
        if self.recipe != "alpaca_generate":
            self.new["clip_grad_norm"] = self.take("clip_grad_norm")  # none unless it says so

    def placement(self, *, sharded: bool) -> None:
        """Import how the model is split, what is kept for the backward pass, what is compiled and profiled."""
        checkpointed = self.take("enable_activation_checkpointing")
        offloaded = self.take("enable_activation_offloading")
        compiled, profiler = self.take("compile"), self.take("profiler")
        on_cpu, resharded = self.take("fsdp_cpu_offload"), self.take("fsdp_reshard_after_forward")
        if self.recipe == "alpaca_generate":
            return
        self.new["enable_fsdp"] = sharded
        if not sharded:
            self.changed["enable_fsdp"] = (
                "false; on several ranks each holds the whole model, unless it is true"
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
            self.lost["compile"] = "layers whose inputs wait in CPU memory are not compiled"
        elif compiled:
            section["compile"] = True
        if section:
            self.new["placement"] = section
        if isinstance(profiler, Mapping) and profiler.get("enabled"):
            before = int(profiler.get("wait_steps") or 0) + int(profiler.get("warmup_steps") or 0)
            steps = int(profiler.get("active_steps") or 1)
            self.new["profiling"] = {"first_step": max(2, before + 1), "n_steps": steps}

    def dtype(self) -> None:
        """Import the precision."""
        dtype = self.take("dtype")
        if dtype not in (None, "fp32", "bf16", "fp16"):
            self.lost["dtype"] = f"{dtype} is not trained in; fp32 is"
        elif dtype is not None:
            self.new["dtype"] = dtype
            if dtype == "bf16" and self.recipe == "full_finetune":
                self.changed["dtype"] = (
                    "computing is in bf16, trained weights and the optimizer's state are fp32"
                )

    def dataset(self) -> None:
        """Import the training data."""
        done = self.rows("dataset", self.take("dataset"))
        if done.new is not None:
            self.new["dataset"] = done.new
        if done.packing is not None:
            self.new["loading"] = {"packing": done.packing}

    def validation(self) -> None:
        """Import the held-out data; the original looks at it only where both its fields are set."""
        every, rows = self.take("run_val_every_n_steps"), self.take("dataset_val")
        batch_size = self.take("batch_size_val")
        if every is None or rows is None:
            return
        done = self.rows("dataset_val", rows)
        if done.new is not None:
            section = {"dataset": done.new, "every_n_steps": every, "at_start": False, "keep_best": False}
            self.new["validation"] = section | ({} if batch_size is None else {"batch_size": batch_size})

    def rows(self, name: str, value: Any) -> ImportedDataset:
        """Import a dataset, or a list of them, noting what it lacks."""
        done = import_dataset(value, self.max_seq_len, self.truncate)
        self.lost |= {f"{name}.{key}".rstrip("."): why for key, why in done.lost.items()}
        if done.changed:
            self.changed[name] = done.changed
        return done

    def loss(self) -> None:
        """Import the loss, whose reduction and ignored label are always the same here."""
        path, given = self.component("loss")
        for name in ("reduction", "ignore_index", "num_output_chunks", "tp_enabled", "mask_ignored_tokens"):
            given.pop(name, None)
        if path in LOSSES:
            self.new["loss"] = {"_component_": "torchtune.modules.LinearCrossEntropy"}
            self.lose("loss", given)
        elif path:
            self.keep("loss", path, given)

    def optimizer(self) -> None:
        """Import the optimizer."""
        path, given = self.component("optimizer")
        if path:
            self.keep("optimizer", path, given)

    def lr_scheduler(self) -> None:
        """Import the schedule; without one the rate is constant."""
        path, given = self.component("lr_scheduler")
        if path in SCHEDULES:
            made = {"_component_": "torchtune.training.cosine_with_warmup"}
            made["warmup_steps"] = given.pop("num_warmup_steps", 0)
            if given.pop("num_cycles", 0.5) != 0.5:
                self.lost["lr_scheduler.num_cycles"] = "the curve is half a cosine"
            self.new["lr_scheduler"] = made
            self.lose("lr_scheduler", given)
        elif path:
            self.keep("lr_scheduler", path, given)
        else:
            self.new["lr_scheduler"] = None

    def metric_logger(self) -> None:
        """Import the logger."""
        path, given = self.component("metric_logger")
        name = path.rpartition(".")[2]
        if name in LOGGERS:
            made = {"_component_": f"torchtune.utils.metric_logging.{name}"}
            made |= {n: given.pop(n) for n in LOGGERS[name] if n in given}
            if name != "StdoutLogger":
                made.setdefault("log_dir", "${output_dir}")
            self.new["metric_logger"] = made
            self.lose("metric_logger", given)
        elif path:
            self.lost["metric_logger"] = f"{path} is no logger of ours; metrics.jsonl has every step"

    def generation(self) -> None:
        """Import what the generation recipe reads."""
        self.new.pop("shuffle", None)
        prompt = self.new.get("prompt")
        if isinstance(prompt, Mapping):
            self.new["prompt"] = prompt.get("user")
            if prompt.get("system"):
                self.new |= {"system": prompt["system"], "template": "chat"}
        if "template" not in self.new:
            self.changed["prompt"] = (
                "it is put into template=alpaca; the original gave it to the model as it is"
            )
        for name in ("instruct_template", "chat_format"):
            value = self.take(name)
            if value is not None:
                self.lost[name] = f"{value} has no counterpart; template is alpaca or chat"

    def keep(self, name: str, path: str, given: Tree) -> None:
        """Keep a component that is not the original's own, such as torch's."""
        if path.startswith("torchtune.") and not self.exists(path):
            self.lost[name] = f"{path} has no counterpart"
            return
        self.new[name] = {"_component_": path, **given}

    def unknown(self, name: str, value: Any) -> None:
        """Note a field that is not in the map."""
        if value not in (None, False, [], {}):
            self.lost[name] = "has no counterpart"
