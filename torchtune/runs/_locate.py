"""Where a model's weights are: in a Hugging Face folder, behind an adapter, or in a run's folder."""

import os
import shlex
from pathlib import Path

from attrs import frozen

from torchtune._near_paths import did_you_mean_path
from torchtune.files import read_json, unexpected
from torchtune.runs._folder import RunFolder
from torchtune.runs._missing import download_command, missing_model_hint

_CONFIG = "config.json"
_ADAPTER_CONFIG = "adapter_config.json"

StrPath = str | os.PathLike[str]


@frozen
class ModelFolders:
    """A model's folders."""

    base: Path
    """The Hugging Face folder of whole weights."""
    adapter: Path | None = None
    """The PEFT folder of what is added to them."""


def locate_model(folder: StrPath, adapter: StrPath | None = None) -> ModelFolders:
    """Find a model's weights by whatever folder they are known by.

    Args:
        folder: A Hugging Face folder; a PEFT folder, whose adapter_config.json names its base; or the folder of a
            fine-tuning run, of which `best/` is meant or, where there is none, `final/`.
        adapter: A PEFT folder or a LoRA run's, where `folder` is its base. None: the adapter that `folder` is, if it
            is one.

    Raises:
        FileNotFoundError: the folder is not there, nor an adapter's base, or `adapter` holds none.
        ValueError: a run has written no weights yet, an adapter names no base, or there are two adapters.
    """
    found = result_of(folder)
    if adapter is None:
        return ModelFolders(_base_of(found), found) if _is_adapter(found) else ModelFolders(found)
    if _is_adapter(found):
        raise ValueError(
            f"{folder} is an adapter itself, to which {adapter} cannot be added; name its base there, or leave one out"
        )
    own = result_of(adapter)
    if not _is_adapter(own):
        raise FileNotFoundError(
            f"{adapter} is no adapter: there is no {_ADAPTER_CONFIG} in {own}; whole weights are named by themselves"
        )
    return ModelFolders(found, own)


def result_of(folder: StrPath) -> Path:
    """Return the folder of weights in a run's folder; any other folder is returned as it is.

    If a run has both, `best/` is read and not `final/`; `weights_note` says so.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the run has written no weights yet.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(no_model(folder))
    folder = Path(folder)
    is_model = (folder / _CONFIG).is_file() or _is_adapter(folder)
    run = RunFolder(folder)
    if is_model or not run.has_begun:
        return folder
    if run.weights is not None:
        return run.weights
    command = run.read_record().get("command")
    again = f"`{shlex.join(map(str, command))}`" if isinstance(command, list) else "the same command"
    raise ValueError(
        f"{folder} holds a run that has not ended: there is neither final/ nor best/ in it; {again} continues it"
    )


def weights_note(folder: StrPath) -> str | None:
    """Tell which weights of a run's folder stand for it, where it has those of several steps; None for others.

    Args:
        folder: As in `locate_model`.
    """
    run = RunFolder(folder)
    if not run.best.is_dir() or result_of(folder) != run.best:
        return None
    if not run.final.is_dir():
        return f"{run.best} is used, the model with the lowest validation loss so far; the run has not ended"
    return (
        f"{run.best} is used, the model with the lowest validation loss; {run.final} is that of the last step"
    )


def check_whole_model(folder: StrPath) -> None:
    """Reject a folder that stands for a model without being one: an adapter's, or a run's.

    Args:
        folder: Where a Hugging Face folder is expected.

    Raises:
        ValueError: the message says which folder to name instead.
    """
    folder = Path(folder)
    if (folder / _CONFIG).is_file():
        return
    if _is_adapter(folder):
        raise ValueError(f"{folder} is an adapter, not a whole model; {_uses_of(folder)}")
    weights = weights_in(folder)
    if weights and _is_adapter(weights[0]):
        raise ValueError(
            f"{folder} is the folder of a run that trained an adapter, not a whole model; {_uses_of(weights[0])}"
        )
    if weights:
        raise ValueError(
            f"{folder} is a run's folder; name the weights in it, {' or '.join(map(str, weights))}"
        )


def weights_in(folder: StrPath) -> list[Path]:
    """Return the folders of weights in a run's folder, `final` first; none for other folders."""
    run = RunFolder(folder)
    return [path for path in (run.final, run.best) if path.is_dir()] if run.has_begun else []


