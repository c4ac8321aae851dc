"""`tune validate`: find every mistake in a config, and what its model needs."""

import functools
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from torchtune import config, runs
from torchtune._counted import counted
from torchtune._near_paths import did_you_mean_path
from torchtune.cli._mistakes import Mistakes
from torchtune.cli._run import ranks_of
from torchtune.cli._verb import CONFIG_OPTIONS, COUNT_OPTIONS, JSON, RECIPE, Argument, Form, Verb, write_json
from torchtune.config import ConfigError, InstantiationError, Mistake, model
from torchtune.config.model import dotted, is_component
from torchtune.runs import config_names
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import paint, painted_mistakes, print_note, size_text

ALL = Option("--all", required=True)
_LOOKED_AT = 64
"""Rows whose lengths are looked at."""
MEMORY = Option("--memory")


def run(call: Call) -> int:
    """Validate one config, a folder of them, or all that are registered."""
    ranks = ranks_of(call.launch)
    if call.has(ALL):
        if call.config or call.overrides:
            message = "validates every config of a folder, or every registered one"
            raise ConfigError.of_word(ALL.text, message, "name none beside it")
        return validate_all(call.recipe, json=call.has(JSON))
    if not call.has(JSON):
        needs = needs_of(call, ranks)
        sys.stdout.write(f"{_summary(needs)}\n")
        if needs and call.has(MEMORY):
            sys.stdout.write("\n" + "".join(f"    {line}\n" for line in _memory(needs)))
        return 0
    found, failed = _outcome(call, ranks)
    write_json(found)
    return 2 if failed else 0


def validate_all(folder: str, *, json: bool = False) -> int:
    """Validate every registered config, or every config in a folder, saying all that is wrong."""
    if folder:
        calls = runs.calls_in(folder)
    else:
        calls = [Call.of(recipe, name) for recipe, names in config_names().items() for name in names]
    outcomes = [(call, *_apart_from_required(*_outcome(call, 1))) for call in calls]
    if json:
        write_json([{"recipe": c.recipe, "config": c.config, **found} for c, found, _ in outcomes])
    else:
        for call, found, failed in outcomes:
            name = f"{call.recipe} --config {call.config}" if call.recipe else str(call.config)
            if failed is None:
                to_set = f", once {' and '.join(found['to_set'])} are set" if "to_set" in found else ""
                sys.stdout.write(f"{name}: {_summary(found.get('needs'), '; ')}{to_set}\n")
            else:
                sys.stderr.write(f"{name}: {painted_mistakes(failed, sys.stderr)}\n")
    return 2 if any(failed for *_, failed in outcomes) else 0


def _outcome(call: Call, ranks: int) -> tuple[dict[str, Any], ConfigError | None]:
    """Return what validating a config finds, for a script, and the mistakes if there are any."""
    try:
        found = needs_of(call, ranks)
    except ConfigError as error:
        return {"ok": False, "mistakes": [_as_dict(m) for m in error.mistakes]}, error
    return {"ok": True, **({"needs": found} if found else {})}, None


def _apart_from_required(
    found: dict[str, Any], failed: ConfigError | None
) -> tuple[dict[str, Any], ConfigError | None]:
    """Take an outcome for a good one if all that a config lacks is what it leaves to its user, by `${required}`."""
    if failed is None or not all(m.kind == "missing" and m.got for m in failed.mistakes):
        return found, failed
    return {"ok": True, "to_set": [dotted(m.path) for m in failed.mistakes]}, None


def _as_dict(mistake: Mistake) -> dict[str, str]:
    """Return a mistake for a script: what a reader sees, and the parts that it is made of."""
    names = ("kind", "expected", "got", "suggestion", "location")
    parts = {name: str(getattr(mistake, name)) for name in names}
    return {**parts, "path": dotted(mistake.path), "message": mistake.sentence}


def needs_of(call: Call, ranks: int = 1) -> dict[str, int] | None:
    """Check a config and return what its model needs, in numbers; None where it has none.

    Raises:
        ConfigError: With every mistake.
    """
    if call.mistakes and not call.recipe:
        raise ConfigError(call.mistakes, str(call.config))
    recipe, layers, cfg = runs.checked_layers(call)
    mistakes = Mistakes(layers)
    decoder = _model_of(cfg, mistakes)
    if not mistakes.found:
        for note in _absent(cfg):
            print_note(note)
        if decoder is not None:
            from torchtune.checks import weight_errors

            mistakes.add_all(weight_errors(cfg, decoder))
    longest = _check_rows(cfg, decoder, mistakes)
    needs = None
    if decoder is not None:
        from torchtune.checks import schedule_errors

        with mistakes.of("optimizer"):
            needs = _estimate(cfg, decoder, ranks, longest)
            mistakes.add_all(schedule_errors(cfg))
    if mistakes.found:
        raise ConfigError(mistakes.found, f"the config of {recipe.name}")
    return needs


