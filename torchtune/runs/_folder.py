"""The output folder of a run: every file in it, who may write into it, and whether a run resumes there."""

import fcntl
import glob
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune._counted import counted
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import ABSENT, as_path, differences, inline_yaml, read_yaml
from torchtune.files import write_text
from torchtune.runs._extension import LENGTHS, is_any_raised, reached_limit
from torchtune.runs._provenance import KINDS, altered_inputs, provenance, surroundings
from torchtune.runs._record import now, record
from torchtune.runs._resume import Resume
from torchtune.runs.console import print_note

if TYPE_CHECKING:
    from torchtune.config.model import Difference, Layers

_PATIENCE = 10.0
"""How long the start of a run on another node may take (seconds)."""


class LockedError(ValueError):
    """Another process is at work in an output folder; the message says which."""


class RunFolder:
    """The output folder of a run, and the files in it by their names; it need not exist.

    Args:
        path: The config's `output_dir`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        """The frozen config."""
        self.record = self.path / "run.json"
        """What else the run depends on, and when it began and ended."""
        self.metrics = self.path / "metrics.jsonl"
        """One JSON object for each optimizer step."""
        self.samples = self.path / "samples.jsonl"
        """Answers to fixed prompts."""
        self.checkpoints = self.path / "checkpoints"
        """Everything that is needed to resume."""
        self.final = self.path / "final"
        """The trained weights."""
        self.best = self.path / "best"
        """Those of the lowest validation loss."""
        self.profile = self.path / "profile"
        """Traces of torch.profiler."""
        self.log = self.path / "log.txt"
        """Metrics as text."""
        self.wandb_id = self.path / "wandb_id.txt"
        """The id under which Weights & Biases knows the run."""
        self.plot = self.path / "plot"
        """What `tune plot` writes, without the endings of its two files."""
        self._plots = [self.plot.with_suffix(ending) for ending in (".png", ".html")]
        self.code = self.path / "code"
        """Copies of the user's own code."""
        self._results = [
            self.checkpoints,
            self.metrics,
            self.samples,
            self.best,
            self.final,
            self.profile,
            self.log,
            self.wandb_id,
        ]
        self._lock = self.path / ".lock"

    @property
    def has_begun(self) -> bool:
        """Whether a run was started here."""
        return self.config.is_file() or self.record.is_file()

    def written(self) -> list[Path]:
        """Return the absolute paths of the run's own files and folders; others in its folder may be the user's."""
        paths = [self.config, self.record, *self._results, *self._copies()]
        return [self.path.resolve() / path.relative_to(self.path) for path in paths]

    def _copies(self) -> list[Path]:
        """Return the copies of code that the record names; a folder of their name may be the user's."""
        return [self.code / name for name in self.read_record().get("code", {})]

    @property
    def weights(self) -> Path | None:
        """The folder of weights that stands for the run: `best` if there is one, else `final`."""
        return next((folder for folder in (self.best, self.final) if folder.is_dir()), None)

    def read_record(self) -> dict[str, Any]:
        """Return the record; empty where there is none that can be read."""
        try:
            values = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def update_record(self, values: Mapping[str, Any]) -> None:
        """Add to the record, where there is one.

        Raises:
            OSError: It cannot be written.
        """
        if self.record.exists():
            self._write_record({**self.read_record(), **values})

    def _write_record(self, values: Mapping[str, Any]) -> None:
        write_text(self.record, json.dumps(values, indent=2) + "\n")

    def finish(self) -> None:
        """Record that the run is complete."""
        self.update_record({"finished": now()})

    def resume_hint(self) -> str:
        """Say how the run resumes that was stopped: by the command that is in its record."""
        command = self.read_record().get("command", ())
        return f"the same command{' without --overwrite' * ('--overwrite' in command)} continues"

    @contextmanager
    def lock(self, holder: str, patience: float = 0.0) -> Iterator[None]:
        """Hold the folder's lock, which the system lets go of however this process ends.

        Args:
            holder: Who holds it, for others to read.
            patience: How long another start of a run is waited for, such as that on another node (seconds).

        Raises:
            LockedError: Somebody else holds it.
        """
        until = time.monotonic() + patience
        with self._lock.open("a+", encoding="utf-8") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    other = file.read().strip()
                    if other.startswith("a run") or time.monotonic() > until:
                        raise LockedError(
                            f"{other or 'another process'} is at work in {self.path}; wait for it or end it, or choose"
                            " another output_dir"
                        ) from None
                    time.sleep(0.05)
                except OSError:  # a file system without locks
                    break
                else:
                    break
            file.truncate(0)
            file.write(f"{holder} ({socket.gethostname()}, process {os.getpid()})\n")
            file.flush()
            yield

    def claim(self, layers: "Layers", command: list[str], allowed: Resume) -> None:
        """Freeze a config into the folder, or find that the run in it is to be resumed.

        Args:
            layers: The checked config.
            command: What the user typed, for the record.
            allowed: What may be done with a run that the folder holds.

        Raises:
            ConfigError: The folder holds a finished run, a run of another config, code or data, or results of another
                origin; or it cannot be written.
        """
        if "\0" in str(self.path):
            raise _refused(layers, "holds a NUL character, which no folder's name can")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self.lock("a start of a run", patience=_PATIENCE):
                if allowed.overwrite:
                    self.clear()
                if self.config.exists():
                    self._resume(layers, command, allowed)
                else:
                    self._check_empty(layers, allowed)
                    self._start(layers, command)
        except LockedError as error:
            raise _refused(layers, str(error)) from error
        except OSError as error:
            reason = f"cannot write to {self.path}: {error.strerror}"
            raise _refused(layers, reason, "choose another output_dir") from error

    def _check_empty(self, layers: "Layers", allowed: Resume) -> None:
        """Reject results without a frozen config: it was deleted, or another program has written them."""
        results = [path for path in self._results if path.exists()]
        if "finished" in self.read_record():
            results.append(self.record)
        if results:
            message = f"{results[0]} exists, and there is no {self.config.name} of a run in {self.path}"
            raise _refused(layers, message, allowed.elsewhere)

    def _start(self, layers: "Layers", command: list[str]) -> None:
        from torchtune.config.model import freeze

        frozen = freeze(layers)
        self._write_record({**record(command), **provenance(layers, frozen.tree, self.written())})
        self._copy_code()
        write_text(self.config, frozen.render())

    def _copy_code(self) -> None:
        """Copy the code that the record names; copies of an earlier start are retained under their hashes."""
        for name, entry in self.read_record().get("code", {}).items():
            copy, source = self.code / name, Path(entry["path"])
            if copy.exists() and copy.read_bytes() != source.read_bytes():
                copy.rename(copy.with_name(f"{copy.name}.{int(copy.stat().st_mtime)}"))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def _resume(self, layers: "Layers", command: list[str], allowed: Resume) -> None:
        """Refuse a run that is finished or another."""
        from torchtune.config.model import freeze, may_change, resolved_tree, without

        earlier = read_yaml(str(self.config)).value
        if not isinstance(earlier, dict) or not earlier:
            raise _refused(layers, f"{self.config} holds no config", allowed.elsewhere)
        if layers.takes_any_seed:  # another node may have begun this run since `settle_seed` looked
            layers.tree["seed"] = earlier.get("seed")
        frozen, free = freeze(layers), {"output_dir", *may_change(layers.wanted)}
        # The folder may have moved, or be spelt in another way; what refers to it is still the same.
        same_folder = {"output_dir": str(self.path)}
        sides = [without(resolved_tree(tree | same_folder), free) for tree in (earlier, frozen.tree)]
        changes = differences(*sides)
        if changes and not self._has_progress():
            self._start(layers, command)
            return
        if changes:
            count = f"{len(changes)} values differ" if len(changes) > 1 else "1 value differs"
            whole = _refused(
                layers, f"{self.path} holds a run of another config", f"{allowed.elsewhere}; {count}"
            )
            leaves = [_changed(layers, d) for d in changes]
            raise ConfigError([*whole.mistakes, *leaves], "the output folder")
        saved, today = (
            self.read_record(),
            {**record(command), **provenance(layers, frozen.tree, self.written())},
        )
        if "finished" in saved:
            self._check_extension(layers, earlier, allowed)
        altered = altered_inputs(saved, today)
        if altered and not self._has_progress():
            self._start(layers, command)
            return
        if altered and not allowed.accept_changes:
            whole = _refused(
                layers,
                f"the run in {self.path} was begun with other code, data or versions",
                f"restore them, or continue with {allowed.spelling('accept_changes')}; or {allowed.elsewhere}",
            )
            raise ConfigError([*whole.mistakes, *map(_altered, altered)], "the output folder")
        for text in surroundings(saved, today):
            print_note(text)
        self._continue(saved, today, earlier, layers.tree)
        write_text(self.config, frozen.render())

    def _check_extension(self, layers: "Layers", earlier: Mapping[str, Any], allowed: Resume) -> None:
        """Reject a finished run that is not to be longer, or cannot be."""
        from torchtune.config.model import resolved_tree

        earlier, today = resolved_tree(earlier), resolved_tree(layers.tree)
        if not (allowed.extend and is_any_raised(earlier, today)):
            extend = f"raise epochs or max_steps with {allowed.spelling('extend')} to train on, or "
            advice = f"{extend * ('epochs' in today)}{allowed.elsewhere} to start anew"
            raise _refused(layers, f"{self.path} holds a finished run", advice)
        step = self.newest_step
        if step is None:
            message = f"{self.path} holds a finished run without a checkpoint to continue from"
            raise _refused(layers, message, allowed.elsewhere)
        names = reached_limit(earlier, today, step)
        if names:
            limit = " with ".join(f"{name}={today[name]}" for name in names)
            message = (
                f"{limit} still ends the finished run in {self.path}, which has taken {counted(step, 'step')}"
            )
            raise _refused(layers, message, f"raise {' or '.join(names)}")

    @property
    def newest_step(self) -> int | None:
        """The optimizer step of the newest checkpoint; None where there is none."""
        numbers = (path.name.removeprefix("step_") for path in self.checkpoints.glob("step_*"))
        return max((int(number) for number in numbers if number.isdecimal()), default=None)

    @property
    def extended_at(self) -> int | None:
        """The optimizer step from which the run was extended last; None where it was not."""
        extensions = self.read_record().get("extended", ())
        return extensions[-1].get("step") if extensions else None

    def _continue(
        self,
        saved: dict[str, Any],
        today: dict[str, Any],
        earlier: Mapping[str, Any],
        tree: Mapping[str, Any],
    ) -> None:
        """Record what a run that resumes has of its own: what was accepted, and to which length it is extended."""
        altered = altered_inputs(saved, today)
        if altered:
            accepted = {d.path: [d.left, d.right] for d in altered if ABSENT not in (d.left, d.right)}
            saved["accepted"] = [*saved.get("accepted", ()), {"when": now(), "changes": accepted}]
        if saved.pop("finished", None):
            lengths = {name: [earlier.get(name), tree.get(name)] for name in LENGTHS}
            entry = {"when": now(), "step": self.newest_step, **lengths}
            saved["extended"] = [*saved.get("extended", ()), entry]
        # The command of today is the one that means the config as it is frozen now.
        saved |= {name: today[name] for name in ("command", "folder", "allow", "trusted_folders")}
        self._write_record({**saved, **{kind: today[kind] for kind in KINDS if kind in today}})
        self._copy_code()

    def _has_progress(self) -> bool:
        """Tell whether a run has done more here than to start; what a kill left half written is not counted."""
        of_a_start = {self.config, self.record, self.code, self._lock, *self._plots}
        return any(path not in of_a_start and path.suffix != ".part" for path in self.path.iterdir())

    def _clear_code(self) -> None:
        for copy in self._copies():
            for path in (copy, *copy.parent.glob(f"{glob.escape(copy.name)}.[0-9]*")):
                path.unlink(missing_ok=True)
        for folder in sorted((path for path in self.code.rglob("*") if path.is_dir()), reverse=True):
            _remove_if_empty(folder)
        _remove_if_empty(self.code)

    def clear(self) -> None:
        """Remove what a run writes, and nothing else that is in the folder.

        Checkpoints lose their name first and the config is the last to go, so that no kill in between leaves a run
        that resumes from what was to be removed.
        """
        removed = self.path / ".checkpoints.removed"
        if self.checkpoints.is_dir() and not self.checkpoints.is_symlink():
            shutil.rmtree(removed, ignore_errors=True)
            self.checkpoints.rename(removed)
        self._clear_code()
        for path in (removed, *self._results, *self._plots, self.record, self.config):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _altered(difference: "Difference") -> Mistake:
    then, today = ("absent" if value is ABSENT else value for value in (difference.left, difference.right))
    return Mistake("run", f"{difference.path}: {then} when it began, {today} now")


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _changed(layers: "Layers", difference: "Difference") -> Mistake:
    path = as_path(difference.path)
    sides = (difference.left, difference.right)
    then, today = ("nothing" if value is ABSENT else inline_yaml(value) for value in sides)
    return Mistake("run", f"{then} there, {today} now", path=path, location=layers.origin(path))


