"""Estimate the memory that a config needs, and which settings would lower it."""

import linecache
import re
import sys
from collections.abc import Iterator
from traceback import walk_tb
from types import TracebackType
from typing import Protocol, runtime_checkable

import torch
from attrs import evolve

from torchtune._counted import counted
from torchtune.config import Component, ConfigError, InstantiationError, instantiate
from torchtune.config.model import is_component
from torchtune.formats import stored_dtypes
from torchtune.modules import Decoder
from torchtune.runs.console import size_text
from torchtune.training._activations import ActivationCheckpointing
from torchtune.training._finetune_config import FinetuneConfig
from torchtune.training._lora import Lora
from torchtune.training._needs import Needs, needs
from torchtune.training._placement import DTYPES
from torchtune.training._sections import section_of

ASSUMED = 1024
"""Positions of a row if neither the dataset nor packing limits them."""


_LESS = (
    "Less is taken by a smaller batch_size with more gradient_accumulation_steps,"
    " placement.activation_checkpointing.keep=inputs, dtype=bf16, or a smaller model; tune validate --memory estimates"
)


class OutOfMemoryError(MemoryError):
    """Memory ran out; the message names the line, and settings that would take less."""


@runtime_checkable
class ModelConfig(Protocol):
    """The flat fields of a config that describes a model, a fine-tuning recipe's or another's."""

    @property
    def model(self) -> Component[Decoder]:
        """The model's architecture."""

    @property
    def model_directory(self) -> str | None:
        """Folder of the weights; None: random weights."""

    @property
    def device(self) -> str:
        """A `Device`."""

    @property
    def dtype(self) -> str:
        """The precision of computing, a key of `DTYPES` or auto."""


def model_of(cfg: object) -> Decoder | None:
    """Build a config's model with its adapters on the meta device; None if the config is no `ModelConfig`.

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
    if not isinstance(model, Decoder):  # a config of no declared type may hold anything
        return None
    lora = section_of(cfg, Lora)
    if lora is not None:
        lora.add_to(model)
    return model


def batch_of(cfg: FinetuneConfig, model: Decoder, longest: int | None = None) -> tuple[int, int]:
    """Return the rows of a config's forward pass, and their positions at most.

    Args:
        cfg: Packs have the length that it says.
        model: No row is longer than its `max_seq_len`.
        longest: The longest example, if the data are known; None: 1,024 positions are assumed.
    """
    packing = cfg.loading.packing
    length = (longest or ASSUMED) if packing is None else packing.length
    return cfg.batch_size, min(length, model.architecture.max_seq_len)


def needs_of(cfg: ModelConfig, model: Decoder, ranks: int = 1, longest: int | None = None) -> Needs:
    """Estimate what a config's model takes on each rank; of a config that is no `FinetuneConfig`, its weights alone.

    Args:
        cfg: The config.
        model: Its model on the meta device.
        ranks: Processes that share the work.
        longest: As for `batch_of`.

    Raises:
        InstantiationError: The optimizer rejects its arguments.
    """
    if not isinstance(cfg, FinetuneConfig):
        return needs(model, None, dtype=_dtype_of(cfg), ranks=ranks, on_cpu=_is_for_cpu(cfg.device))
    return needs(
        model,
        cfg.optimizer,
        cfg.placement,
        dtype=_dtype_of(cfg),
        ranks=ranks,
        enable_fsdp=cfg.enable_fsdp,
        batch=batch_of(cfg, model, longest),
        accumulates=cfg.gradient_accumulation_steps != 1,
        on_cpu=_is_for_cpu(cfg.device),
    )


def mapped_bytes(cfg: ModelConfig, model: Decoder, ranks: int = 1) -> int:
    """Return how many bytes of frozen weights stay backed by their file: on one CPU, those that are not cast.

    Args:
        cfg: The headers of its weight files are read, if the files exist.
        model: The config's, as `needs_of` left it.
        ranks: Processes that share the work.
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
    """Return the precision that a run would have, without probing for a GPU."""
    if cfg.dtype != "auto":
        return cfg.dtype
    return "fp32" if _is_for_cpu(cfg.device) or cfg.device == "mps" else "bf16"


