"""Estimate the memory of a run from its config, and the effect of settings that would reduce it."""

import linecache
import re
import sys
from collections.abc import Iterator
from traceback import walk_tb
from types import TracebackType
from typing import Protocol, runtime_checkable

import torch
from attrs import evolve

from torchtune._pluralize import pluralize
from torchtune.config import Component, ConfigError, InstantiationError, instantiate
from torchtune.config.model import is_component
from torchtune.data import FixedWidths
from torchtune.formats import stored_dtypes
from torchtune.modules import Decoder, Hardware
from torchtune.placement import DTYPES, ActivationCheckpointing
from torchtune.runs.console import size_text
from torchtune.training._finetune_config import FinetuneConfig
from torchtune.training._lora import Lora
from torchtune.training._memory_estimate import GPU, MemoryEstimate, estimate_memory
from torchtune.training._sections import section_of

DEFAULT_LENGTH = 1024
"""Assumed length of a batch row (tokens) if neither the data nor packing limits it."""

_ADVICE = (
    "Reduce batch_size and raise gradient_accumulation_steps, set placement.activation_checkpointing.keep=inputs or"
    " dtype=bf16, or choose a smaller model; `tune validate --memory` estimates the memory"
)


class OutOfMemoryError(MemoryError):
    """Memory ran out; the message contains the line that failed, and settings that would reduce memory."""


@runtime_checkable
class ModelConfig(Protocol):
    """The fields of any config that describes a model, whether for a fine-tuning recipe or not."""

    @property
    def model(self) -> Component[Decoder]:
        """The model's architecture."""

    @property
    def model_directory(self) -> str | None:
        """Folder of the weights; None: random weights."""

    @property
    def device(self) -> str:
        """The device, a value of `Device`."""

    @property
    def dtype(self) -> str:
        """The compute precision, a key of `DTYPES` or auto."""


def build_meta_model(cfg: object) -> Decoder | None:
    """Build a config's model with its adapters on the meta device, or return None if the config is not a `ModelConfig`.

    Raises:
        InstantiationError: The model rejects its arguments.
        ValueError: No layer of the model matches the adapters' targets.
    """
    if (
        not isinstance(cfg, ModelConfig)
        or not is_component(cfg.model)
        or str(cfg.dtype) not in {"auto", *DTYPES}
    ):
        return None
    with torch.device("meta"):
        model: object = instantiate(cfg.model)
    if not isinstance(model, Decoder):  # an untyped config may contain anything
        return None
    lora = section_of(cfg, Lora)
    if lora is not None:
        lora.add_to(model)
    return model


def batch_shape(cfg: FinetuneConfig, model: Decoder, longest: int | None = None) -> tuple[int, int]:
    """Return the number of batch rows in a forward pass, and their maximum length (tokens).

    Args:
        cfg: The config, which sets the length of packs.
        model: The model, whose `max_seq_len` limits the length.
        longest: The length of the longest example; None: 1,024 tokens are assumed.
    """
    packing, limit = cfg.loading.packing, model.architecture.max_seq_len
    length = min((longest or DEFAULT_LENGTH) if packing is None else packing.length, limit)
    if packing is None and not _is_for_cpu(cfg.device):
        length = FixedWidths(longest=limit).padded_width(length)
    return cfg.batch_size, length


def estimate_run_memory(
    cfg: ModelConfig, model: Decoder, ranks: int = 1, longest: int | None = None
) -> MemoryEstimate:
    """Estimate a run's memory on each rank; if the config is not a `FinetuneConfig`, estimate only the weights.

    Args:
        cfg: The config.
        model: The config's model, on the meta device.
        ranks: Number of ranks.
        longest: As for `batch_shape`.

    Raises:
        InstantiationError: The optimizer rejects its arguments.
    """
    if not isinstance(cfg, FinetuneConfig):
        return estimate_memory(
            model, None, dtype=_dtype_of(cfg), ranks=ranks, hardware=_hardware_of(cfg.device)
        )
    return estimate_memory(
        model,
        cfg.optimizer,
        cfg.placement,
        dtype=_dtype_of(cfg),
        ranks=ranks,
        enable_fsdp=cfg.enable_fsdp,
        batch=batch_shape(cfg, model, longest),
        accumulates=cfg.gradient_accumulation_steps != 1,
        hardware=_hardware_of(cfg.device),
    )


