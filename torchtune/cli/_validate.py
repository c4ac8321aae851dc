"""`tune validate`: find every mistake in a config, and estimate memory use."""

import functools
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from torchtune import config, runs
from torchtune._similar_paths import did_you_mean_path
from torchtune.cli._command import (
    CONFIG_OPTIONS,
    COUNT_OPTIONS,
    JSON,
    RECIPE,
    Argument,
    Command,
    Form,
    write_json,
)
from torchtune.cli._memory_report import breakdown, summary
from torchtune.cli._mistakes import Mistakes
from torchtune.cli._run import count_ranks
from torchtune.config import ConfigError, InstantiationError, Mistake, model
from torchtune.config.model import dotted, is_component
from torchtune.runs import config_names
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import painted_mistakes, print_note

ALL = Option("--all", "validate every config in a folder (default: every registered config)", required=True)
MEMORY = Option("--memory", "show a breakdown of a training step's peak memory")
_SAMPLE_SIZE = 64
"""The number of rows to read for an estimate of the longest example."""


def run(call: Call) -> int:
    """Validate one config, all configs in a folder, or all registered configs."""
    ranks = count_ranks(call.launch)
    if call.has(ALL):
        if call.config or call.overrides:
            message = "validates every config in a folder, or every registered config"
            raise ConfigError.of_argument(ALL.text, message, "remove --config and the overrides")
        return validate_all(call.recipe, json=call.has(JSON))
    if not call.has(JSON):
        estimate = validate_config(call, ranks)
        sys.stdout.write(f"{summary(estimate)}\n")
        if estimate and call.has(MEMORY):
            sys.stdout.write("\n" + "".join(f"    {line}\n" for line in breakdown(estimate)))
        return 0
    outcome, error = _outcome(call, ranks)
    write_json(outcome)
    return 2 if error else 0


def validate_all(folder: str, *, json: bool = False) -> int:
    """Validate every registered config, or every config in a folder, and report all mistakes."""
    if folder:
        calls = runs.calls_in(folder)
    else:
        calls = [Call.for_config(recipe, name) for recipe, names in config_names().items() for name in names]
    outcomes = [(call, *_accept_required(*_outcome(call, 1))) for call in calls]
    if json:
        write_json([{"recipe": c.recipe, "config": c.config, **outcome} for c, outcome, _ in outcomes])
    else:
        for call, outcome, error in outcomes:
            name = f"{call.recipe} --config {call.config}" if call.recipe else str(call.config)
            if error is None:
                to_set = f" (to be set: {', '.join(outcome['to_set'])})" if "to_set" in outcome else ""
                sys.stdout.write(f"{name}: {summary(outcome.get('needs'), '; ')}{to_set}\n")
            else:
                sys.stderr.write(f"{name}: {painted_mistakes(error, sys.stderr)}\n")
    return 2 if any(error for *_, error in outcomes) else 0


def _outcome(call: Call, ranks: int) -> tuple[dict[str, Any], ConfigError | None]:
    """Return the result of validating a config as a JSON value, and the error if there are mistakes."""
    try:
        estimate = validate_config(call, ranks)
    except ConfigError as error:
        return {"ok": False, "mistakes": [_as_dict(m) for m in error.mistakes]}, error
    return {"ok": True, **({"needs": estimate} if estimate else {})}, None


def _accept_required(
    outcome: dict[str, Any], error: ConfigError | None
) -> tuple[dict[str, Any], ConfigError | None]:
    """Turn an error into success if the only mistakes are fields without a value that are set to `${required}`."""
    if error is None or not all(m.kind == "missing" and m.got for m in error.mistakes):
        return outcome, error
    return {"ok": True, "to_set": [dotted(m.path) for m in error.mistakes]}, None


def _as_dict(mistake: Mistake) -> dict[str, str]:
    """Return a mistake as a JSON value: its message and the parts of the message."""
    names = ("kind", "expected", "got", "suggestion", "location")
    parts = {name: str(getattr(mistake, name)) for name in names}
    return {**parts, "path": dotted(mistake.path), "message": mistake.sentence}


