"""What a config takes in memory, and what would take less."""

import linecache
import re
import sys
from collections.abc import Iterator
from traceback import walk_tb
from types import TracebackType
from typing import Any

import torch
from attrs import evolve, has
from torch import nn

from torchtune.config import ConfigError, InstantiationError, instantiate
from torchtune.config.model import is_component
from torchtune.formats import stored_dtypes
from torchtune.training._activations import ActivationCheckpointing
from torchtune.training._needs import Needs, needs, size_text
from torchtune.training._placement import DTYPES
from torchtune.training._sharding import Sharding

ASSUMED = 1024
"""Positions of a row where neither the dataset nor the packing bounds them."""


class OutOfMemoryError(MemoryError):
    """Memory ran out; the message says in which line, and what would take less."""


def model_of(cfg: Any) -> nn.Module | None:
    """Build a config's model with its adapters on the meta device; None where the config has no model.

    Raises:
        InstantiationError: The model's own code refuses its arguments.
        ValueError: The model has no such layers as the adapters are for.
    """
    component = getattr(cfg, "model", None)
    if not is_component(component):
        return None
    with torch.device("meta"):
        model = instantiate(component)
    if not isinstance(model, nn.Module):
        return None
    add_to = getattr(getattr(cfg, "lora", None), "add_to", None)
    if callable(add_to):
        add_to(model)
    return model


def batch_of(cfg: Any) -> tuple[int, int] | None:
    """Return how many rows a config's forward pass has, and their positions at most (or 1,024, where nothing says)."""
    rows = getattr(cfg, "batch_size", None)
    if not isinstance(rows, int):
        return None
    given: Any = getattr(getattr(cfg, "dataset", None), "keywords", {})
    length = getattr(getattr(cfg, "packing", None), "length", None) or given.get("max_seq_len")
    return rows, length if isinstance(length, int) else ASSUMED


def needs_of(cfg: Any, model: nn.Module, ranks: int = 1) -> Needs:
    """Count what a config's model takes on each rank; fields that a config does not have are at their defaults.

    Raises:
        InstantiationError: The optimizer refuses its arguments.
    """
    optimizer, sharding = getattr(cfg, "optimizer", None), getattr(cfg, "sharding", None)
    is_trained = is_component(optimizer)
    return needs(
        model,
        optimizer if is_trained else None,
        dtype=_dtype_of(cfg, "dtype"),
        weights_dtype=_dtype_of(cfg, "weights_dtype"),
        ranks=ranks,
        enable_fsdp=getattr(cfg, "enable_fsdp", False) is True,
        replicas=sharding.replicas if isinstance(sharding, Sharding) else 1,
        batch=batch_of(cfg) if is_trained else None,
        activation_checkpointing=getattr(cfg, "activation_checkpointing", None),
        lean_layers=getattr(cfg, "lean_layers", False) is True and getattr(cfg, "compile", False) is not True,
        accumulates=getattr(cfg, "gradient_accumulation_steps", 1) != 1,
        on_cpu=_is_for_cpu(getattr(cfg, "device", None)),
    )


def _dtype_of(cfg: Any, field: str) -> str:
    dtype = getattr(cfg, field, None)
    return dtype if isinstance(dtype, str) and dtype in DTYPES else "fp32"


def mapped_bytes(cfg: Any, model: nn.Module, ranks: int = 1) -> int:
    """Return how many bytes of a config's frozen weights a run leaves in their file: on one CPU, what is not cast.

    Args:
        cfg: Its weights are looked at where they are there: at what the files say they hold, not at the tensors.
        model: The config's, as `needs_of` left it.
        ranks: Processes that share the work.
    """
    folder = getattr(cfg, "model_directory", None)
    if ranks > 1 or not folder or not _is_for_cpu(getattr(cfg, "device", None)):
        return 0
    try:
        stored = stored_dtypes(folder)
    except (OSError, ValueError):
        return 0
    frozen = [p for p in model.parameters() if not p.requires_grad]
    return sum(p.numel() * p.element_size() for p in frozen if stored == {p.dtype})


