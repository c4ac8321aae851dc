"""Estimate the memory that training a model requires, using meta and fake tensors."""

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
from torchtune.modules import (
    Attention,
    Decoder,
    GroupedQuerySpec,
    Hardware,
    assume_hardware,
    lean,
    loss_chunk_size,
)
from torchtune.placement import (
    DTYPES,
    ActivationCheckpointing,
    MethodModule,
    Placement,
    checkpoint_activations,
    set_dtype,
)

GPU = Hardware("cuda", (9, 0))
"""The GPU that estimates assume; dtypes and kernels are the same on all GPUs since compute capability 8.0."""


@frozen
class MemoryEstimate:
    """The memory of one rank, not including the allocator's cache."""

    parameters: int
    """Number of model parameters, summed over all ranks."""
    trainable: int
    """Number of trained parameters, summed over all ranks."""
    ranks: int
    """Number of ranks."""
    weights: int
    """Bytes of parameters and buffers on one rank."""
    gradients: int
    """Bytes of the trained parameters' gradients on one rank."""
    optimizer: int
    """Bytes of the optimizer's state on one rank."""
    activations: int = 0
    """Approximate peak bytes that a forward and backward pass add; 0 if no batch is passed."""
    loss: int = 0
    """Bytes of `activations` used for logits and loss; 0 if the peak occurs later."""
    heap: int = 0
    """Approximate bytes of heap fragmentation and of compiled bfloat16 kernels, on a CPU."""
    context: int = 0
    """Approximate bytes of the CUDA context, of libraries' buffers, and of fragmentation, on a GPU."""
    peak: int = 0
    """Approximate peak bytes of a step; may be below the sum, because gradients replace activations over time."""

    @property
    def total(self) -> int:
        """Bytes on one rank, not including activations."""
        return self.weights + self.gradients + self.optimizer


def estimate_memory(  # noqa: PLR0913 - memory depends on all of them.
    model: nn.Module,
    optimizer: Component[Optimizer] | None,
    placement: Placement | None = None,
    *,
    dtype: str = "fp32",
    ranks: int = 1,
    enable_fsdp: bool = False,
    batch: tuple[int, int] | None = None,
    accumulates: bool = False,
    hardware: Hardware = GPU,
) -> MemoryEstimate:
    """Estimate the memory that training a model requires on each rank.

    Args:
        model: The model, on the meta device, with its adapters and `requires_grad` as in training. Its parameters are
            cast, in place, to the precision in which a run stores them.
        optimizer: The config's optimizer, whose state is measured after one step. None: nothing is trained.
        placement: The config's placement; None: `Placement()`.
        dtype: The compute precision, a key of `DTYPES`.
        ranks: Number of ranks.
        enable_fsdp: Whether parameters are sharded across ranks (by the first dimension, rounded up).
        batch: The number of batch rows on one rank and their length (tokens); None: activations are not estimated.
        accumulates: Whether a step has multiple micro-batches, so that gradients exist during later forward passes.
        hardware: The device of the run, which determines dtypes, attention kernels and the chunks of the loss.

    Raises:
        InstantiationError: The optimizer rejects its arguments.
    """
    if optimizer is None:
        model.requires_grad_(requires_grad=False)
    placement, compute = placement or Placement(), DTYPES[dtype]
    replicas = 1 if placement.sharding is None else placement.sharding.replicas
    set_dtype(model, compute, DTYPES[placement.weights_dtype])
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    parts = max(1, ranks // replicas) if enable_fsdp else 1
    if placement.lean_layers and not placement.keeps_matmuls:
        lean(model)
    usage = _PassMemory()
    if batch is not None and isinstance(model, Decoder) and LIVE_BYTES.is_enabled():
        usage = _Workload(model, compute, batch, placement.activation_checkpointing, hardware).measure(parts)
    weights = sum(_bytes(p, parts) for p in parameters) + sum(_bytes(b, 1) for b in model.buffers())
    gradients = sum(_bytes(p, parts) for p in trained)
    if placement.reduce_gradients_once and accumulates and parts > 1:
        gradients += sum(p.numel() for p in trained) * max(4, compute.itemsize)
    state = 0 if optimizer is None else _state_bytes(optimizer, trained, parts)
    peak = weights + state + usage.peak_with(gradients, accumulates=accumulates)
    heap = context = 0
    if usage.peak and hardware.is_cpu:
        heap = int(_HEAP * usage.peak) + (_KERNELS if compute.itemsize < 4 else 0)
    if hardware.is_cuda:
        context = _CONTEXT + (_NCCL if ranks > 1 else 0) + int(_FRAGMENTATION * peak)
    return MemoryEstimate(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in trained),
        ranks=ranks,
        weights=weights,
        gradients=gradients,
        optimizer=state,
        activations=usage.peak,
        loss=0 if usage.peak > usage.saved + usage.loss + usage.head else usage.loss,
        heap=heap,
        context=context,
        peak=peak + heap + context if usage.peak else 0,
    )


