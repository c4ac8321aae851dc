"""Save and restore the state of a run, so that a resumed run gives the same results as an uninterrupted one."""

import copy
import json
import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from attrs import define, field
from torch import Tensor, nn
from torch.optim import Optimizer

from torchtune.config.model import differences
from torchtune.distributed import World, checkpoint, random_state, set_random_state

_logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """A part of a run whose state is saved in checkpoints."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: numbers, strings, and lists and dictionaries of such values, equal on all ranks."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore a state that `state_dict` returned.

        Raises:
            ValueError: The state belongs to a different run.
        """


@define(eq=False, slots=False)
class State:
    """The step of a run, and its checkpoints: `checkpoints/step_<n>/` in the run's folder.

    A checkpoint contains the trained parameters (with LoRA, only the adapters), the optimizer, the random state of
    every rank, the step, and the state of each part. On the CPU, with the same versions and number of threads, a
    resumed run is bitwise identical to an uninterrupted one.

    Args:
        output_dir: The run's folder.
        model: The model; its trained parameters are those with `requires_grad`.
        optimizer: The optimizer of the trained parameters.
        parts: Additional stateful parts by name, such as the batches and the schedule.
        world: The ranks of this run.
        base: Folder of the frozen weights, whose files must not change before the run resumes; None: no weights are
            frozen, or they are random.
        config: The fields that must not change before the run resumes, as a tree; None: fields are not checked.
    """

    output_dir: str
    _model: nn.Module
    _optimizer: Optimizer
    parts: Mapping[str, Stateful]
    _world: World = field(kw_only=True)
    _base: str | None = field(default=None, kw_only=True)
    _config: Mapping[str, Any] | None = field(default=None, kw_only=True)
    step: int = field(default=0, init=False)
    save_seconds: float | None = field(default=None, init=False)
    """Time that writing the last checkpoint of this process took (seconds); None: none has been written."""
    _writing: threading.Thread | None = field(default=None, init=False)
    _failure: BaseException | None = field(default=None, init=False)
    _background_world: World | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._folder = Path(self.output_dir) / "checkpoints"
        self._parameters = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        # Compute the fingerprints now, because the files have just been read. Only rank 0 writes shared values.
        self._fingerprints = (
            _fingerprints(Path(self._base)) if self._base is not None and self._world.is_main else None
        )

    def save(self, keep: int = 1, keep_every: int | None = None, *, wait: bool = True) -> None:
        """Write a checkpoint of this step, then remove old ones; all ranks must call this.

        Args:
            keep: Number of checkpoints to retain, including this one.
            keep_every: Also retain checkpoints of steps that are multiples of this number; None: no others.
            wait: Whether to wait until the checkpoint is written. If False, the state is copied to CPU memory and
                written in the background; errors are raised by the next call or by `wait`.

        Raises:
            OSError: The disk is full or not writable; earlier checkpoints are unchanged.
        """
        self.wait()
        folder = self._folder / f"step_{self.step}"
        if folder.exists():  # the run resumed from it
            self._prune(keep, keep_every)
            return
        tensors = dict(self._tensors())
        shared = self._shared()
        per_rank = {"random": random_state(self._world.device)}
        world = self._world
        if not wait:
            world = self._background_world = self._background_world or world.with_new_group()
            tensors = _copies(tensors, world.device)
            shared, per_rank = copy.deepcopy((shared, per_rank))

        def write() -> None:
            started = time.monotonic()
            checkpoint.write(folder, world, tensors=tensors, shared=shared, per_rank=per_rank)
            self.save_seconds = time.monotonic() - started
            self._prune(keep, keep_every)

        if wait:
            write()
            return
        # A daemon thread, because the process would otherwise wait forever for ranks that have died.
        self._writing = threading.Thread(
            target=self._run_in_background, args=(write,), name="checkpoint", daemon=True
        )
        self._writing.start()

    def wait(self) -> None:
        """Wait until a background checkpoint is written.

        Raises:
            OSError: The checkpoint cannot be written.
        """
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def check(self) -> None:
        """Raise the error of a background checkpoint, if there was one.

        Raises:
            OSError: The checkpoint cannot be written.
        """
        if self._failure is not None:
            self.wait()

    def last_checkpoint(self) -> Path | None:
        """Return the folder of the newest complete checkpoint, or None."""
        return checkpoint.newest(self._folder)

    def _run_in_background(self, write: Callable[[], None]) -> None:
        try:
            if self._world.device.type == "cuda":
                torch.cuda.set_device(self._world.device)  # a new thread would create a context on GPU 0
            write()
        except BaseException as error:
            self._failure = error

    def _prune(self, keep: int, keep_every: int | None) -> None:
        if self._world.is_main:
            for step in checkpoint.steps(self._folder)[:-keep]:
                if keep_every is None or step % keep_every:
                    checkpoint.remove(self._folder / f"step_{step}")

    def resume(self) -> bool:
        """Load the newest checkpoint; all ranks must call this.

        Returns:
            Whether there was a checkpoint; otherwise the run starts at step 0.

        Raises:
            ValueError: The newest checkpoint is damaged or belongs to a different run. Older checkpoints are not tried.
        """
        if self._world.is_main:
            checkpoint.remove_incomplete(self._folder)
        # Use rank 0's list, because other ranks may see an outdated view of a shared disk.
        steps = self._world.gather(checkpoint.steps(self._folder))[0]
        if not steps:
            return False
        folder = self._folder / f"step_{steps[-1]}"
        try:
            checkpoint.verify(folder, self._world)
        except checkpoint.DamagedCheckpointError as fault:
            raise ValueError(f"{folder} is damaged: {fault}; {self._alternatives(steps)}") from None
        shared = checkpoint.read_shared(folder)
        self._check_config(folder, shared["config"], steps)
        self._check_parameters(folder, shared["parameters"])
        self._check_base(folder, shared["base"])
        self._load_optimizer(shared["optimizer"])
        checkpoint.read_tensors(folder, dict(self._tensors()), self._world)
        self.step = shared["step"]
        self._load_parts(shared["parts"])
        per_rank = checkpoint.read_rank(folder, self._world.rank)
        if per_rank is not None:  # the saved run may have had fewer ranks
            set_random_state(per_rank["random"], self._world.device)
        return True

    def _alternatives(self, steps: list[int]) -> str:
        outcome = f"continue from step {steps[-2]}" if len(steps) > 1 else "start again from step 0"
        return f"delete that folder to {outcome}, or choose a different output_dir"

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of a checkpoint by name, in the same order on all ranks."""
        for name, parameter in self._parameters.items():
            yield f"model.{name}", parameter.detach()
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield f"optimizer.{name}.{key}", value

    def _shared(self) -> dict[str, Any]:
        """Collect the values that are equal on all ranks, other than tensors."""
        return {
            "step": self.step,
            "parameters": {name: list(p.shape) for name, p in self._parameters.items()},
            "optimizer": {
                "groups": [
                    {key: value for key, value in group.items() if key != "params"}
                    for group in self._optimizer.param_groups
                ],
                "state": {
                    name: {key: _describe(value) for key, value in self._optimizer.state.get(p, {}).items()}
                    for name, p in self._parameters.items()
                },
            },
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "base": self._fingerprints,
            "config": None if self._config is None else json.dumps(self._config, default=str),
        }

    def _check_config(self, folder: Path, saved: str | None, steps: list[int]) -> None:
        if saved is None or self._config is None:
            return
        config = json.loads(json.dumps(self._config, default=str))
        changed = differences(json.loads(saved), config)
        if changed:
            first = changed[0]
            remaining = f", and {len(changed) - 1} more differ" if len(changed) > 1 else ""
            raise ValueError(
                f"{folder} was written with a different config: {first.path} was {first.left!r} and is now"
                f" {first.right!r}{remaining}; {self._alternatives(steps)}"
            )

    def _check_parameters(self, folder: Path, saved: dict[str, list[int]]) -> None:
        shapes = {name: list(p.shape) for name, p in self._parameters.items()}
        if saved == shapes:
            return
        names = sorted(name for name in saved.keys() | shapes.keys() if saved.get(name) != shapes.get(name))
        name = names[0]
        raise ValueError(
            f"{folder} was written for a different model or adapter: {len(names)} trained parameters differ; the"
            f" first, {name}, had shape {saved.get(name)} and now has {shapes.get(name)} (None means that there is"
            " no such parameter); choose a different output_dir"
        )

    def _check_base(self, folder: Path, saved: dict[str, list[int]] | None) -> None:
        """Raise on all ranks if the base weights, compared by rank 0, differ from the saved run's."""
        fingerprints = self._fingerprints
        differing = None
        if saved is not None and fingerprints is not None:
            names = (name for name in saved | fingerprints if saved.get(name) != fingerprints.get(name))
            differing = next(names, None)
        differing = self._world.gather(differing)[0]
        if differing:
            raise ValueError(
                f"{folder} was written with base weights that differ from {self._base}: {differing} differs; restore"
                " the original model_directory, or choose a different output_dir"
            )

    def _load_parts(self, saved: Mapping[str, dict[str, Any]]) -> None:
        """Load the state of each part; parts that the saved run did not have keep their initial state."""
        for name, part in self.parts.items():
            if name in saved:
                part.load_state_dict(saved[name])
        new, removed = self.parts.keys() - saved.keys(), saved.keys() - self.parts.keys()
        if (new or removed) and self._world.is_main:
            names = ", ".join(sorted(new | removed))
            _logger.warning(
                "the saved run had different parts (%s): new parts keep their initial state, removed parts are ignored",
                names,
            )

    def _load_optimizer(self, saved: dict[str, Any]) -> None:
        """Restore the optimizer's settings, and allocate its state tensors, which are filled later."""
        for group, settings in zip(self._optimizer.param_groups, saved["groups"], strict=True):
            group.update(settings)
        for name, parameter in self._parameters.items():
            state = saved["state"][name]
            self._optimizer.state[parameter] = {
                key: _allocate(value, parameter) for key, value in state.items()
            }