def estimate_without_fsdp(
    cfg: ModelConfig, model: Decoder, ranks: int = 1, longest: int | None = None
) -> MemoryEstimate | None:
    """Estimate a run's memory with `enable_fsdp=false`, if the run shards a model whose weights are mostly frozen.

    FSDP gathers frozen weights in every pass, which takes time; gradients and optimizer state of adapters are small.

    Args:
        cfg: The config.
        model: As for `estimate_run_memory`.
        ranks: Number of ranks.
        longest: As for `batch_shape`.

    Returns:
        The estimate; None if the run does not shard its model, or trains at least half of its weights.
    """
    if not isinstance(cfg, FinetuneConfig) or not cfg.enable_fsdp or ranks == 1:
        return None
    if 2 * sum(p.numel() for p in model.parameters() if p.requires_grad) >= sum(
        p.numel() for p in model.parameters()
    ):
        return None
    placement = evolve(cfg.placement, sharding=None)
    return estimate_run_memory(evolve(cfg, placement=placement, enable_fsdp=False), model, ranks, longest)


def mapped_bytes(cfg: ModelConfig, model: Decoder, ranks: int = 1) -> int:
    """Return the bytes of memory-mapped weights: on a single CPU rank, the frozen weights that are not cast.

    Args:
        cfg: The config; the headers of its weight files are read, if the files exist.
        model: The config's model, after `estimate_run_memory`, which casts its parameters.
        ranks: Number of ranks.
    """
    if ranks > 1 or not cfg.model_directory or not _is_for_cpu(cfg.device):
        return 0
    try:
        stored = stored_dtypes(cfg.model_directory)
    except (OSError, ValueError):
        return 0
    frozen = [p for p in model.parameters() if not p.requires_grad]
    return sum(p.numel() * p.element_size() for p in frozen if stored == {p.dtype})


def _dtype_of(cfg: ModelConfig) -> str:
    """Return the compute precision of a run, without probing for a GPU."""
    if cfg.dtype != "auto":
        return cfg.dtype
    return "fp32" if _is_for_cpu(cfg.device) or cfg.device == "mps" else "bf16"


def _hardware_of(device: str) -> Hardware:
    """Return the hardware of a config's device, without probing for a GPU."""
    if _is_for_cpu(device):
        return Hardware("cpu")
    return Hardware("mps") if device == "mps" else GPU


def _is_for_cpu(device: str) -> bool:
    """Return whether a run would use a CPU, without probing for a GPU, which costs a second and GPU memory."""
    has_gpu_build = (
        torch.version.cuda is not None or torch.version.hip is not None or sys.platform == "darwin"
    )
    return device == "cpu" or (device == "auto" and not has_gpu_build)


def memory_savings(cfg: FinetuneConfig, ranks: int = 1) -> list[tuple[str, int]]:
    """Return the settings that would reduce the memory of a rank, with the approximate bytes saved, largest first.

    Args:
        cfg: A fine-tuning recipe's config.
        ranks: Number of ranks.
    """
    current = _estimated_bytes(cfg, ranks)
    if current is None:
        return []
    savings = []
    for overrides, changed in _changes(cfg, ranks):
        reduced = _estimated_bytes(changed, ranks)
        if reduced is not None and current - reduced > 0.02 * current:
            savings.append((overrides, current - reduced))
    sharding = cfg.placement.sharding
    if cfg.enable_fsdp and cfg.device != "cpu" and not (sharding and sharding.cpu_offload):
        model = build_meta_model(cfg)
        if model is not None:
            savings.append(
                ("placement.sharding.cpu_offload=true", estimate_run_memory(cfg, model, ranks).total)
            )
    return sorted(savings, key=lambda saving: -saving[1])