@frozen
class _PassMemory:
    """Bytes that a forward and backward pass require, in addition to weights and gradients."""

    saved: int = 0
    """Saved for the backward pass, at the end of the forward pass."""
    loss: int = 0
    """Used by the loss during its computation, in addition to `saved`."""
    head: int = 0
    """Gradient of the output head, which exists from the loss until the embedding's gradient is added."""
    layers: int = 0
    """Peak of the layers' forward and backward passes."""
    embedding: int = 0
    """Used at the end of the backward pass, in the embedding."""

    @property
    def peak(self) -> int:
        """Peak if all gradients already exist."""
        return max(self.saved + self.loss, self.layers, self.embedding) + self.head

    def peak_with(self, gradients: int, *, accumulates: bool) -> int:
        """Return the peak including gradients, which are allocated layer by layer as activations are freed."""
        if accumulates:
            return self.peak + gradients
        # `gradients` includes the head's gradient.
        return max(
            self.head + max(self.saved + self.loss, self.layers), gradients + self.embedding + self.head
        )


@frozen
class _Workload:
    """A forward and backward pass whose memory is measured."""

    model: Decoder
    compute: torch.dtype
    batch: tuple[int, int]
    """The number of batch rows and their length (tokens)."""
    section: ActivationCheckpointing | None
    hardware: Hardware

    def measure(self, parts: int) -> _PassMemory:
        """Measure the memory of the passes if FSDP splits each parameter into `parts` shards.

        The passes run on fake tensors through the first few layers, and the result is extrapolated to all layers, which
        have the same shapes. Trained parameters wider than the compute precision are cast: all of them for the whole
        pass or, with FSDP, two layers and the root module at a time.
        """
        model, compute = self.model, self.compute
        n = len(model.layers)
        period = 1 if self.section is None else self.section.every_n_layers
        # Do not extrapolate from 0 layers, because the first layer may save less than the others.
        n_small, n_large = min(2 * period, n), min(3 * period, n)
        saved, layers, embedding = self._peaks(n_small)
        if n_large > n_small:
            larger = self._peaks(n_large)
            saved += (larger[0] - saved) * (n - n_small) // (n_large - n_small)
            layers += (larger[1] - layers) * (n - n_small) // (n_large - n_small)
        master = [p for p in model.parameters() if p.requires_grad and p.dtype != compute]
        casts = sum(p.numel() for p in master) * compute.itemsize
        if parts > 1:
            sizes = [sum(p.numel() for p in layer.parameters()) for layer in model.layers]
            root = sum(p.numel() for p in model.parameters()) - sum(sizes)
            if not model.architecture.tied_embeddings:
                root -= sum(p.numel() for p in model.embed_tokens.parameters())
            casts = (2 * max(sizes, default=0) + root) * compute.itemsize
            reduced = [
                sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in model.layers
            ]
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            # Gradients are reduced in float32: those of a layer at a time, and at the end those of the root module.
            layers += max(reduced, default=0) * 4
            embedding += (trained - sum(reduced)) * 4
        loss, head = self._loss_bytes()
        return _PassMemory(saved + casts, loss, head, layers + casts, embedding + casts)

    def _loss_bytes(self) -> tuple[int, int]:
        """Return the bytes of `LinearCrossEntropy`, if every position has a target, and of the head's gradient."""
        a, head, compute_bytes = self.model.architecture, self.model.head_weight, self.compute.itemsize
        adapter = self.model.head_adapter
        rank = 0 if adapter is None else adapter.rank
        float_bytes = torch.promote_types(self.compute, torch.float32).itemsize
        positions = math.prod(self.batch)
        per_logit = float_bytes
        if compute_bytes < float_bytes:
            per_logit += compute_bytes  # cast for the matrix products
        if a.final_softcap is not None:
            per_logit = 3 * float_bytes  # with the slopes and a temporary tensor, before the cast
        chunk_size = loss_chunk_size(a.vocab_size, self.hardware)
        size = (
            min(chunk_size, positions) * a.vocab_size * per_logit
            + 2 * positions * a.embed_dim * compute_bytes
        )
        n = a.vocab_size * (a.embed_dim + rank)  # elements of the head with its adapter's rows appended
        if rank:
            size += n * compute_bytes
        if self.hardware.is_cpu and compute_bytes < float_bytes:
            size += float_bytes * n
        return size, float_bytes * n if head.requires_grad or rank else 0

    def _peaks(self, n_layers: int) -> tuple[int, int, int]:
        """Return the saved bytes of a pass through the first layers, its peak, and its peak in the embedding."""
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
            (
                model.architecture,
                kinds,
                n_layers,
                shapes,
                settings,
                head,
                compute,
                self.batch,
                section,
                self.hardware,
            )
        )
        if key in _PEAKS:
            return _PEAKS[key]
        rows, length = self.batch[0], min(self.batch[1], model.architecture.max_seq_len)
        shallow = _with_layers(model, n_layers)
        if not self.hardware.is_cpu:
            _remove_masks(shallow)
        if section is not None:
            checkpoint_activations(shallow, evolve(section, offload=False))
        with fake_tensors(), assume_hardware(self.hardware):
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
                shallow.embed_tokens.register_forward_hook(live.record_start_of_layers)
                hidden = torch.func.functional_call(
                    MethodModule(shallow, shallow.hidden),
                    {f"module.{n}": p for n, p in fakes.items()},
                    (tokens,),
                )
                saved = live.current
                hidden.sum().backward()
        peak, embedding = (live.peak, 0) if live.peak_of_layers is None else (live.peak_of_layers, live.peak)
        if section is not None and section.offload:
            n_inputs = math.ceil(n_layers / section.every_n_layers)
            input_bytes = rows * length * model.architecture.embed_dim * compute.itemsize
            # The last input stays on the device; the backward pass fetches the one before it at the same time.
            saved -= (n_inputs - 1) * input_bytes
            peak -= max(0, n_inputs - 2) * input_bytes
        return _PEAKS.setdefault(key, (saved, peak, embedding))