def _fingerprints(folder: Path) -> dict[str, list[int]]:
    """Return the size of each weight file, and a checksum of 64 samples of 4 KiB."""
    fingerprints = {}
    for path in sorted(folder.glob("*")):
        if path.suffix in (".safetensors", ".bin", ".pth", ".gguf") and path.is_file():
            size = path.stat().st_size
            crc = 0
            with path.open("rb") as file:
                for i in range(64):
                    file.seek(size * i // 64)
                    crc = zlib.crc32(file.read(4096), crc)
            fingerprints[path.name] = [size, crc]
    return fingerprints


def _copies(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy tensors, or this rank's shards of them, to CPU memory.

    Copies from a GPU are asynchronous, into pinned memory, which torch reuses for the next checkpoint.
    """
    copies = {}
    for name, tensor in tensors.items():
        copied = tensor.detach().to("cpu", non_blocking=True)
        copies[name] = copied.clone() if tensor.device.type == "cpu" else copied
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return copies


def _describe(value: Any) -> Any:
    """Describe a tensor of the optimizer state, or wrap any other value."""
    if not isinstance(value, Tensor):
        return {"value": value}
    return {"shape": list(value.shape), "dtype": value.dtype, "on_cpu": value.device.type == "cpu"}


def _allocate(description: dict[str, Any], parameter: Tensor) -> Any:
    """Allocate a described tensor, sharded like the parameter if it has the parameter's shape."""
    if "value" in description:
        return description["value"]
    shape, dtype = description["shape"], description["dtype"]
    if shape == list(parameter.shape):
        return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
    return torch.empty(shape, dtype=dtype, device="cpu" if description["on_cpu"] else parameter.device)
