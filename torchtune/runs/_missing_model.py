"""Hints for a missing model folder: a folder with a similar name, or a model on the Hugging Face hub."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from torchtune._bundled_packages import folder_of
from torchtune._similar_paths import similar_path

StrPath = str | os.PathLike[str]

_LOCAL = ("models", "runs", "checkpoints")
"""First parts of paths that are local even if the folder does not exist yet."""
_VARIANTS = {"instruct", "it", "pt", "chat", "base"}
"""Parts of names that distinguish variants of a model with the same size."""


def missing_model_hint(path: StrPath, accepts: Callable[[Path], bool] = Path.is_dir) -> str:
    """Return advice for getting the missing model at a path; empty if there is no similar folder or known model.

    Args:
        path: The path as the user typed it: `./a/b` is a path, but `a/b` may be a model id on the hub.
        accepts: Returns whether a path is of the expected kind.
    """
    similar = similar_path(path, accepts)
    command = download_command(path)
    if not _looks_like_hub_name(path):
        question = f"did you mean {similar}?" if similar else ""
        return " If not, ".join(filter(None, (question, f"download it with `{command}`" if command else "")))
    downloaded = Path("models", Path(path).name)
    similar = downloaded if accepts(downloaded) else similar
    if similar:
        return f"did you mean {similar}?"
    return f"if it is a model on the Hugging Face hub, download it with `{command}`"


def download_command(path: StrPath) -> str:
    """Return the command that downloads the model for a missing path; empty if no such model is known."""
    name = Path(path).name
    if _looks_like_hub_name(path):
        return f"tune download {path} --output-dir models/{name}"
    hub_name = _known_name(name)
    return f"tune download {hub_name} --output-dir {path}" if hub_name else ""


def _looks_like_hub_name(path: StrPath) -> bool:
    """Return whether a missing path has the form `owner/name` and does not begin with a local folder."""
    first = os.fspath(path).partition("/")[0]
    is_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", os.fspath(path)) is not None
    return is_name and first not in _LOCAL and not Path(first).is_dir()


def _known_name(name: str) -> str:
    """Return the hub id of a known model, given its name without the owner; empty for an unknown model."""
    owners: dict[str, str] = {}
    for hub_name in known_models():
        owner, _, model = hub_name.partition("/")
        if model.lower() == name.lower():
            return hub_name
        owners[_without_variant(model)] = owner
    owner = owners.get(_without_variant(name), "")
    return f"{owner}/{name}" if owner else ""


def _without_variant(name: str) -> str:
    return "-".join(part for part in name.lower().split("-") if part not in _VARIANTS)


def known_models() -> list[str]:
    """Return the hub ids that the model builders declare, without importing torch.

    The ids are read from string literals in the source, such as `"owner/name"` or `"owner/name or owner/other"`.
    """
    files = sorted(Path(folder_of("torchtune"), "models").glob("*.py"))
    name = r"[\w-]+/[\w.-]+"
    texts = re.findall(rf'"({name}(?: or {name})*)"', "".join(f.read_text(encoding="utf-8") for f in files))
    return [hub_name for text in texts for hub_name in text.split(" or ")]