def validate_config(call: Call, ranks: int = 1) -> dict[str, int] | None:
    """Check a config and return its memory estimate, or None if it has no model.

    Raises:
        ConfigError: The config has mistakes; the error lists all of them.
    """
    if call.mistakes and not call.recipe:
        raise ConfigError(call.mistakes, str(call.config))
    recipe, layers, cfg = runs.checked_layers(call)
    mistakes = Mistakes(layers)
    decoder = _model_of(cfg, mistakes)
    if not mistakes.entries:
        for note in (*_missing_files(cfg), *_precision_notes(cfg)):
            print_note(note)
        if decoder is not None:
            from torchtune.checks import weight_errors

            mistakes.add_all(weight_errors(cfg, decoder))
    longest = _check_rows(cfg, decoder, mistakes)
    estimate = None
    if decoder is not None:
        from torchtune.checks import schedule_errors

        with mistakes.collect("optimizer"):
            estimate = _estimate(cfg, decoder, ranks, longest)
            mistakes.add_all(schedule_errors(cfg))
    if mistakes.entries:
        raise ConfigError(mistakes.entries, f"the config of {recipe.name}")
    return estimate


def _model_of(cfg: Any, mistakes: Mistakes) -> Any:
    """Build a config's model on the meta device.

    Returns:
        The model; None if the config has no model, the model's folder does not exist, or the model has mistakes.
    """
    if "torch" not in sys.modules:  # a recipe with a model has imported torch
        return None
    from torchtune.training import FinetuneConfig, build_meta_model

    folder = Path(dict(_folders(cfg)).get("model_directory") or ".")
    try:
        if isinstance(cfg, FinetuneConfig) and cfg.model_directory is not None and folder.is_dir():
            runs.check_full_model(folder)
    except ValueError as error:
        mistakes.add("model_directory", error)
        return None
    try:
        return build_meta_model(cfg)
    except InstantiationError as error:
        if folder.exists() or not isinstance(error.__cause__, FileNotFoundError):
            mistakes.add("model", error)
        else:
            print_note(f"the model is not checked, because its folder does not exist yet: {error.__cause__}")
    except ValueError as error:  # the adapters do not match the model
        mistakes.add("lora", error)
    except FileNotFoundError as error:  # the adapter to continue training is missing
        mistakes.add("lora.adapter_directory", error)
    return None


def _check_rows(cfg: Any, decoder: Any, mistakes: Mistakes) -> int | None:
    """Build the tokenizer and the datasets as a run would, if their files are local, and check a sample of rows.

    Returns:
        The length (tokens) of the longest example in a sample of the training rows; None if the rows are not local.
    """
    parts = _parts(cfg)
    local = {field: part for field, part in parts.items() if _is_local(part)}
    if "tokenizer" in parts and _has_tokenizer_folder(cfg):
        local = {"tokenizer": parts["tokenizer"], **local}
    if "tokenizer" not in local:
        return None
    opened: dict[str, Any] = {}
    arguments: list[Any] = []
    for field, part in local.items():
        try:
            built = config.instantiate(part, *arguments)
        except InstantiationError as error:
            mistakes.add(field, error.__cause__ or error)
            if not arguments:
                return None
        else:
            arguments = arguments or [built]
            opened[field] = built
    rows: Any = opened.get("dataset")
    sample = [] if rows is None else _sample(rows)
    if decoder is not None:
        from torchtune.checks import held_out_errors, row_errors, tokenizer_errors

        mistakes.add_all(tokenizer_errors(cfg, arguments[0], decoder))
        mistakes.add_all(row_errors(cfg, arguments[0], rows, sample, decoder))
        mistakes.add_all(held_out_errors(cfg, rows, opened.get("validation.dataset"), decoder))
    return _longest(sample)


def _sample(rows: Any) -> list[Any]:
    """Encode a sample of rows, evenly spaced across a dataset."""
    from torchtune.data import sample_indices

    return [rows[i] for i in sample_indices(rows, _SAMPLE_SIZE)]


def _longest(sample: list[Any]) -> int | None:
    """Return the length of the longest example in tokens; None if there are no examples."""
    from torchtune.data import SkippedRow, as_items

    items = (item for e in sample if not isinstance(e, SkippedRow) for item in as_items(e))
    return max((item.length for item in items), default=None)


def _has_tokenizer_folder(cfg: Any) -> bool:
    """Return whether the tokenizer's folder exists; if it does, a missing file in it is a mistake."""
    folder = dict(_folders(cfg)).get("tokenizer_directory")
    return isinstance(folder, str) and Path(folder).is_dir()


def _parts(cfg: object) -> dict[str, Any]:
    """Return the tokenizer and the datasets of a config by field path; the tokenizer comes first."""
    if "torch" not in sys.modules:
        return {}
    from torch.utils.data import Dataset

    from torchtune.data import Tokenizer

    parts = list(model.declared_components(cfg))
    kinds = (Tokenizer, Dataset)
    return {path: part for kind in kinds for path, declared, part in parts if declared is kind}


