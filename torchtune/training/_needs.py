"""Estimate the memory that training a model takes, with tensors that hold no data."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor, nn
from torch.optim import Optimizer

from torchtune.config import Component, InstantiationError, instantiate
from torchtune.config.model import dotpath, parameters_of
from torchtune.internals import LIVE_BYTES, LiveBytes, fake_tensors
from torchtune.modules import Decoder, LinearCrossEntropy, lean
from torchtune.training._activations import ActivationCheckpointing, Calling, checkpoint_activations
from torchtune.training._placement import DTYPES, Placement, set_dtype


@frozen
class Needs:
    """The memory of one rank, without what the allocator caches."""

    parameters: int
    """Parameters of the model, over all ranks."""
    trainable: int
    """Trained parameters."""
    ranks: int
    """Number of ranks."""
    weights: int
    """Bytes of parameters and buffers on one rank."""
    gradients: int
    """Bytes of the trained parameters' gradients on one rank."""
    optimizer: int
    """Bytes of the optimizer's state on one rank."""
    activations: int = 0
    """Bytes that a forward and a backward pass add at their peak, roughly; 0 if no batch is passed."""
    loss: int = 0
    """Bytes of `activations` that logits and loss take; 0 if the peak is later."""
    heap: int = 0
    """Bytes lost to fragmentation of a CPU's heap, and kernels compiled for bfloat16, roughly."""
    peak: int = 0
    """Peak bytes of a step, roughly: gradients appear as activations are freed, so it may be less than the sum."""

    @property
    def total(self) -> int:
        """Bytes on one rank, without activations."""
        return self.weights + self.gradients + self.optimizer