def _model_of(cfg: Any, mistakes: Mistakes) -> Any:
    """Build a config's model on the meta device; None where it has none, its folder is not there, or it is wrong."""
    if "torch" not in sys.modules:  # a recipe that has a model has imported it
        return None
    from torchtune.training import FinetuneConfig, model_of

    folder = Path(dict(_folders(cfg)).get("model_directory") or ".")
    try:
        if isinstance(cfg, FinetuneConfig) and cfg.model_directory is not None and folder.is_dir():
            runs.check_whole_model(folder)
    except ValueError as error:
        mistakes.add("model_directory", error)
        return None
    try:
        return model_of(cfg)
    except InstantiationError as error:
        if folder.exists() or not isinstance(error.__cause__, FileNotFoundError):
            mistakes.add("model", error)
        else:
            reason = f"as its folder is not there yet: {error.__cause__}"
            print_note(f"it is not known what the model is and needs, {reason}")
    except ValueError as error:  # the adapters do not fit the model
        mistakes.add("lora", error)
    except FileNotFoundError as error:  # nor is there an adapter to be trained further
        mistakes.add("lora.adapter_directory", error)
    return None


def _check_rows(cfg: Any, decoder: Any, mistakes: Mistakes) -> int | None:
    """Build a local tokenizer, and read the first rows of local data, as the run would.

    Returns:
        The positions of the longest example among some of the training rows; None if these are not local.
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
    """Encode some rows, evenly spaced over a dataset."""
    from torchtune.data import spread

    return [rows[i] for i in spread(rows, _LOOKED_AT)]


def _longest(sample: list[Any]) -> int | None:
    """Return the positions of the longest of some examples; None if there are none."""
    from torchtune.data import LeftOut, items_of

    items = (item for e in sample if not isinstance(e, LeftOut) for item in items_of(e))
    return max((item.length for item in items), default=None)


def _has_tokenizer_folder(cfg: Any) -> bool:
    """Tell whether the folder of the tokenizer exists, so that a file that it lacks is a mistake."""
    folder = dict(_folders(cfg)).get("tokenizer_directory")
    return isinstance(folder, str) and Path(folder).is_dir()


def _parts(cfg: object) -> dict[str, Any]:
    """Return the components of a config that read text by their paths: the tokenizer first, then what takes it."""
    if "torch" not in sys.modules:
        return {}
    from torch.utils.data import Dataset

    from torchtune.data import Tokenizer

    parts = list(model.declared_components(cfg))
    kinds = (Tokenizer, Dataset)
    return {path: part for kind in kinds for path, declared, part in parts if declared is kind}


def _is_local(component: Any) -> bool:
    """Tell whether all files that a component reads are there, and none is on the hub."""
    if not isinstance(
        component, functools.partial
    ):  # of a config without a class, it is a mapping, not checked yet
        return False
    given: dict[str, Any] = dict(component.keywords)
    if "source" in model.parameters_of(component.func) and given.get("source") is None:
        return False
    lists = [value for value in given.values() if isinstance(value, list)]
    parts = filter(is_component, chain(*lists))
    files = [value for name, value in given.items() if name in ("path", "source") and isinstance(value, str)]
    return all(map(_is_there, files)) and all(map(_is_local, parts))


def _is_there(path: str) -> bool:
    import glob

    whole = str(Path(path).expanduser())
    return Path(whole).exists() or (glob.has_magic(whole) and bool(glob.glob(whole, recursive=True)))  # noqa: PTH207 - a Path takes no absolute pattern.


def _absent(cfg: Any) -> Iterator[str]:
    """Say which files of a config are not on this machine, which is no mistake where it will run on another."""
    named = dict(_folders(cfg))
    for field, part in _parts(cfg).items():
        keywords: Mapping[str, Any] = part.keywords if isinstance(part, functools.partial) else {}
        named |= {f"{field}.{name}": keywords[name] for name in ("path", "source") if name in keywords}
    absent: list[str] = []
    for name, value in named.items():
        is_hub_name = name.endswith(".source") and "." not in str(value)
        if not isinstance(value, str) or is_hub_name or Path(value).exists():
            continue
        if name.startswith("tokenizer.") and _has_tokenizer_folder(cfg):
            continue
        if not any(value == other or value.startswith(f"{other}/") for other in absent):
            near = did_you_mean_path(value)
            yield f"{name}: {value} is not there yet" + (f"; {near}" if near else "")
        absent.append(value)


def _folders(cfg: object) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a config that name folders of models and tokenizers."""
    for name in model.field_names(type(cfg)) if model.is_section(type(cfg)) else ():
        if name.endswith("_directory"):
            yield name, getattr(cfg, name)