def _refused(layers: "Layers", message: str, suggestion: str = "") -> ConfigError:
    path = ("output_dir",)
    mistake = Mistake("run", message, suggestion, path, location=layers.origin(path))
    return ConfigError([mistake], "the output folder")


def settle_seed(layers: "Layers", *, overwrite: bool = False) -> None:
    """Replace a null seed by that of the run in the output folder, or by one that is drawn; nothing is written.

    Args:
        layers: The config, not checked yet; one without an output folder is left as it is.
        overwrite: The run in the folder is not to be resumed.
    """
    from torchtune.config.model import REQUIRED, fields, resolve_tree

    is_computed = layers.wanted is not None and "output_dir" in fields(layers.wanted)
    folder, _ = resolve_tree(layers.tree.get("output_dir", "" if is_computed else None), layers.tree)
    if isinstance(folder, str) and layers.tree.get("seed", REQUIRED) is None:
        layers.takes_any_seed = True
        seed = None if overwrite or not folder else _seed_in(RunFolder(folder))
        layers.tree["seed"] = secrets.randbelow(2**31) if seed is None else seed


def _seed_in(folder: RunFolder) -> Any:
    """Return the seed of the run in a folder; None where there is no run."""
    try:
        earlier = read_yaml(str(folder.config)).value
    except ValueError:  # it holds no run, or no config that can be read, which `claim` says
        return None
    return earlier.get("seed") if isinstance(earlier, dict) else None