def needs(  # noqa: PLR0913 - memory depends on all of them.
    model: nn.Module,
    optimizer: Component[Optimizer] | None,
    placement: Placement | None = None,
    *,
    dtype: str = "fp32",
    ranks: int = 1,
    enable_fsdp: bool = False,
    batch: tuple[int, int] | None = None,
    accumulates: bool = False,
    on_cpu: bool = False,
) -> Needs:
    """Estimate what a model takes on each rank.

    Args:
        model: On the meta device, with its adapters and with `requires_grad` set as in training; its parameters
            are cast to the precision that a run holds them in.
        optimizer: The config's; its state is that after one step. None: nothing is trained.
        placement: How the model is held; None: `Placement()`.
        dtype: The precision of computing, a key of `DTYPES`.
        ranks: Number of ranks.
        enable_fsdp: Each rank holds a shard of every parameter (of the first dimension, rounded up).
        batch: Rows of a forward pass on one rank, and their positions; None: activations are not counted.
        accumulates: A step has several micro-batches, so that gradients exist during later forward passes.
        on_cpu: The loss is computed on a CPU, in float32 throughout.

    Raises:
        InstantiationError: The optimizer rejects its arguments.
    """
    if optimizer is None:
        model.requires_grad_(requires_grad=False)
    placement, compute = placement or Placement(), DTYPES[dtype]
    replicas = 1 if placement.sharding is None else placement.sharding.replicas
    set_dtype(model, compute, DTYPES[placement.weights_dtype])
    every = list(model.parameters())
    trained = [p for p in every if p.requires_grad]
    parts = max(1, ranks // replicas) if enable_fsdp else 1
    if placement.uses_lean_layers:
        lean(model)
    passed = _Pass()
    if batch is not None and isinstance(model, Decoder) and LIVE_BYTES.is_enabled():
        passed = _Workload(model, compute, batch, placement.activation_checkpointing, on_cpu).passed(parts)
    weights = sum(_bytes(p, parts) for p in every) + sum(_bytes(b, 1) for b in model.buffers())
    gradients = sum(_bytes(p, parts) for p in trained)
    state = 0 if optimizer is None else _state_bytes(optimizer, trained, parts)
    heap = 0
    if passed.most and on_cpu:
        heap = int(_HEAP * passed.most) + (_KERNELS if compute.itemsize < 4 else 0)
    peak = weights + state + heap + passed.most_with(gradients, accumulates=accumulates)
    return Needs(
        parameters=sum(p.numel() for p in every),
        trainable=sum(p.numel() for p in trained),
        ranks=ranks,
        weights=weights,
        gradients=gradients,
        optimizer=state,
        activations=passed.most,
        loss=0 if passed.most > passed.kept + passed.loss else passed.loss,
        heap=heap,
        peak=peak if passed.most else 0,
    )


@frozen
class _Pass:
    """Bytes that a forward and a backward pass hold, in addition to weights and gradients."""

    kept: int = 0
    """At the end of the forward pass."""
    loss: int = 0
    """Of the loss while it is computed, in addition to `kept`."""
    head: int = 0
    """Of the head's gradient, which exists from the loss until the embedding's gradient is added."""
    layers: int = 0
    """Peak of the layers' forward and backward passes."""
    last: int = 0
    """At the end of the backward pass, in the embedding."""

    @property
    def most(self) -> int:
        """Peak, if gradients exist already."""
        return max(self.kept + self.loss, self.layers, self.last) + self.head

    def most_with(self, gradients: int, *, accumulates: bool) -> int:
        """Peak with gradients, which appear layer by layer as activations are freed."""
        if accumulates:
            return self.most + gradients
        # The head's gradient is one of them.
        return max(self.head + max(self.kept + self.loss, self.layers), gradients + self.last + self.head)


@frozen
class _Workload:
    """A forward and a backward pass whose memory is counted."""

    model: Decoder
    compute: torch.dtype
    batch: tuple[int, int]
    """Rows, and their positions."""
    section: ActivationCheckpointing | None
    on_cpu: bool

    def passed(self, parts: int) -> _Pass:
        """Count what the passes hold if FSDP splits parameters into a number of parts.

        They are run on fake tensors through a few of the layers, which are alike. Trained parameters that are wider
        than the precision of computing are cast for the pass: all or, under FSDP, two layers and the root at a time.
        """
        model, compute = self.model, self.compute
        n = len(model.layers)
        every = 1 if self.section is None else self.section.every_n_layers
        few, more = min(2 * every, n), min(3 * every, n)  # the first layer may keep less than the others
        kept, layers, last = self._peaks(few)
        if more > few:
            then = self._peaks(more)
            kept += (then[0] - kept) * (n - few) // (more - few)
            layers += (then[1] - layers) * (n - few) // (more - few)
        master = [p for p in model.parameters() if p.requires_grad and p.dtype != compute]
        casts = sum(p.numel() for p in master) * compute.itemsize
        if parts > 1:
            sizes = [sum(p.numel() for p in layer.parameters()) for layer in model.layers]
            root = sum(p.numel() for p in model.parameters()) - sum(sizes)
            casts = (2 * max(sizes, default=0) + root) * compute.itemsize
        loss, head = self._loss_bytes()
        return _Pass(kept + casts, loss, head, layers + casts, last + casts)

    def _loss_bytes(self) -> tuple[int, int]:
        """Return the bytes of `LinearCrossEntropy` for as many targets as positions, and of the head's gradient."""
        a, head, narrow = self.model.architecture, self.model.head_weight, self.compute.itemsize
        adapter = self.model.head_adapter
        rank = 0 if adapter is None else adapter.rank
        wide = torch.promote_types(self.compute, torch.float32).itemsize
        positions = math.prod(self.batch)
        # A cap takes its slope, and one temporary more.
        copies = wide * (1 if a.final_softcap is None else 3)
        if narrow < wide:
            copies += narrow  # as factors of a product
        held = min(_CHUNK, positions) * a.vocab_size * copies + 2 * positions * a.embed_dim * narrow
        n = a.vocab_size * (a.embed_dim + rank)  # of the head with the rows of its adapter appended
        if rank:
            held += n * narrow
        if self.on_cpu and narrow < wide:
            held += wide * n
        return held, wide * n if head.requires_grad or rank else 0

    def _peaks(self, n_layers: int) -> tuple[int, int, int]:
        """Return what a pass through the first layers keeps, its peak, and its peak in the embedding."""
        model, compute, section = self.model, self.compute, self.section
        layer = model.layers[:1]
        head = any(p.requires_grad for p in model.embed_tokens.parameters())
        shapes = [(name, p.shape, p.requires_grad) for name, p in layer.named_parameters()]
        settings = [  # such as an adapter's dropout
            (name, value)
            for m in layer.modules()
            for name, value in vars(m).items()
            if isinstance(value, (int, float))
        ]
        kinds = [type(m) for m in layer.modules()]
        key = repr(
            (model.architecture, kinds, n_layers, shapes, settings, head, compute, self.batch, section)
        )
        if key in _KNOWN:
            return _KNOWN[key]
        rows, length = self.batch[0], min(self.batch[1], model.architecture.max_seq_len)
        shallow = _with_layers(model, n_layers)
        if section is not None:
            checkpoint_activations(shallow, evolve(section, offload=False))
        with fake_tensors():
            fakes = {
                name: torch.empty(
                    p.shape,
                    dtype=compute if p.is_floating_point() else p.dtype,
                    device="cpu",
                    requires_grad=p.requires_grad,
                )
                for name, p in shallow.named_parameters()
            }
            tokens = torch.zeros((rows, length), dtype=torch.long)
            live = LiveBytes(fakes.values())
            for p in fakes.values():
                if p.requires_grad:
                    p.register_post_accumulate_grad_hook(live.exclude_gradient)  # type: ignore[no-untyped-call]
            with live:
                shallow.embed_tokens.register_forward_hook(live.note_beginning)
                hidden = torch.func.functional_call(
                    Calling(shallow, shallow.hidden), {f"module.{n}": p for n, p in fakes.items()}, (tokens,)
                )
                alive = live.now
                hidden.sum().backward()
        peak, last = (live.peak, 0) if live.peak_of_layers is None else (live.peak_of_layers, live.peak)
        if section is not None and section.offload:  # which is in CPU memory
            inputs = -(-n_layers // section.every_n_layers) * rows * length
            waiting = inputs * model.architecture.embed_dim * compute.itemsize
            peak, alive = peak - waiting, alive - waiting
        return _KNOWN.setdefault(key, (alive, peak, last))


def _with_layers(model: Decoder, n_layers: int) -> Decoder:
    """Copy a model with its first layers alone."""
    layers = model.layers
    model.layers = layers[:n_layers]
    try:
        return copy.deepcopy(model)
    finally:
        model.layers = layers


_KNOWN: dict[str, tuple[int, int, int]] = {}
"""Results of `_peaks` by everything that they depend on, as each takes a second."""
_CHUNK = LinearCrossEntropy().chunk_size
_HEAP = 0.27
"""Fragmentation of glibc's heap as a share of activations, measured with the settings of `tune`."""
_KERNELS = 64 * 2**20
"""Bytes of oneDNN's bfloat16 kernels, measured with the cache size of `tune`."""


def _bytes(tensor: Tensor, parts: int) -> int:
    """Return the bytes of a rank's shard of a tensor: FSDP2 splits the first dimension into equal chunks."""
    if tensor.dim() == 0:
        return tensor.element_size()
    rows = math.ceil(tensor.shape[0] / parts)
    return rows * math.prod(tensor.shape[1:]) * tensor.element_size()


def _state_bytes(component: Component[Optimizer], trained: list[nn.Parameter], parts: int) -> int:
    """Return the bytes of an optimizer's state after a step, on one rank."""
    if not trained:
        return 0
    try:
        tensors = [tensor for state in _states(component, trained) for tensor in state]
    except InstantiationError:
        raise
    except (
        Exception
    ):  # a step that reads values, which the meta device lacks, or one that rejects the parameters
        tensors = _scaled_states(component, trained)
    return sum(_bytes(tensor, parts) for tensor in tensors)


def _states(component: Component[Optimizer], parameters: list[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Yield the tensors of each parameter's state after a step."""
    # The plain kernels keep the same state, and run on the meta device.
    plain: dict[str, Any] = {n: False for n in ("fused", "foreach") if n in parameters_of(component.func)}
    optimizer = instantiate(component, parameters, **plain)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    try:
        optimizer.step()
    finally:
        for parameter in parameters:
            parameter.grad = None
    for parameter in parameters:
        yield [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]


def _scaled_states(component: Component[Optimizer], trained: list[nn.Parameter]) -> list[Tensor]:
    """Return the state of small parameters with values, with tensors of the same shape enlarged.

    Raises:
        InstantiationError: The optimizer rejects parameters of such numbers of dimensions.
    """
    small = [
        nn.Parameter(torch.ones([min(n, 2) for n in parameter.shape], dtype=parameter.dtype))
        for parameter in trained
    ]
    try:
        states = list(_states(component, small))
    except InstantiationError:
        raise
    except Exception as error:  # of whatever kind the optimizer's code raises
        reason = ": ".join(filter(None, [type(error).__name__, str(error)]))
        message = f"{dotpath(component.func)}: a step of the trained parameters fails: {reason}"
        raise InstantiationError(message) from error
    return [
        tensor.new_empty(whole.shape, device="meta") if tensor.shape == part.shape else tensor
        for whole, part, state in zip(trained, small, states, strict=True)
        for tensor in state
    ]