def _is_for_cpu(device: str | None) -> bool:
    """Tell whether a run would be on a CPU, without looking for a GPU, which takes a second, and memory on it."""
    built = torch.version.cuda is not None or torch.version.hip is not None or sys.platform == "darwin"
    return device == "cpu" or (device == "auto" and not built)


def ways_out(cfg: Any, ranks: int = 1) -> list[tuple[str, int]]:
    """Return settings that would lower what a rank holds, and by how many bytes, about; the most first.

    Args:
        cfg: A fine-tuning recipe's config.
        ranks: Processes that share the work.
    """
    now = _held(cfg, ranks)
    if now is None:
        return []
    savings = []
    for words, changes in _changes(cfg, ranks):
        then = _held(evolve(cfg, **changes), ranks)
        if then is not None and now - then > 0.02 * now:
            savings.append((words, now - then))
    sharding = getattr(cfg, "sharding", None)
    if sharding is None or not sharding.cpu_offload:
        model = model_of(cfg)
        if model is not None and getattr(cfg, "enable_fsdp", False) and getattr(cfg, "device", "") != "cpu":
            savings.append(("sharding.cpu_offload=true", needs_of(cfg, model, ranks).total))
    return sorted(savings, key=lambda saving: -saving[1])


def _held(cfg: Any, ranks: int) -> int | None:
    try:
        model = model_of(cfg)
        if model is None:
            return None
        counted = needs_of(cfg, model, ranks)
    except (ConfigError, InstantiationError, ValueError):
        return None
    return counted.total + counted.activations


def _changes(cfg: Any, ranks: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what could be set otherwise, in words of the command line and as values."""
    if cfg.batch_size > 1:
        rows = -(-cfg.batch_size // 2)
        steps = 2 * cfg.gradient_accumulation_steps
        yield f"batch_size={rows} gradient_accumulation_steps={steps}", {"batch_size": rows}
    if cfg.activation_checkpointing is None:
        yield "activation_checkpointing.keep=inputs", {"activation_checkpointing": ActivationCheckpointing()}
    if cfg.dtype == "fp32":
        yield "dtype=bf16", {"dtype": "bf16"}
    if cfg.weights_dtype == "fp32":
        yield "dtype=bf16 weights_dtype=bf16", {"dtype": "bf16", "weights_dtype": "bf16"}
    if ranks > 1 and not cfg.enable_fsdp:
        yield "enable_fsdp=true", {"enable_fsdp": True}
    if cfg.packing is not None and cfg.packing.length > 128:
        half = cfg.packing.length // 2
        yield f"packing.length={half}", {"packing": evolve(cfg.packing, length=half)}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is what torch or Python make of memory that is short."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def explain(error: BaseException, cfg: Any, ranks: int) -> OutOfMemoryError:
    """Make one message of an error that memory is short.

    Args:
        error: `is_out_of_memory` holds for it.
        cfg: The run's config.
        ranks: Processes that share the work.
    """
    line = _line_of(error.__traceback__)
    message = f"memory ran out{f' in `{line}`' if line else ''}"
    request = re.search(r"[Tt]ried to allocate (\d[\d.]* ?\w+)", str(error))
    if request is not None:
        number, _, unit = request[1].partition(" ")
        message += f", when {size_text(int(number)) if unit == 'bytes' else request[1]} more were asked for"
    if not has(type(cfg)) or not hasattr(cfg, "activation_checkpointing"):
        return OutOfMemoryError(message)
    rows, length = batch_of(cfg) or (0, 0)
    ways = "; ".join(f"{words} by {size_text(saved)}" for words, saved in ways_out(cfg, ranks))
    of = f"for {rows} rows of {length:,} positions"
    return OutOfMemoryError(f"{message}. What would lower it, about, {of}: {ways or 'a smaller model'}")


def _line_of(trace: TracebackType | None) -> str:
    """Return the line of the recipe that was at work: of the outermost `main` in the traceback."""
    for frame, number in walk_tb(trace):
        if frame.f_code.co_name == "main":
            return linecache.getline(frame.f_code.co_filename, number).partition("#")[0].strip()
    return ""
