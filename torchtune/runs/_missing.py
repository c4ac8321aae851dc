"""What a missing folder of a model most likely means: one with a similar name, or a model of the hub."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from torchtune._near_paths import near_path
from torchtune._own_packages import folder_of

StrPath = str | os.PathLike[str]

_LOCAL = ("models", "runs", "checkpoints")
"""Folders that local paths begin with, even before they exist."""
_VARIANTS = {"instruct", "it", "pt", "chat", "base"}
"""Parts of names that tell variants of one size apart."""


def missing_model_hint(path: StrPath, accepts: Callable[[Path], bool] = Path.is_dir) -> str:
    """Tell how to get the model that a path names and that is not there; empty if nothing is known about it.

    Args:
        path: As the user wrote it: `./a/b` is a path, and `a/b` may be a name on the hub.
        accepts: Tells whether a path is of the expected kind.
    """
    near = near_path(path, accepts)
    command = download_command(path)
    if not _looks_like_hub_name(path):
        question = f"did you mean {near}?" if near else ""
        return " If not, ".join(filter(None, (question, f"`{command}` fetches it" if command else "")))
    downloaded = Path("models", Path(path).name)
    near = downloaded if accepts(downloaded) else near
    if near:
        return f"did you mean {near}?"
    return f"if it is a model on the Hugging Face hub, `{command}` fetches it"


def download_command(path: StrPath) -> str:
    """Return the command that fetches the model that a missing path names; empty if it names none."""
    name = Path(path).name
    if _looks_like_hub_name(path):
        return f"tune download {path} --output-dir models/{name}"
    known = _known_name(name)
    return f"tune download {known} --output-dir {path}" if known else ""


def _looks_like_hub_name(path: StrPath) -> bool:
    """Tell whether a path that does not exist has the form `owner/name` and does not begin with a local folder."""
    first = os.fspath(path).partition("/")[0]
    is_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", os.fspath(path)) is not None
    return is_name and first not in _LOCAL and not Path(first).is_dir()


def _known_name(name: str) -> str:
    """Return the name on the hub of a model of a known size, given it without its owner; empty for others."""
    owners: dict[str, str] = {}
    for known in known_models():
        owner, _, model = known.partition("/")
        if model.lower() == name.lower():
            return known
        owners[_without_variant(model)] = owner
    owner = owners.get(_without_variant(name), "")
    return f"{owner}/{name}" if owner else ""


def _without_variant(name: str) -> str:
    return "-".join(part for part in name.lower().split("-") if part not in _VARIANTS)


def known_models() -> list[str]:
    """Return the names on the hub that the builders of models declare, without importing torch.

    They are read from the code: each is a text such as `"owner/name"` or `"owner/name or owner/other"`.
    """
    files = sorted(Path(folder_of("torchtune"), "models").glob("*.py"))
    name = r"[\w-]+/[\w.-]+"
    texts = re.findall(rf'"({name}(?: or {name})*)"', "".join(f.read_text(encoding="utf-8") for f in files))
    return [known for text in texts for known in text.split(" or ")]