def _estimated_bytes(cfg: FinetuneConfig, ranks: int) -> int | None:
    try:
        model = build_meta_model(cfg)
        if model is None:
            return None
        estimate = estimate_run_memory(cfg, model, ranks)
    except (ConfigError, InstantiationError, ValueError):
        return None
    return estimate.total + estimate.activations


def _changes(cfg: FinetuneConfig, ranks: int) -> Iterator[tuple[str, FinetuneConfig]]:
    """Yield command-line overrides that may reduce memory, each with the resulting config."""
    placement, packing = cfg.placement, cfg.loading.packing
    if cfg.batch_size > 1:
        rows = -(-cfg.batch_size // 2)
        steps = 2 * cfg.gradient_accumulation_steps
        yield f"batch_size={rows} gradient_accumulation_steps={steps}", evolve(cfg, batch_size=rows)
    if placement.activation_checkpointing is None:
        checkpointed = evolve(placement, activation_checkpointing=ActivationCheckpointing())
        yield "placement.activation_checkpointing.keep=inputs", evolve(cfg, placement=checkpointed)
    if _dtype_of(cfg) == "fp32":
        yield "dtype=bf16", evolve(cfg, dtype="bf16")
    if placement.weights_dtype == "fp32":
        narrow = evolve(cfg, dtype="bf16", placement=evolve(placement, weights_dtype="bf16"))
        yield "dtype=bf16 placement.weights_dtype=bf16", narrow
    if ranks > 1 and not cfg.enable_fsdp:
        yield "enable_fsdp=true", evolve(cfg, enable_fsdp=True)
    if packing is not None and packing.length > 128:
        half = packing.length // 2
        loading = evolve(cfg.loading, packing=evolve(packing, length=half))
        yield f"loading.packing.length={half}", evolve(cfg, loading=loading)


def out_of_memory_error(error: BaseException, cfg: object, ranks: int) -> OutOfMemoryError:
    """Convert an out-of-memory error into an error whose message lists settings that would reduce memory.

    Args:
        error: An error for which `is_out_of_memory` returns True.
        cfg: The run's config.
        ranks: Number of ranks.
    """
    line = _recipe_line(error.__traceback__)
    message = f"memory ran out{f' in `{line}`' if line else ''}"
    request = re.search(r"[Tt]ried to allocate (\d[\d.]* ?\w+)", str(error))
    if request is not None:
        number, _, unit = request[1].partition(" ")
        message += f", when allocating {size_text(int(number)) if unit == 'bytes' else request[1]}"
    if not isinstance(cfg, FinetuneConfig):
        return OutOfMemoryError(message)
    try:
        model = build_meta_model(cfg)
        rows, length = (cfg.batch_size, DEFAULT_LENGTH) if model is None else batch_shape(cfg, model)
        savings = "; ".join(f"{size_text(saved)} with {name}" for name, saved in memory_savings(cfg, ranks))
    except Exception:  # any error, because memory may also run out during the estimate
        return OutOfMemoryError(f"{message}. {_ADVICE}")
    shape = f"{pluralize(rows, 'row')} of {pluralize(length, 'token')}"
    advice = f"Estimated savings for {shape}: {savings}" if savings else "Choose a smaller model"
    return OutOfMemoryError(f"{message}. {advice}")


def _recipe_line(trace: TracebackType | None) -> str:
    """Return the recipe's source line that was running: the line of the outermost `main` in the traceback."""
    for frame, number in walk_tb(trace):
        if frame.f_code.co_name == "main":
            return linecache.getline(frame.f_code.co_filename, number).partition("#")[0].strip()
    return ""
