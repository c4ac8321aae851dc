"""The output folder of a run: its files, its lock, and the checks before a run in it is resumed."""

import fcntl
import glob
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune._pluralize import pluralize
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import ABSENT, as_path, differences, inline_yaml, read_yaml
from torchtune.files import write_text
from torchtune.runs._extension import LIMIT_FIELDS, any_limit_increased, reached_limit
from torchtune.runs._provenance import KINDS, altered_inputs, environment_changes, provenance
from torchtune.runs._record import record, timestamp
from torchtune.runs._resume import Resume
from torchtune.runs.console import print_note

if TYPE_CHECKING:
    from torchtune.config.model import Difference, Layers

_START_TIMEOUT = 10.0
"""The time to wait (seconds) for a process that is starting a run in the folder, such as one on another node."""


class LockedError(ValueError):
    """Another process is using an output folder; the message identifies the process."""


class RunFolder:
    """The output folder of a run, with the paths of its files; the folder need not exist.

    Args:
        path: The config's `output_dir`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        """The frozen config."""
        self.record = self.path / "run.json"
        """The record: the inputs of the run other than its config, and the times of its start and finish."""
        self.metrics = self.path / "metrics.jsonl"
        """One JSON object for each optimizer step."""
        self.samples = self.path / "samples.jsonl"
        """Completions of fixed prompts."""
        self.checkpoints = self.path / "checkpoints"
        """The state needed to resume."""
        self.final = self.path / "final"
        """The weights after the last step."""
        self.best = self.path / "best"
        """The weights with the lowest validation loss."""
        self.profile = self.path / "profile"
        """Traces recorded by torch.profiler."""
        self.log = self.path / "log.txt"
        """Metrics as text."""
        self.wandb_id = self.path / "wandb_id.txt"
        """The run's id on Weights & Biases."""
        self.plot = self.path / "plot"
        """The files of `tune plot`, without suffixes."""
        self._plots = [self.plot.with_suffix(suffix) for suffix in (".png", ".html")]
        self.code = self.path / "code"
        """Copies of the user's code."""
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
        """Whether a run was started in this folder."""
        return self.config.is_file() or self.record.is_file()

    def owned_paths(self) -> list[Path]:
        """Return the absolute paths of the files and folders that the run writes; any others may belong to the user."""
        paths = [self.config, self.record, *self._results, *self._copies()]
        return [self.path.resolve() / path.relative_to(self.path) for path in paths]

    def _copies(self) -> list[Path]:
        """Return the copies of code listed in the record; other files in `code` may belong to the user."""
        return [self.code / name for name in self.read_record().get("code", {})]

    @property
    def weights(self) -> Path | None:
        """The folder of the run's weights: `best` if it exists, else `final`, else None."""
        return next((folder for folder in (self.best, self.final) if folder.is_dir()), None)

    def read_record(self) -> dict[str, Any]:
        """Return the record; empty if it is missing or unreadable."""
        try:
            values = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def update_record(self, values: Mapping[str, Any]) -> None:
        """Update the record if it exists.

        Raises:
            OSError: The record cannot be written.
        """
        if self.record.exists():
            self._write_record({**self.read_record(), **values})

    def _write_record(self, values: Mapping[str, Any]) -> None:
        write_text(self.record, json.dumps(values, indent=2) + "\n")

    def finish(self) -> None:
        """Record that the run has finished."""
        self.update_record({"finished": timestamp()})

    def resume_hint(self) -> str:
        """Return advice for resuming a stopped run, based on the command in its record."""
        command = self.read_record().get("command", ())
        return f"run the same command{' without --overwrite' * ('--overwrite' in command)} to resume"

    @contextmanager
    def lock(self, holder: str, timeout: float = 0.0) -> Iterator[None]:
        """Keep the folder locked; the operating system releases the lock whenever this process exits.

        Args:
            holder: A description of the holder, for the messages of other processes.
            timeout: The time to wait (seconds) for a process that is starting a run in the folder.

        Raises:
            LockedError: Another process has locked the folder.
        """
        deadline = time.monotonic() + timeout
        with self._lock.open("a+", encoding="utf-8") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    other = file.read().strip()
                    if other.startswith("a run") or time.monotonic() > deadline:
                        raise LockedError(
                            f"{self.path} is in use by {other or 'another process'}; wait until it ends, stop it, or"
                            " choose a different output_dir"
                        ) from None
                    time.sleep(0.05)
                except OSError:  # a file system without locks
                    break
                else:
                    break
            file.truncate(0)
            file.write(f"{holder} ({platform.node()}, process {os.getpid()})\n")
            file.flush()
            yield

    def claim(self, layers: "Layers", command: list[str], allowed: Resume) -> None:
        """Freeze a config into the folder to start a new run, or check that the run in it can be resumed.

        Args:
            layers: The checked config.
            command: The command line, for the record.
            allowed: The permitted ways to start if the folder already contains a run.

        Raises:
            ConfigError: The folder contains a finished run, a run with a different config, code or data, or results of
                unknown origin; or it is not writable.
        """
        if "\0" in str(self.path):
            raise _output_dir_error(layers, "folder names cannot contain a NUL character")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self.lock("the start of a run", timeout=_START_TIMEOUT):
                if allowed.overwrite:
                    self.clear()
                if self.config.exists():
                    self._resume(layers, command, allowed)
                else:
                    self._check_empty(layers, allowed)
                    self._start(layers, command)
        except LockedError as error:
            raise _output_dir_error(layers, str(error)) from error
        except OSError as error:
            reason = f"cannot write to {self.path}: {error.strerror}"
            raise _output_dir_error(layers, reason, "choose a different output_dir") from error

    def _check_empty(self, layers: "Layers", allowed: Resume) -> None:
        """Reject results without a frozen config: it was deleted, or another program wrote the results."""
        results = [path for path in self._results if path.exists()]
        if "finished" in self.read_record():
            results.append(self.record)
        if results:
            message = f"{results[0]} exists, but {self.path} contains no {self.config.name}"
            raise _output_dir_error(layers, message, allowed.new_run_hint)

    def _start(self, layers: "Layers", command: list[str]) -> None:
        from torchtune.config.model import freeze

        frozen = freeze(layers)
        self._write_record({**record(command), **provenance(layers, frozen.tree, self.owned_paths())})
        self._copy_code()
        write_text(self.config, frozen.render())

    def _copy_code(self) -> None:
        """Copy the code listed in the record; earlier copies are renamed if they differ."""
        for name, entry in self.read_record().get("code", {}).items():
            copy, source = self.code / name, Path(entry["path"])
            if copy.exists() and copy.read_bytes() != source.read_bytes():
                copy.rename(copy.with_name(f"{copy.name}.{int(copy.stat().st_mtime)}"))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def _resume(self, layers: "Layers", command: list[str], allowed: Resume) -> None:
        """Resume the run in the folder; reject a run that has finished, or whose config, code or data are different."""
        from torchtune.config.model import drop_paths, freeze, may_change, resolved_tree

        previous = read_yaml(str(self.config)).value
        if not isinstance(previous, dict) or not previous:
            raise _output_dir_error(layers, f"{self.config} is not a config", allowed.new_run_hint)
        if layers.has_unspecified_seed:  # another node may have started this run after `choose_seed`
            layers.tree["seed"] = previous.get("seed")
        frozen, exempt = freeze(layers), {"output_dir", *may_change(layers.config_class)}
        # The folder may have moved, or its path may be spelled differently; references to the folder must not differ.
        same_folder = {"output_dir": str(self.path)}
        sides = [drop_paths(resolved_tree(tree | same_folder), exempt) for tree in (previous, frozen.tree)]
        changes = differences(*sides)
        if changes and not self._has_progress():
            self._start(layers, command)
            return
        if changes:
            count = f"{len(changes)} values differ" if len(changes) > 1 else "1 value differs"
            message = f"the run in {self.path} has a different config ({count})"
            summary = _output_dir_error(layers, message, allowed.new_run_hint)
            leaves = [_changed(layers, d) for d in changes]
            raise ConfigError([*summary.mistakes, *leaves], "the output folder")
        saved = self.read_record()
        current = {**record(command), **provenance(layers, frozen.tree, self.owned_paths())}
        if "finished" in saved:
            self._check_extension(layers, previous, allowed)
        altered = altered_inputs(saved, current)
        if altered and not self._has_progress():
            self._start(layers, command)
            return
        if altered and not allowed.accept_changes:
            summary = _output_dir_error(
                layers,
                f"code, data or versions have changed since the run in {self.path} started",
                f"restore them, or pass {allowed.spelling('accept_changes')} to resume anyway; {allowed.new_run_hint}",
            )
            raise ConfigError([*summary.mistakes, *map(_altered, altered)], "the output folder")
        for text in environment_changes(saved, current):
            print_note(text)
        self._continue(saved, current, previous, layers.tree)
        write_text(self.config, frozen.render())

    def _check_extension(self, layers: "Layers", previous: Mapping[str, Any], allowed: Resume) -> None:
        """Raise an error if extending a finished run was not requested, or is not possible."""
        from torchtune.config.model import resolved_tree

        previous, current = resolved_tree(previous), resolved_tree(layers.tree)
        if not (allowed.extend and any_limit_increased(previous, current)):
            extend = f"to train longer, raise epochs or max_steps and pass {allowed.spelling('extend')}; "
            advice = f"{extend * ('epochs' in current)}{allowed.new_run_hint}"
            raise _output_dir_error(layers, f"the run in {self.path} has finished", advice)
        step = self.newest_step
        if step is None:
            message = f"the finished run in {self.path} has no checkpoint to continue from"
            raise _output_dir_error(layers, message, allowed.new_run_hint)
        names = reached_limit(previous, current, step)
        if names:
            limit = " with ".join(f"{name}={current[name]}" for name in names)
            message = f"{limit} does not extend the finished run in {self.path}, which took {pluralize(step, 'step')}"
            raise _output_dir_error(layers, message, f"raise {' or '.join(names)}")

    @property
    def newest_step(self) -> int | None:
        """The optimizer step of the newest checkpoint; None if there are no checkpoints."""
        numbers = (path.name.removeprefix("step_") for path in self.checkpoints.glob("step_*"))
        return max((int(number) for number in numbers if number.isdecimal()), default=None)

    @property
    def extended_at(self) -> int | None:
        """The optimizer step at which the run was last extended; None if the run was never extended."""
        extensions = self.read_record().get("extended", ())
        return extensions[-1].get("step") if extensions else None

    def _continue(
        self,
        saved: dict[str, Any],
        current: dict[str, Any],
        previous: Mapping[str, Any],
        tree: Mapping[str, Any],
    ) -> None:
        """Update the record of a resumed run with accepted changes and, for an extended run, the new limits."""
        altered = altered_inputs(saved, current)
        if altered:
            accepted = {d.path: [d.left, d.right] for d in altered if ABSENT not in (d.left, d.right)}
            saved["accepted"] = [*saved.get("accepted", ()), {"when": timestamp(), "changes": accepted}]
        if saved.pop("finished", None):
            limits = {name: [previous.get(name), tree.get(name)] for name in LIMIT_FIELDS}
            entry = {"when": timestamp(), "step": self.newest_step, **limits}
            saved["extended"] = [*saved.get("extended", ()), entry]
        # The recorded command must be the one that produced the current frozen config.
        saved |= {name: current[name] for name in ("command", "folder", "allow", "trusted_folders")}
        self._write_record({**saved, **{kind: current[kind] for kind in KINDS if kind in current}})
        self._copy_code()

    def _has_progress(self) -> bool:
        """Return whether a run has written files after its start, ignoring partial files left by a killed process."""
        start_files = {self.config, self.record, self.code, self._lock, *self._plots}
        return any(path not in start_files and path.suffix != ".part" for path in self.path.iterdir())

    def _clear_code(self) -> None:
        for copy in self._copies():
            for path in (copy, *copy.parent.glob(f"{glob.escape(copy.name)}.[0-9]*")):
                path.unlink(missing_ok=True)
        for folder in sorted((path for path in self.code.rglob("*") if path.is_dir()), reverse=True):
            _remove_if_empty(folder)
        _remove_if_empty(self.code)

    def clear(self) -> None:
        """Remove the files that a run writes, and nothing else in the folder.

        Checkpoints are renamed first and the config is removed last, so that a process killed in between never leaves a
        run that would resume from the old checkpoints.
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
    previous, current = (
        "absent" if value is ABSENT else value for value in (difference.left, difference.right)
    )
    return Mistake("run", f"{difference.path} changed from {previous} to {current}")


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _changed(layers: "Layers", difference: "Difference") -> Mistake:
    path = as_path(difference.path)
    sides = (difference.left, difference.right)
    previous, current = ("absent" if value is ABSENT else inline_yaml(value) for value in sides)
    return Mistake("run", f"changed from {previous} to {current}", path=path, location=layers.origin(path))


def _output_dir_error(layers: "Layers", message: str, suggestion: str = "") -> ConfigError:
    path = ("output_dir",)
    mistake = Mistake("run", message, suggestion, path, location=layers.origin(path))
    return ConfigError([mistake], "the output folder")


def choose_seed(layers: "Layers", *, overwrite: bool = False) -> None:
    """Replace a null seed with the seed of the run in the output folder, or with a random seed, in memory only.

    Args:
        layers: The config, not checked yet; it is unchanged if it has no output folder.
        overwrite: Ignore the run in the folder, because it will be overwritten.
    """
    from torchtune.config.model import REQUIRED, fields, resolve_tree

    is_computed = layers.config_class is not None and "output_dir" in fields(layers.config_class)
    folder, _ = resolve_tree(layers.tree.get("output_dir", "" if is_computed else None), layers.tree)
    if isinstance(folder, str) and layers.tree.get("seed", REQUIRED) is None:
        layers.has_unspecified_seed = True
        seed = None if overwrite or not folder else _seed_in(RunFolder(folder))
        layers.tree["seed"] = int.from_bytes(os.urandom(4)) % 2**31 if seed is None else seed


def _seed_in(folder: RunFolder) -> Any:
    """Return the seed of the run in a folder, or None if the folder contains no run."""
    try:
        previous = read_yaml(str(folder.config)).value
    except ValueError:  # no run, or an unreadable config, which `claim` reports
        return None
    return previous.get("seed") if isinstance(previous, dict) else None
