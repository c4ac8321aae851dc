"""The output folder of a run: who may write into it, its frozen config, and its record."""

import fcntl
import json
import os
import platform
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define

from torchtune.config._classes import REQUIRED, fields
from torchtune.config._diff import ABSENT, differences
from torchtune.config._frozen import freeze, resolved_tree
from torchtune.config._interpolation import resolve_tree
from torchtune.config._layers import Layers
from torchtune.config._mistakes import ConfigError, Mistake
from torchtune.config._tree import as_path
from torchtune.config._trust import current_trust
from torchtune.config._yaml import inline_yaml, read_yaml

CONFIG_FILE = "config.yaml"
RECORD_FILE = "run.json"
LOCK_FILE = ".lock"

_PLOTS = ("plot.png", "plot.html")
_OF_A_START = {CONFIG_FILE, RECORD_FILE, LOCK_FILE.strip("."), *_PLOTS}
"""What is left of a run that ended before it had done anything."""
_OF_A_RUN = (
    "checkpoints",
    "metrics.jsonl",
    "samples.jsonl",
    "best",
    "final",
    "profile",
    "log.txt",
    "wandb_id.txt",
    *_PLOTS,
)
"""What else it writes, by the names that it has in the folder."""
ELSEWHERE = "choose another output_dir, or --overwrite"
"""What to do about a folder that holds something else than this run."""
_PATIENCE = 10.0
"""How long the start of a run on another node may take (seconds)."""


@define
class Run:
    """A claimed output folder."""

    folder: Path

    @property
    def file(self) -> Path:
        """The frozen config."""
        return self.folder / CONFIG_FILE

    def finished(self) -> None:
        """Record that the run is complete."""
        _update_record(self.folder, {"finished": _now()})


def settle_seed(layers: Layers, *, overwrite: bool = False) -> None:
    """Replace a null seed by that of the run in the output folder, or by one that is drawn; nothing is written.

    Args:
        layers: The config, not checked yet; one without an output folder is left as it is.
        overwrite: The run in the folder is not to be continued.
    """
    is_computed = layers.wanted is not None and "output_dir" in fields(layers.wanted)
    folder, _ = resolve_tree(layers.tree.get("output_dir", "" if is_computed else None), layers.tree)
    if isinstance(folder, str) and layers.tree.get("seed", REQUIRED) is None:
        layers.takes_any_seed = True
        seed = None if overwrite or not folder else _seed_in(folder)
        layers.tree["seed"] = secrets.randbelow(2**31) if seed is None else seed


def _seed_in(folder: str) -> Any:
    """Return the seed of the run in a folder; None where there is no run."""
    try:
        held = read_yaml(str(Path(folder, CONFIG_FILE))).value
    except ValueError:  # it holds no run, or no config that can be read, which `claim` says
        return None
    return held.get("seed") if isinstance(held, dict) else None


def claim(
    layers: Layers, output_dir: str, *, overwrite: bool = False, command: list[str] | None = None
) -> Run:
    """Freeze a config into its output folder, or find that the run there is to be continued.

    Args:
        layers: The checked config.
        output_dir: The folder.
        overwrite: Start anew, whatever the folder holds of an earlier run.
        command: What the user typed, for the record.

    Raises:
        ConfigError: The folder holds a finished run, or a run of another config, or cannot be written.
    """
    if "\0" in output_dir:
        raise _refuse(layers, "holds a NUL character, which no folder's name can")
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder, "a start of a run", patience=_PATIENCE):
            if overwrite:
                _clear(folder)
            if (folder / CONFIG_FILE).exists():
                _continue(layers, folder, command or sys.argv)
            else:
                _start(layers, folder, command or sys.argv)
    except LockedError as error:
        raise _refuse(layers, str(error)) from error
    except OSError as error:
        message = f"cannot write to {folder}: {error.strerror}"
        raise _refuse(layers, message, "choose another output_dir") from error
    return Run(folder)


class LockedError(ValueError):
    """Another process is at work in an output folder; the message says which."""