def _estimate(cfg: Any, model: Any, ranks: int, longest: int | None) -> dict[str, int]:
    from attrs import asdict

    from torchtune.training import FinetuneConfig, batch_of, mapped_bytes, needs_of

    estimate = needs_of(cfg, model, ranks, longest)
    rows, length = batch_of(cfg, model, longest) if isinstance(cfg, FinetuneConfig) else (0, 0)
    is_known = longest is not None or (isinstance(cfg, FinetuneConfig) and cfg.loading.packing is not None)
    mapped = mapped_bytes(cfg, model, ranks)
    return {
        **asdict(estimate),
        "total": estimate.total,
        "rows": rows,
        "length": length,
        "is_length_known": is_known,
        "mapped": mapped,
    }


def _summary(needs: dict[str, int] | None, between: str = "\n    ") -> str:
    """Return `ok`, and what the model is and needs, on two lines or on one."""
    ok = paint("ok", "bold", "green")
    if needs is None:
        return ok
    whole, trained = needs["parameters"], needs["trainable"]
    held = f"{size_text(needs['weights'])} of weights"
    said = f"{ok}: {whole:,} parameters"
    if trained:
        said += f", {trained:,} trained ({trained / whole:.2%})"
        held += f" + {size_text(needs['gradients'])} of gradients"
        held += f" + {size_text(needs['optimizer'])} of optimizer state = {size_text(needs['total'])}"
    each = f"each of {needs['ranks']} ranks holds" if needs["ranks"] > 1 else "held"
    more = "activations"
    if needs["activations"]:
        of = _positions(needs)
        of += "" if needs["is_length_known"] else ", a length that is assumed until the data are there"
        more = f"about {size_text(needs['activations'])} of activations for {of}"
    return f"{said}{between}{each}: {held}, and {more}"


def _positions(needs: dict[str, int]) -> str:
    n_rows = needs["rows"]
    return f"{counted(n_rows, 'row')} of {counted(needs['length'], 'position')}"


def _memory(needs: dict[str, int]) -> Iterator[str]:
    """Yield the lines of what a rank holds in a step, and the most of it that is there at once."""
    mapped = f"of them {size_text(needs['mapped'])} stay in their file, which other processes share"
    rows = [
        ("weights", needs["weights"], mapped if needs["mapped"] else ""),
        ("optimizer state", needs["optimizer"], ""),
        ("gradients", needs["gradients"], ""),
    ]
    if needs["activations"]:
        rows.append(("activations", needs["activations"] - needs["loss"], f"for {_positions(needs)}"))
        more = [
            ("logits and loss", needs["loss"], ""),
            ("heap", needs["heap"], "between blocks, as measured on Linux"),
        ]
        rows += [row for row in more if row[1]]
    beside = "beside Python and what it imports, 0.3 GiB or so" if needs["heap"] else ""
    if needs["peak"] and needs["peak"] < sum(size for _, size, _ in rows):
        beside = "gradients come as activations go" + (f"; {beside}" if beside else "")
    for name, size, note in [*rows, *([("peak", needs["peak"], beside)] if needs["peak"] else [])]:
        yield f"{name:16}{size_text(size):>10}  {note}".rstrip()


VERB = Verb(
    "validate",
    run,
    forms=(
        Form((RECIPE,), (*CONFIG_OPTIONS, MEMORY, JSON)),
        Form((Argument("[FOLDER]", least=0),), (ALL, JSON)),
    ),
    launch=COUNT_OPTIONS,
    about="""\
Finds every mistake in a config, or says `ok`, and what each of the ranks holds:
weights, gradients and optimizer state, counted on tensors without memory, and
about what activations take at their peak. With --memory, line by line, up to the
most that a step holds at once. The tokenizer and the first rows of the data are
read where they are local files that exist; of weights, names, sizes and dtypes
are compared with the model.""",
    examples=(
        "tune validate lora_finetune --config smollm2_135m_lora",
        "tune validate --nproc_per_node 8 full_finetune --config alpaca_llama2_full_finetune",
        "tune validate --all my_configs/",
    ),
)
