"""Find a model's weights in a Hugging Face folder, an adapter's folder or a run's folder."""

import os
import shlex
from pathlib import Path

from attrs import frozen

from torchtune._similar_paths import did_you_mean_path
from torchtune.files import read_json, unexpected_value
from torchtune.runs._folder import RunFolder
from torchtune.runs._missing_model import download_command, missing_model_hint

_CONFIG = "config.json"
_ADAPTER_CONFIG = "adapter_config.json"

StrPath = str | os.PathLike[str]


@frozen
class ModelFolders:
    """A model's folders."""

    base: Path
    """The Hugging Face folder with the full weights."""
    adapter: Path | None = None
    """The PEFT folder of an adapter, if there is one."""


def locate_model(folder: StrPath, adapter: StrPath | None = None) -> ModelFolders:
    """Find the folders of a model's weights.

    Args:
        folder: A Hugging Face folder; a PEFT folder, whose adapter_config.json names its base; or the folder of a
            fine-tuning run, whose `best/` is used if it exists, else `final/`.
        adapter: A PEFT folder or the folder of a LoRA run, if `folder` is its base. If None, `folder` itself may be an
            adapter.

    Raises:
        FileNotFoundError: The folder or an adapter's base is missing, or `adapter` contains no adapter.
        ValueError: A run has written no weights yet, an adapter does not specify its base, or both arguments are
            adapters.
    """
    weights = weights_folder(folder)
    if adapter is None:
        return ModelFolders(_base_of(weights), weights) if _is_adapter(weights) else ModelFolders(weights)
    if _is_adapter(weights):
        raise ValueError(
            f"{folder} and {adapter} are both adapters; pass the base model instead of {folder}, or omit one of them"
        )
    adapter_weights = weights_folder(adapter)
    if not _is_adapter(adapter_weights):
        raise FileNotFoundError(
            f"{adapter} is not an adapter: there is no {_ADAPTER_CONFIG} in {adapter_weights}; omit the base"
        )
    return ModelFolders(weights, adapter_weights)


def weights_folder(folder: StrPath) -> Path:
    """Return the folder of weights in a run's folder; any other folder is returned unchanged.

    If a run has both `best/` and `final/`, `best/` is used, and `weights_note` reports this.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The run has written no weights yet.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(missing_model_message(folder))
    folder = Path(folder)
    is_model = (folder / _CONFIG).is_file() or _is_adapter(folder)
    run = RunFolder(folder)
    if is_model or not run.has_begun:
        return folder
    if run.weights is not None:
        return run.weights
    command = run.read_record().get("command")
    resume_command = f"`{shlex.join(map(str, command))}`" if isinstance(command, list) else "the same command"
    raise ValueError(
        f"the run in {folder} has no weights yet (neither final/ nor best/); to resume it, run {resume_command}"
    )


def weights_note(folder: StrPath) -> str | None:
    """Return a note on which of a run's weights are used; None if no note is needed.

    Args:
        folder: As in `locate_model`.
    """
    run = RunFolder(folder)
    if not run.best.is_dir() or weights_folder(folder) != run.best:
        return None
    if not run.final.is_dir():
        return f"using {run.best}, the model with the lowest validation loss so far; the run has not finished"
    return f"using {run.best}, the model with the lowest validation loss; {run.final} is the model of the last step"


def check_full_model(folder: StrPath) -> None:
    """Check that a folder is not an adapter or a run's folder, where a full model is expected.

    Args:
        folder: A Hugging Face folder; a missing folder is reported elsewhere.

    Raises:
        ValueError: The folder is an adapter or a run's folder; the message suggests another folder.
    """
    folder = Path(folder)
    if (folder / _CONFIG).is_file():
        return
    if _is_adapter(folder):
        raise ValueError(f"{folder} is an adapter, not a full model; {_adapter_advice(folder)}")
    weights = weights_in(folder)
    if weights and _is_adapter(weights[0]):
        raise ValueError(
            f"{folder} is the folder of a run that trained an adapter, not a full model; {_adapter_advice(weights[0])}"
        )
    if weights:
        raise ValueError(
            f"{folder} is a run's folder; use the weights in it, {' or '.join(map(str, weights))}"
        )


def weights_in(folder: StrPath) -> list[Path]:
    """Return the folders of weights in a run's folder, `final` first; empty for any other folder."""
    run = RunFolder(folder)
    return [path for path in (run.final, run.best) if path.is_dir()] if run.has_begun else []