def _is_local(component: Any) -> bool:
    """Return whether a component only reads files that exist on this machine."""
    if not isinstance(component, functools.partial):  # an unchecked mapping, in a config without a class
        return False
    arguments: dict[str, Any] = dict(component.keywords)
    if "source" in model.parameters_of(component.func) and arguments.get("source") is None:
        return False
    lists = [value for value in arguments.values() if isinstance(value, list)]
    parts = filter(is_component, chain(*lists))
    files = [
        value for name, value in arguments.items() if name in ("path", "source") and isinstance(value, str)
    ]
    return all(map(_exists, files)) and all(map(_is_local, parts))


def _exists(path: str) -> bool:
    """Return whether a file exists, or a pattern matches a file."""
    import glob

    full_path = str(Path(path).expanduser())
    return Path(full_path).exists() or (
        glob.has_magic(full_path) and bool(glob.glob(full_path, recursive=True))  # noqa: PTH207 - Path.glob does not accept absolute patterns.
    )


def _missing_files(cfg: Any) -> Iterator[str]:
    """Yield a note for each missing file of a config, which may be meant for another machine."""
    paths = dict(_folders(cfg))
    for field, part in _parts(cfg).items():
        keywords: Mapping[str, Any] = part.keywords if isinstance(part, functools.partial) else {}
        paths |= {f"{field}.{name}": keywords[name] for name in ("path", "source") if name in keywords}
    missing: list[str] = []
    for name, value in paths.items():
        is_hub_name = name.endswith(".source") and "." not in str(value)
        if not isinstance(value, str) or is_hub_name or Path(value).exists():
            continue
        if name.startswith("tokenizer.") and _has_tokenizer_folder(cfg):
            continue
        if not any(value == other or value.startswith(f"{other}/") for other in missing):
            suggestion = did_you_mean_path(value)
            yield f"{name}: {value} does not exist yet" + (f"; {suggestion}" if suggestion else "")
        missing.append(value)


def _precision_notes(cfg: object) -> Iterator[str]:
    """Yield a note if a run on a GPU would not use the GPU's tensor cores."""
    if "torch" not in sys.modules:
        return
    from torchtune.training import FinetuneConfig

    if not isinstance(cfg, FinetuneConfig):
        return
    if (cfg.device, cfg.dtype, cfg.placement.tf32) == ("cuda", "fp32", False):
        yield (
            "dtype: fp32 does not use the tensor cores of a GPU, which are about 10 times as fast; set dtype=bf16, or"
            " placement.tf32=true for 10-bit mantissas in matrix products"
        )


def _folders(cfg: object) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a config's fields for model and tokenizer folders."""
    for name in model.field_names(type(cfg)) if model.is_section(type(cfg)) else ():
        if name.endswith("_directory"):
            yield name, getattr(cfg, name)


def _estimate(cfg: Any, model: Any, ranks: int, longest: int | None) -> dict[str, int]:
    from attrs import asdict

    from torchtune.training import (
        FinetuneConfig,
        batch_shape,
        estimate_run_memory,
        estimate_without_fsdp,
        mapped_bytes,
    )

    estimate = estimate_run_memory(cfg, model, ranks, longest)
    rows, length = batch_shape(cfg, model, longest) if isinstance(cfg, FinetuneConfig) else (0, 0)
    is_known = longest is not None or (isinstance(cfg, FinetuneConfig) and cfg.loading.packing is not None)
    mapped = mapped_bytes(cfg, model, ranks)
    unsharded = estimate_without_fsdp(cfg, model, ranks, longest)
    return {
        **asdict(estimate),
        "total": estimate.total,
        "rows": rows,
        "length": length,
        "is_length_known": is_known,
        "mapped": mapped,
        **({} if unsharded is None else {"peak_without_fsdp": unsharded.peak or unsharded.total}),
    }


COMMAND = Command(
    "validate",
    run,
    forms=(
        Form((RECIPE,), (*CONFIG_OPTIONS, MEMORY, JSON)),
        Form((Argument("[FOLDER]", min_count=0),), (ALL, JSON)),
    ),
    launch=COUNT_OPTIONS,
    description="""\
Reports every mistake in a config. For a valid config, prints `ok` and the memory
that each rank needs: weights, gradients and optimizer state (computed without
allocating the model), and an estimate of the activations' peak memory. Reads the
tokenizer and a sample of rows if they are local files. Checks that the names,
shapes and dtypes of weights in local files match the model.""",
    examples=(
        "tune validate lora_finetune --config smollm2_135m_lora",
        "tune validate --nproc_per_node 8 full_finetune --config alpaca_llama2_full_finetune",
        "tune validate --all my_configs/",
    ),
)
