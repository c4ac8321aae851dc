"""All that a run must remember to continue as if it had never stopped."""

import copy
import json
import logging
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from attrs import define, field
from torch import Tensor, nn
from torch.optim import Optimizer

from torchtune.config.model import differences
from torchtune.training import _checkpoint
from torchtune.training._random import random_state, set_random_state
from torchtune.training._world import World

_logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """A part of a run that a checkpoint holds, and that another run continues with."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the part must remember: numbers, texts, lists and dictionaries of them, equal on all ranks."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Continue where the part was whose `state_dict` this is.

        Raises:
            ValueError: It belongs to another run.
        """


@define(eq=False, slots=False)
class State:
    """A run's step, and what it takes to come back to it: `checkpoints/step_<n>/` in its folder.

    A checkpoint holds the parameters that are trained (of a model with LoRA, the adapters alone), the optimizer,
    every rank's random numbers, the step, and the state of each part. A run that resumes equals the unbroken run to
    the bit, on the CPU and with the same versions and number of threads.

    Args:
        output_dir: The run's folder.
        model: Its trained parameters are those with `requires_grad`.
        optimizer: Optimizer of those parameters.
        parts: Whatever else must survive a restart, by name, such as the batches and the schedule.
        world: The ranks of this run.
        base: Folder of the weights that are not trained, whose files a resumed run must find again; None: all
            are trained, or random.
        config: What a resumed run must have in common with the saved one, as a tree; None: that is not checked.
    """

    output_dir: str
    _model: nn.Module
    _optimizer: Optimizer
    parts: Mapping[str, Stateful]
    _world: World = field(kw_only=True)
    _base: str | None = field(default=None, kw_only=True)
    _config: Mapping[str, Any] | None = field(default=None, kw_only=True)
    step: int = field(default=0, init=False)
    _writing: threading.Thread | None = field(default=None, init=False)
    _failure: BaseException | None = field(default=None, init=False)
    _apart: World | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._folder = Path(self.output_dir) / "checkpoints"
        self._parameters = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        # As they are now, when they have just been read; rank 0 writes what is shared.
        self._prints = _prints(Path(self._base)) if self._base is not None and self._world.is_main else None

    def save(self, keep: int = 1, keep_every: int | None = None, *, wait: bool = True) -> None:
        """Write a checkpoint of this step, then remove the oldest; all ranks must call it.

        Args:
            keep: How many checkpoints stay, this one included.
            keep_every: Those of steps that this divides stay besides.
            wait: False: the state is copied to CPU memory, and written while the run goes on. What goes wrong then
                is raised by the next call, or by `wait`.

        Raises:
            OSError: The disk is full or not writable; earlier checkpoints are as they were.
        """
        self.wait()
        folder = self._folder / f"step_{self.step}"
        if folder.exists():  # What stands there is of this very step: it was resumed from.
            self._prune(keep, keep_every)
            return
        tensors = dict(self._tensors())
        shared = self._shared()
        own = {"random": random_state(self._world.device)}
        world = self._world
        if not wait:
            world = self._apart = self._apart or world.apart()
            tensors = {name: _copy(tensor) for name, tensor in tensors.items()}
            shared, own = copy.deepcopy((shared, own))

        def write() -> None:
            _checkpoint.write(folder, world, tensors=tensors, shared=shared, own=own)
            self._prune(keep, keep_every)

        if wait:
            write()
            return
        # A daemon: a rank whose fellows are gone would wait for them for ever.
        self._writing = threading.Thread(
            target=self._keep_failure_of, args=(write,), name="checkpoint", daemon=True
        )
        self._writing.start()

    def wait(self) -> None:
        """Wait until what `save` began is written.

        Raises:
            OSError: It could not be.
        """
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def check(self) -> None:
        """Raise what went wrong while a checkpoint was written in the background, if anything did.

        Raises:
            OSError: It cannot be written.
        """
        if self._failure is not None:
            self.wait()

    def last_checkpoint(self) -> Path | None:
        """Return the folder of the newest checkpoint that is written; None where there is none."""
        return _checkpoint.newest(self._folder)

    def _keep_failure_of(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._failure = error

    def _prune(self, keep: int, keep_every: int | None) -> None:
        if self._world.is_main:
            for step in _checkpoint.steps(self._folder)[:-keep]:
                if keep_every is None or step % keep_every:
                    _checkpoint.remove(self._folder / f"step_{step}")

    def resume(self) -> bool:
        """Go to the newest checkpoint; all ranks must call it.

        Returns:
            False where there is none, so that the run starts at step 0.

        Raises:
            ValueError: The newest checkpoint is damaged or belongs to another run. Nothing is loaded then, neither
                from an older one nor from the base weights.
        """
        if self._world.is_main:
            _checkpoint.tidy(self._folder)
        # Rank 0's, as the others may see less of a shared disk.
        steps = self._world.gather(_checkpoint.steps(self._folder))[0]
        if not steps:
            return False
        folder = self._folder / f"step_{steps[-1]}"
        try:
            _checkpoint.verify(folder, self._world)
        except _checkpoint.DamagedCheckpointError as fault:
            raise ValueError(f"{folder} is damaged: {fault}; {self._way_out(steps)}") from None
        shared = _checkpoint.read_shared(folder)
        self._check_config(folder, shared["config"], steps)
        self._check_parameters(folder, shared["parameters"])
        self._check_base(folder, shared["base"])
        self._load_optimizer(shared["optimizer"])
        _checkpoint.read_tensors(folder, dict(self._tensors()), self._world)
        self.step = shared["step"]
        self._load_parts(shared["parts"])
        ranks = shared["ranks"]
        if self._world.is_main and ranks != self._world.size:
            _logger.warning(
                "the run was saved by %d rank(s) and resumes with %d; a step has as many rows as before if"
                " gradient_accumulation_steps makes up for it",
                ranks,
                self._world.size,
            )
        own = _checkpoint.read_own(folder, self._world.rank)
        if own is not None:  # a rank that the saved run did not have keeps its fresh random numbers
            set_random_state(own["random"], self._world.device)
        return True

    def _way_out(self, steps: list[int]) -> str:
        earlier = f" to continue from step_{steps[-2]}," if len(steps) > 1 else " to start again from step 0,"
        return f"delete that folder{earlier} or write another output_dir"

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name every tensor of a checkpoint, in an order that is equal on all ranks."""
        for name, parameter in self._parameters.items():
            yield f"model.{name}", parameter.detach()
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield f"optimizer.{name}.{key}", value

    def _shared(self) -> dict[str, Any]:
        """Collect what is equal on all ranks and is no tensor."""
        return {
            "step": self.step,
            "parameters": {name: list(p.shape) for name, p in self._parameters.items()},
            "optimizer": {
                "groups": [
                    {key: value for key, value in group.items() if key != "params"}
                    for group in self._optimizer.param_groups
                ],
                "state": {
                    name: {key: _described(value) for key, value in self._optimizer.state.get(p, {}).items()}
                    for name, p in self._parameters.items()
                },
            },
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "ranks": self._world.size,
            "base": self._prints,
            "config": None if self._config is None else json.dumps(self._config, default=str),
        }

    def _check_config(self, folder: Path, saved: str | None, steps: list[int]) -> None:
        if saved is None or self._config is None:
            return
        now = json.loads(json.dumps(self._config, default=str))
        changed = differences(json.loads(saved), now)
        if changed:
            first = changed[0]
            raise ValueError(
                f"{folder} is of another config: {first.path} is {first.left!r} there and {first.right!r} here"
                f"{f', and {len(changed) - 1} more differ' * (len(changed) > 1)}; {self._way_out(steps)}"
            )

    def _check_parameters(self, folder: Path, saved: dict[str, list[int]]) -> None:
        now = {name: list(p.shape) for name, p in self._parameters.items()}
        if saved == now:
            return
        differ = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
        name = differ[0]
        raise ValueError(
            f"{folder} is of another model or adapter: {len(differ)} trained parameters differ, the first is {name} "
            f"with shape {saved.get(name)} there and {now.get(name)} here (None: there is none); "
            "write another output_dir"
        )

    def _check_base(self, folder: Path, saved: dict[str, list[int]] | None) -> None:
        """Refuse other weights below the adapters; rank 0 looks, and all come to the same end."""
        now = self._prints
        differing = None
        if saved is not None and now is not None:
            differing = next((name for name in saved | now if saved.get(name) != now.get(name)), None)
        differing = self._world.gather(differing)[0]
        if differing:
            raise ValueError(
                f"{folder} was trained on other weights than those in {self._base}: {differing} differs; name the"
                " folder that the run began with, or write another output_dir"
            )

    def _load_parts(self, saved: Mapping[str, dict[str, Any]]) -> None:
        """Let each part continue; one that the saved run did not have begins anew."""
        for name, part in self.parts.items():
            if name in saved:
                part.load_state_dict(saved[name])
        new, gone = self.parts.keys() - saved.keys(), saved.keys() - self.parts.keys()
        if (new or gone) and self._world.is_main:
            names = ", ".join(sorted(new | gone))
            _logger.warning(
                "the saved run had other parts (%s): new ones begin anew, others are left out", names
            )

    def _load_optimizer(self, saved: dict[str, Any]) -> None:
        """Give the optimizer its settings, and tensors of the right shapes that are then filled."""
        for group, settings in zip(self._optimizer.param_groups, saved["groups"], strict=True):
            group.update(settings)
        for name, parameter in self._parameters.items():
            state = saved["state"][name]
            self._optimizer.state[parameter] = {key: _made(value, parameter) for key, value in state.items()}


def _prints(folder: Path) -> dict[str, list[int]]:
    """Tell files of weights by their sizes and a checksum of samples: 4 KiB at the beginning and at 63 places more."""
    prints = {}
    for path in sorted(folder.glob("*")):
        if path.suffix in (".safetensors", ".bin", ".pth", ".gguf") and path.is_file():
            size = path.stat().st_size
            crc = 0
            with path.open("rb") as file:
                for i in range(64):
                    file.seek(size * i // 64)
                    crc = zlib.crc32(file.read(4096), crc)
            prints[path.name] = [size, crc]
    return prints


def _copy(tensor: Tensor) -> Tensor:
    """Copy a tensor, or this rank's part of it, to CPU memory."""
    found = tensor.detach().to("cpu")
    return found.clone() if tensor.device.type == "cpu" else found


def _described(value: Any) -> Any:
    """Write down what a tensor of the optimizer is like; keep any other value."""
    if not isinstance(value, Tensor):
        return {"value": value}
    return {"shape": list(value.shape), "dtype": value.dtype, "on_cpu": value.device.type == "cpu"}


def _made(described: dict[str, Any], parameter: Tensor) -> Any:
    """Make what `_described` wrote down; a tensor of the parameter's shape is sharded as the parameter is."""
    if "value" in described:
        return described["value"]
    shape, dtype = described["shape"], described["dtype"]
    if shape == list(parameter.shape):
        return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
    return torch.empty(shape, dtype=dtype, device="cpu" if described["on_cpu"] else parameter.device)