def _uses_of(adapter: Path) -> str:
    """Tell what an adapter can be used for where a whole model is expected."""
    base = read_json(adapter / _ADAPTER_CONFIG).get("base_model_name_or_path") or "BASE"
    return (
        f"merge it into its base and name the result (tune convert {adapter} NEW_FOLDER), or continue it:"
        f" lora_finetune model_directory={base} lora.adapter_directory={adapter}"
    )


def check_model_folder(folder: StrPath) -> None:
    """Check that a folder is one that `locate_model` takes, without reading what is in it.

    Raises:
        FileNotFoundError: It is not there, or is not a folder of a model; the message says how to make one of it.
        ValueError: A run has written no weights yet.
    """
    path = result_of(folder)
    if not (path / _CONFIG).is_file() and not _is_adapter(path):
        raise FileNotFoundError(no_model(path))


def no_model(path: StrPath) -> str:
    """Return why a path is not a model's folder, and what makes a model's folder of it."""
    as_written, path = path, Path(path)
    made = f"models/{path.name.removesuffix(path.suffix) if path.is_file() else path.name}"
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return f"{path} is a GGUF file, not a folder; `tune convert {path} {made}` makes one of it"
        return f"{path} is a file, and a model is a folder; name the folder that it lies in"
    if not path.is_dir():
        hint = missing_model_hint(as_written)
        if hint:
            return f"there is no folder {path}; {hint}"
        return (
            f"there is no folder {path} (relative paths start at {Path.cwd()}); name a Hugging Face model's, an"
            " adapter's or a run's; tune download fetches a model, tune convert makes one of other files"
        )
    no_config = f"there is no {_CONFIG} in {path}"
    if (path / "params.json").is_file():
        return (
            f"{no_config}, which has Meta's own format; `tune convert {path} {made}-hf` makes a folder of it"
        )
    snapshots = sorted(path.glob(f"snapshots/*/{_CONFIG}"))
    if snapshots:
        return f"{no_config}, which is the hub's cache; name {snapshots[-1].parent}"
    files = sorted(path.glob("*.gguf"))
    if files:
        return f"{no_config}, but GGUF files; `tune convert {files[0]} {made}-hf` makes a folder of one"
    return f"{no_config}; a Hugging Face model's folder is expected (tune download fetches one)"


def _is_adapter(folder: Path) -> bool:
    return (folder / _ADAPTER_CONFIG).is_file()


def _base_of(adapter: Path) -> Path:
    """Find the base that an adapter names, as seen from here or from where its run was started."""
    path = adapter / _ADAPTER_CONFIG
    named = read_json(path).get("base_model_name_or_path")
    if not isinstance(named, str | None):
        raise unexpected(path, "base_model_name_or_path", named, "a folder, or the hub's name of a model,")
    how = f"name both, the base as model_directory and {adapter} as adapter_directory (adapter, in Python)"
    if not named:
        raise ValueError(f"{adapter / _ADAPTER_CONFIG} does not say what its base is; {how}")
    started_in = RunFolder(adapter.parent).read_record().get("folder")
    for start in ("", started_in if isinstance(started_in, str) else ""):
        base = Path(start, named)
        if base.is_dir():
            return result_of(base)
    missing = f"{adapter / _ADAPTER_CONFIG} says that its base is {named!r}, and there is no such folder"
    near = did_you_mean_path(named, Path.is_dir)
    command = download_command(named)
    if near:
        instead = f"; `{command}` fetches the one that it names" if command else ""
        raise FileNotFoundError(f"{missing}; {near} Then {how}{instead}")
    fetch = f"fetch it ({command}) and " if command else ""
    raise FileNotFoundError(f"{missing}; {fetch}{how}")