@contextmanager
def lock(folder: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of an output folder, which the system lets go of however this process ends.

    Args:
        folder: It exists.
        what: Who holds it, for others to read.
        patience: How long another start of a run is waited for, such as that on another node (seconds).

    Raises:
        LockedError: Somebody else holds it.
    """
    until = time.monotonic() + patience
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip()
                if holder.startswith("a run") or time.monotonic() > until:
                    raise LockedError(
                        f"{holder or 'another process'} is at work in {folder}; wait for it or end it, or choose"
                        " another output_dir"
                    ) from None
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
            else:
                break
        file.truncate(0)
        file.write(f"{what} ({socket.gethostname()}, process {os.getpid()})\n")
        file.flush()
        yield


def _start(layers: Layers, folder: Path, command: list[str]) -> None:
    text = freeze(layers).render()
    _write(folder / RECORD_FILE, json.dumps(record(command), indent=2) + "\n")
    _write(folder / CONFIG_FILE, text)


def _continue(layers: Layers, folder: Path, command: list[str]) -> None:
    """Refuse a run that is finished or another."""
    there = read_yaml(str(folder / CONFIG_FILE)).value
    if not isinstance(there, dict) or not there:
        raise _refuse(layers, f"{folder / CONFIG_FILE} holds no config", ELSEWHERE)
    if layers.takes_any_seed:  # another node may have begun this run since `settle_seed` looked
        layers.tree["seed"] = there.get("seed")
    here, may_change = freeze(layers), free(layers)
    # The folder may have moved, or be spelt in another way; what refers to it is still the same.
    same_place = {"output_dir": str(folder)}
    changed = [
        d
        for d in differences(resolved_tree(there | same_place), resolved_tree(here.tree | same_place))
        if d.path.split(".")[0] not in may_change
    ]
    if changed and _left_in(folder) <= _OF_A_START:
        _start(layers, folder, command)  # that run ended before it had done anything
        return
    if changed:
        count = f"{len(changed)} values differ" if len(changed) > 1 else "1 value differs"
        whole = _refuse(layers, f"{folder} holds a run of another config", f"{ELSEWHERE}; {count}")
        leaves = [
            Mistake("run", f"{_shown(d.left)} there, {_shown(d.right)} now", path=as_path(d.path))
            for d in changed
        ]
        leaves = [m._replace(location=layers.origin(m.path)) for m in leaves]
        raise ConfigError([*whole.mistakes, *leaves], "the output folder")
    if "finished" in read_record(folder):
        raise _refuse(layers, f"{folder} holds a finished run", f"{ELSEWHERE} to start anew")
    _write(folder / CONFIG_FILE, here.render())


def _left_in(folder: Path) -> set[str]:
    """Return what stands in a folder, without what a kill left half written."""
    return {path.name.strip(".") for path in folder.iterdir() if path.suffix != ".part"}


def free(layers: Layers) -> set[str]:
    """Return the fields that a continued run may change: those marked `MayChange`, and the folder's own name."""
    if layers.wanted is None:
        return {"output_dir"}
    marked = {name for name, f in fields(layers.wanted).items() if f.may_change}
    return {"output_dir", *marked}


def _shown(value: Any) -> str:
    return "nothing" if value is ABSENT else inline_yaml(value)


def _refuse(layers: Layers, message: str, suggestion: str = "") -> ConfigError:
    path = ("output_dir",)
    found = Mistake("run", message, suggestion, path, location=layers.origin(path))
    return ConfigError([found], "the output folder")


def _clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else that stands in the folder.

    Checkpoints lose their name first and the config is the last to go, so that no kill in between leaves a run that
    goes on from what was to be removed.
    """
    import shutil

    checkpoints, gone = folder / "checkpoints", folder / ".checkpoints.removed"
    if checkpoints.is_dir() and not checkpoints.is_symlink():
        shutil.rmtree(gone, ignore_errors=True)
        checkpoints.rename(gone)
    for name in (gone.name, *_OF_A_RUN, RECORD_FILE, CONFIG_FILE):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def way_on(folder: Path | str) -> str:
    """Say how a run goes on that was stopped: by the command that is in its record."""
    again = "the same command"
    if "--overwrite" in read_record(folder).get("command", ()):
        again += " without --overwrite"
    return f"{again} continues"


def record(command: list[str]) -> dict[str, Any]:
    """Return what else a run depends on: command, versions, threads, commit, machine, start."""
    trust = current_trust()
    return {
        "command": command,
        "folder": str(Path.cwd()),
        "allow": sorted(trust.packages),
        "trusted_folders": list(trust.folders),
        "versions": versions(),
        "threads": _threads(),
        "git": git_state(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "started": _now(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, torchtune and what was imported that has one and bears on numbers."""
    names = ("torchtune", "torch", "numpy", "datasets", "tokenizers", "sentencepiece")
    loaded = {n: getattr(sys.modules[n], "__version__", "") for n in names if n in sys.modules}
    return {"python": platform.python_version(), **{n: str(v) for n, v in loaded.items() if v}}


def _threads() -> int | None:
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None


def git_state() -> dict[str, Any] | None:
    """Return the commit of the folder that torchtune is in, and whether it is dirty; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 -- git
    except (OSError, subprocess.SubprocessError):
        return None
    lines = run.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def read_record(folder: Path | str) -> dict[str, Any]:
    """Return a run's record; empty where there is none that can be read."""
    try:
        found: dict[str, Any] = json.loads((Path(folder) / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def update_record(folder: Path | str, more: dict[str, Any]) -> None:
    """Add to a run's record, where there is one.

    Raises:
        OSError: It cannot be written.
    """
    if (Path(folder) / RECORD_FILE).exists():
        _update_record(Path(folder), more)


def _update_record(folder: Path, more: dict[str, Any]) -> None:
    _write(folder / RECORD_FILE, json.dumps({**read_record(folder), **more}, indent=2) + "\n")


def _write(file: Path, text: str) -> None:
    """Write beside and rename, so that a kill leaves the old file or the new one."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