def _is_for_cpu(device: str) -> bool:
    """Return whether a run would be on a CPU, without probing for a GPU, which takes a second and GPU memory."""
    has_gpu_build = (
        torch.version.cuda is not None or torch.version.hip is not None or sys.platform == "darwin"
    )
    return device == "cpu" or (device == "auto" and not has_gpu_build)


def memory_savings(cfg: FinetuneConfig, ranks: int = 1) -> list[tuple[str, int]]:
    """Return settings that would lower the memory of a rank, and by how many bytes, roughly; the largest first.

    Args:
        cfg: A fine-tuning recipe's config.
        ranks: Processes that share the work.
    """
    now = _held(cfg, ranks)
    if now is None:
        return []
    savings = []
    for words, changed in _changes(cfg, ranks):
        then = _held(changed, ranks)
        if then is not None and now - then > 0.02 * now:
            savings.append((words, now - then))
    sharding = cfg.placement.sharding
    if cfg.enable_fsdp and cfg.device != "cpu" and not (sharding and sharding.cpu_offload):
        model = model_of(cfg)
        if model is not None:
            savings.append(("placement.sharding.cpu_offload=true", needs_of(cfg, model, ranks).total))
    return sorted(savings, key=lambda saving: -saving[1])


def _held(cfg: FinetuneConfig, ranks: int) -> int | None:
    try:
        model = model_of(cfg)
        if model is None:
            return None
        counted = needs_of(cfg, model, ranks)
    except (ConfigError, InstantiationError, ValueError):
        return None
    return counted.total + counted.activations


def _changes(cfg: FinetuneConfig, ranks: int) -> Iterator[tuple[str, FinetuneConfig]]:
    """Yield changes of settings as on the command line, and the config with each."""
    placement, packing = cfg.placement, cfg.loading.packing
    if cfg.batch_size > 1:
        rows = -(-cfg.batch_size // 2)
        steps = 2 * cfg.gradient_accumulation_steps
        yield f"batch_size={rows} gradient_accumulation_steps={steps}", evolve(cfg, batch_size=rows)
    if placement.activation_checkpointing is None:
        checkpointed = evolve(placement, activation_checkpointing=ActivationCheckpointing())
        yield "placement.activation_checkpointing.keep=inputs", evolve(cfg, placement=checkpointed)
    if cfg.dtype == "fp32":
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


def explain(error: BaseException, cfg: object, ranks: int) -> OutOfMemoryError:
    """Turn an out-of-memory error into one message with alternatives.

    Args:
        error: `means_no_memory` holds for it.
        cfg: The run's config.
        ranks: Processes that share the work.
    """
    line = _line_of(error.__traceback__)
    message = f"memory ran out{f' in `{line}`' if line else ''}"
    request = re.search(r"[Tt]ried to allocate (\d[\d.]* ?\w+)", str(error))
    if request is not None:
        number, _, unit = request[1].partition(" ")
        message += f", when {size_text(int(number)) if unit == 'bytes' else request[1]} more were requested"
    if not isinstance(cfg, FinetuneConfig):
        return OutOfMemoryError(message)
    try:
        model = model_of(cfg)
        rows, length = (cfg.batch_size, ASSUMED) if model is None else batch_of(cfg, model)
        ways = "; ".join(f"{words} by {size_text(saved)}" for words, saved in memory_savings(cfg, ranks))
    except Exception:  # of whatever kind, as memory may be short for the estimate, too
        return OutOfMemoryError(f"{message}. {_LESS}")
    of = f"for {counted(rows, 'row')} of {counted(length, 'position')}"
    return OutOfMemoryError(f"{message}. Estimated savings {of}: {ways or 'a smaller model'}")


def _line_of(trace: TracebackType | None) -> str:
    """Return the line of the recipe that ran: in the outermost `main` of the traceback."""
    for frame, number in walk_tb(trace):
        if frame.f_code.co_name == "main":
            return linecache.getline(frame.f_code.co_filename, number).partition("#")[0].strip()
    return ""