def _adapter_advice(adapter: Path) -> str:
    """Return advice for using an adapter where a full model is expected."""
    base = read_json(adapter / _ADAPTER_CONFIG).get("base_model_name_or_path") or "BASE"
    return (
        f"merge it into its base (tune convert {adapter} NEW_FOLDER) and use that folder, or train the adapter further:"
        f" lora_finetune model_directory={base} lora.adapter_directory={adapter}"
    )


def check_model_folder(folder: StrPath) -> None:
    """Check that `locate_model` accepts a folder, without reading its contents.

    Raises:
        FileNotFoundError: The folder is missing or contains no model; the message explains how to get one.
        ValueError: A run has written no weights yet.
    """
    path = weights_folder(folder)
    if not (path / _CONFIG).is_file() and not _is_adapter(path):
        raise FileNotFoundError(missing_model_message(path))


def missing_model_message(path: StrPath) -> str:
    """Return a message that explains why a path is not a model's folder, and how to get a model."""
    as_written, path = path, Path(path)
    target = f"models/{path.name.removesuffix(path.suffix) if path.is_file() else path.name}"
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return f"{path} is a GGUF file; convert it to a model folder with `tune convert {path} {target}`"
        return f"{path} is a file, but a model is a folder; pass the folder that contains the file"
    if not path.is_dir():
        hint = missing_model_hint(as_written)
        if hint:
            return f"folder {path} does not exist; {hint}"
        return (
            f"folder {path} does not exist (relative paths are resolved against {Path.cwd()}); pass the"
            " folder of a Hugging Face model, an adapter or a run; tune download downloads a model, tune"
            " convert converts other formats"
        )
    no_config = f"there is no {_CONFIG} in {path}"
    if (path / "params.json").is_file():
        return f"{no_config}, which is in Meta's format; convert it with `tune convert {path} {target}-hf`"
    snapshots = sorted(path.glob(f"snapshots/*/{_CONFIG}"))
    if snapshots:
        return f"{no_config}, which is a folder of the Hugging Face cache; use {snapshots[-1].parent}"
    files = sorted(path.glob("*.gguf"))
    if files:
        return f"{no_config}, only GGUF files; convert one with `tune convert {files[0]} {target}-hf`"
    return f"{no_config}; expected the folder of a Hugging Face model (download one with tune download)"


def _is_adapter(folder: Path) -> bool:
    return (folder / _ADAPTER_CONFIG).is_file()


def _base_of(adapter: Path) -> Path:
    """Return the folder of an adapter's base, looked up first in the working directory, then in its run's."""
    path = adapter / _ADAPTER_CONFIG
    named = read_json(path).get("base_model_name_or_path")
    if not isinstance(named, str | None):
        raise unexpected_value(path, "base_model_name_or_path", named, "a folder or a Hugging Face model id")
    advice = (
        f"pass both: the base as model_directory and {adapter} as adapter_directory (`adapter` in Python)"
    )
    if not named:
        raise ValueError(f"{adapter / _ADAPTER_CONFIG} does not name the base model; {advice}")
    started_in = RunFolder(adapter.parent).read_record().get("folder")
    for start in ("", started_in if isinstance(started_in, str) else ""):
        base = Path(start, named)
        if base.is_dir():
            return weights_folder(base)
    missing = f"{adapter / _ADAPTER_CONFIG} names the base model {named!r}, but there is no such folder"
    suggestion = did_you_mean_path(named, Path.is_dir)
    command = download_command(named)
    if suggestion:
        download_hint = f"; or download the named model with `{command}`" if command else ""
        raise FileNotFoundError(f"{missing}; {suggestion} If so, {advice}{download_hint}")
    fetch = f"download it ({command}) and " if command else ""
    raise FileNotFoundError(f"{missing}; {fetch}{advice}")