def _with_layers(model: Decoder, n_layers: int) -> Decoder:
    """Return a copy of a model with only its first layers."""
    layers = model.layers
    model.layers = layers[:n_layers]
    try:
        return copy.deepcopy(model)
    finally:
        model.layers = layers


def _remove_masks(model: Decoder) -> None:
    """Remove sliding windows and soft caps, in place: a GPU's kernels need the same memory with and without them."""
    if isinstance(model.architecture.attention, GroupedQuerySpec):
        model.architecture = model.architecture.evolve(window=None, attention_softcap=None)
    for module in model.modules():
        if isinstance(module, Attention):
            module.softcap = None


_PEAKS: dict[str, tuple[int, int, int]] = {}
"""Cached results of `_peaks`, by all values that determine them; computing a result takes about a second."""
_HEAP = 0.27
"""Fragmentation of glibc's heap as a fraction of activations, measured with the settings of `tune`."""
_CONTEXT = 2**30
"""Bytes of a CUDA context with the libraries' kernels and workspaces; about 0.6 GiB on an H100 without workspaces."""
_NCCL = 2**30
"""Bytes of NCCL's buffers on each rank."""
_FRAGMENTATION = 0.03
"""Memory that the caching allocator cannot use, as a fraction of the peak; an assumption, not yet measured on a GPU."""
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
    except Exception:  # the step reads values, which meta tensors lack, or rejects the parameters
        tensors = _scaled_states(component, trained)
    return sum(_bytes(tensor, parts) for tensor in tensors)


def _states(component: Component[Optimizer], parameters: list[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Yield the tensors of each parameter's state after a step."""
    # The for-loop implementation has the same state, and runs on the meta device.
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
    """Return the state after a step on small real parameters; tensors of a parameter's shape are scaled to full size.

    Raises:
        InstantiationError: The optimizer fails on parameters with these numbers of dimensions.
    """
    small = [
        nn.Parameter(torch.ones([min(n, 2) for n in parameter.shape], dtype=parameter.dtype))
        for parameter in trained
    ]
    try:
        states = list(_states(component, small))
    except InstantiationError:
        raise
    except Exception as error:  # any error that the optimizer's code raises
        reason = ": ".join(filter(None, [type(error).__name__, str(error)]))
        message = f"{dotpath(component.func)}: its step fails on the trained parameters: {reason}"
        raise InstantiationError(message) from error
    return [
        tensor.new_empty(full.shape, device="meta") if tensor.shape == part.shape else tensor
        for full, part, state in zip(trained, small, states, strict=True)
        for tensor in state
    ]
