"""A simulated device `gpu`, implemented in Python: it computes on the CPU, and rejects what CUDA rejects.

A tensor of the device wraps a tensor on the CPU (`DeviceTensor`), and torch's autograd engine treats it like a tensor
on a GPU. The device raises RuntimeError, with the name of the operator, if

- an operator mixes devices: CUDA accepts CPU tensors only as scalars of elementwise operators and as indices;
- the factors of a matrix product have different dtypes;
- a random number generator belongs to the CPU.

It also records the operators that make the host wait for a GPU (`tests.gpu.waits`), similar to
`torch.cuda.set_sync_debug_mode`.

`install` registers the device for the rest of the process, so it is called only in a separate process
(`tests.gpu.process.in_separate_process`). Attribute `is_cuda` of its tensors is true, so the code takes CUDA's
branches. The following have stand-ins, so these tests do not prove that they work on a GPU:

| on CUDA | stand-in |
|---|---|
| `mm` and `addmm` with `out_dtype` | a product in `out_dtype` of the converted factors, with CUDA's checks of dtypes |
| flash and memory-efficient attention | torch's `math` kernel, after checks of a few conditions |
| `flex_attention`, `varlen_attn` | every score is computed (`dense_flex_attention`, `dense_varlen_attention`) |
| pinned memory, `torch.cuda.Event` | ordinary memory; an asynchronous copy arrives when its event is waited for |
| random numbers | the CPU's generator |

The following are not run at all: Triton and `torch.compile`, other streams, NCCL, CUDA's random state, the
allocator (memory in use, fragmentation, out of memory), `torch.cuda.set_device`, multiple GPUs, all branches on a
`torch.device` whose type is "cuda" (such as `Batch.to` through pinned memory), and the speed and
rounding of CUDA's kernels.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tests.gpu.copies import NOT_ARRIVED, Event, Stream, arriving, is_pinned, with_pinning
from tests.gpu.errors import fail, require, with_failures
from tests.gpu.waits import record_wait

aten: Any = torch.ops.aten
Operator = Any
"""An overload of an operator, such as `aten.add.Tensor`; torch leaves its type private."""

GPU = "gpu:0"
"""The only device of its type."""


class DeviceTensor(Tensor):
    """A tensor on the device; attribute `elements` is a tensor on the CPU that contains its elements."""

    elements: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch's docs do

    @staticmethod
    def __new__(cls: type["DeviceTensor"], elements: Tensor) -> "DeviceTensor":
        tensor: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            elements.size(),
            strides=elements.stride(),
            storage_offset=elements.storage_offset(),
            dtype=elements.dtype,
            device=torch.device(GPU),
        )
        tensor.elements = elements
        return tensor

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub is of the disabled method
        cls, operator: Operator, _types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _call(operator, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]  # torch's has an argument
        return f"DeviceTensor({self.elements})"

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]  # read-only, as in torch
        """True, so that the code takes CUDA's branches."""
        return True

    @property
    def data(self) -> Tensor:
        """The tensor without its graph."""
        return self.detach()

    @data.setter
    def data(self, tensor: Tensor) -> None:
        assert isinstance(tensor, DeviceTensor)
        torch._C.TensorBase.data.__set__(self, tensor)  # type: ignore[attr-defined]  # not in the stubs
        self.elements = tensor.elements

    def tolist(self) -> Any:
        """Copy the elements to the host."""
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        """Raise TypeError, as on CUDA."""
        raise TypeError(f"can't convert {GPU} device type tensor to numpy; use Tensor.cpu() first")


# Operators


_PRODUCTS = {
    *(aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm, aten.baddbmm_, aten.addbmm, aten.addbmm_),
    *(aten.mv, aten.addmv, aten.addmv_, aten.dot, aten.vdot, aten.addr, aten.addr_, aten.linear),
}
"""Operators whose tensors must have the same dtype; none converts them."""
_WITH_OUT_DTYPE = (aten.mm.dtype, aten.mm.dtype_out, aten.addmm.dtype, aten.addmm.dtype_out)
_MOVES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}
_TAKING_INDICES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
_READING = {
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero),
    *(aten.unique_dim, aten._unique2, aten.unique_consecutive, aten.bincount),
}
"""Operators whose result or its shape is needed on the host."""


def _call(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Check the tensors of a call, compute it on the CPU, and wrap the result."""
    _check_devices(operator, args, kwargs)
    args = _check_dtypes(operator, args, kwargs)
    if _makes_host_wait(operator, args, kwargs):
        record_wait(operator)
    if operator in _MOVES:
        return _move(operator, args, kwargs)
    values = {name: _unwrapped(value) for name, value in kwargs.items()}
    if values.get("device") is not None:
        values["device"] = torch.device("cpu")
    compute = _multiply if operator in _WITH_OUT_DTYPE else operator
    result = compute(*_unwrapped(args), **values)
    for destination in (*args[:1], kwargs.get("out")):
        if isinstance(destination, DeviceTensor) and result is destination.elements:
            if destination.shape != result.shape:  # factories resize an empty tensor
                destination.data = DeviceTensor(result)
            return destination
    return _wrapped(result)


def _elements(tensor: Tensor) -> Tensor:
    return tensor.elements if isinstance(tensor, DeviceTensor) else tensor


def _unwrapped(value: Any) -> Any:
    """Replace the device's tensors, also in nested sequences, by the tensors with their elements."""
    if isinstance(value, Tensor):
        return _elements(value)
    return [_unwrapped(part) for part in value] if isinstance(value, (tuple, list)) else value


def _wrapped(result: Any) -> Any:
    """Replace the tensors of a result by tensors on the device."""
    if isinstance(result, Tensor):
        return DeviceTensor(result)
    return type(result)(map(_wrapped, result)) if isinstance(result, (tuple, list)) else result


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the arguments of a call, also those in nested sequences."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _multiply(*args: Any, out: Tensor | None = None, beta: float = 1, alpha: float = 1) -> Tensor:
    """Compute `mm` or `addmm` in `out_dtype`, as CUDA does."""
    *summand, left, right, out_dtype = args
    product = left.to(out_dtype) @ right.to(out_dtype)
    if summand:
        product = beta * summand[0].to(out_dtype) + alpha * product
    return product if out is None else out.copy_(product)


# Devices


def _check_devices(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    leaves = list(_leaves([args, *kwargs.values()]))
    for generator in leaves:
        if isinstance(generator, torch.Generator) and generator.device.type == "cpu":
            fail(f"{operator}: expected a generator on {GPU}, got one on the CPU")
    on_cpu = [leaf for leaf in leaves if _is_on_cpu(leaf)]
    if operator in _MOVES or not on_cpu:
        return
    outputs = {id(tensor) for tensor in _outputs(operator, args, kwargs)}
    indices = args[1] if operator.overloadpacket in _TAKING_INDICES else ()
    accepted = {id(index) for index in indices}
    for tensor in on_cpu:
        is_scalar = tensor.dim() == 0 and id(tensor) not in outputs
        if id(tensor) not in accepted and not (is_scalar and _takes_scalars(operator)):
            fail(f"{operator}: a tensor {list(tensor.shape)} on {tensor.device} among tensors on {GPU}")


def _takes_scalars(operator: Operator) -> bool:
    """Return whether CUDA's kernel accepts a scalar tensor on the CPU in place of a number."""
    # `fill_` and `index_put_` are not tagged as elementwise, but accept a scalar as the value.
    is_elementwise = torch.Tag.pointwise in operator.tags
    is_elementwise |= operator.overloadpacket in {aten.fill_, *_TAKING_INDICES}
    return is_elementwise or operator._schema.name.startswith(("aten::_foreach_", "aten::_fused_"))


def _outputs(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Return the tensors that an operator writes to."""
    arguments = operator._schema.arguments
    values = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    names = (argument.name for argument in arguments if argument.alias_info and argument.alias_info.is_write)
    return list(_leaves([values.get(name) for name in names]))


# Dtypes


def _check_dtypes(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> Sequence[Any]:
    """Check the dtypes of a product; return the arguments, with which it can be computed even if the check fails."""
    if operator in _WITH_OUT_DTYPE:
        _check_out_dtype(operator, args, kwargs.get("out"))
    elif operator.overloadpacket in _PRODUCTS:
        tensors = [leaf for leaf in _leaves([args, *kwargs.values()]) if isinstance(leaf, Tensor)]
        dtypes = [tensor.dtype for tensor in tensors if tensor.dtype != torch.bool]
        if len(set(dtypes)) != 1:
            fail(f"{operator}: the device requires that all tensors have the same dtype, got {dtypes}")
            return [_elements(arg).to(dtypes[0]) if isinstance(arg, Tensor) else arg for arg in args]
    return args


def _check_out_dtype(operator: Operator, args: Sequence[Any], out: Tensor | None) -> None:
    """Check the dtypes of a product with `out_dtype`, as `_addmm_dtype_out_cuda` in torch's cuda/Blas.cpp does."""
    *summand, left, right, out_dtype = args
    is_wider = out_dtype == torch.float32 and left.dtype in {torch.float16, torch.bfloat16}
    require(operator, "both factors have the same dtype", left.dtype == right.dtype)
    require(operator, "out_dtype is that of the factors, or float32", out_dtype == left.dtype or is_wider)
    require(operator, "out has dtype out_dtype", out is None or out.dtype == out_dtype)
    for tensor in summand:
        is_allowed = tensor.dtype in {out_dtype, left.dtype}
        require(operator, "the summand has dtype out_dtype or that of the factors", is_allowed)


# Waiting


def _makes_host_wait(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    packet = operator.overloadpacket
    if packet in _READING:
        return True
    if operator is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    if packet in _TAKING_INDICES:
        return any(_is_mask(index) or _is_on_cpu(index) for index in args[1])
    if operator is aten._to_copy.default:
        to = kwargs.get("device") or args[0].device
        return torch.device(to).type != args[0].device.type and not kwargs.get("non_blocking")
    if operator in _MOVES:
        destination, source, *non_blocking = (
            args if operator is aten.copy_.default else (args[1], args[0], *args[2:])
        )
        is_asynchronous = any(non_blocking) and (
            isinstance(destination, DeviceTensor) or is_pinned(destination)
        )
        return not is_asynchronous and _is_on_cpu(destination) != _is_on_cpu(source)
    return False


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in {torch.bool, torch.uint8}


def _is_on_cpu(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and not isinstance(tensor, DeviceTensor)


# Copies


def _move(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Copy a tensor within the device, to it, or to the CPU."""
    if operator is aten._to_copy.default:
        to = torch.device(kwargs.get("device") or args[0].device)
        copied = operator(_elements(args[0]), **{**kwargs, "device": torch.device("cpu")})
        if to.type != "cpu":
            return DeviceTensor(copied)
        return (
            arriving(torch.full_like(copied, NOT_ARRIVED), copied) if kwargs.get("non_blocking") else copied
        )
    if operator is aten._copy_from.default:  # the source comes first
        args = (args[1], args[0], *args[2:])
    destination, source, *non_blocking = args
    if is_pinned(destination) and any(non_blocking):
        return arriving(destination, _elements(source).clone())
    _elements(destination).copy_(_elements(source))
    return destination


# Registration


_STREAM = Stream()


class _Module:
    """The module `torch.gpu`, which torch expects of a device."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Do nothing: random numbers are the CPU's."""

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)

    def current_stream(self) -> Stream:
        return _STREAM

    def stream(self, _: Stream) -> AbstractContextManager[None]:
        return nullcontext()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def _empty(size: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return DeviceTensor(torch.empty(size, dtype=dtype))


def _empty_strided(
    size: Sequence[int], stride: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any
) -> Tensor:
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


_LIBRARY: list[torch.library.Library] = []
"""The kernels of the device, which torch removes with this object."""


def install() -> None:
    """Register the device, for the rest of the process."""
    _setup_privateuseone_for_python_backend("gpu", _Module())
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl("empty.memory_format", _empty, "PrivateUse1")  # type: ignore[no-untyped-call]
    library.impl("empty_strided", _empty_strided, "PrivateUse1")  # type: ignore[no-untyped-call]
    library.impl("_copy_from", lambda *args: _call(aten._copy_from.default, args, {}), "PrivateUse1")  # type: ignore[no-untyped-call]
    _LIBRARY.append(library)
    torch.autograd._engine_run_backward = with_failures(torch.autograd._engine_run_backward)  # type: ignore[attr-defined]
    torch.empty = with_pinning(torch.empty)
    torch.cuda.Event = Event  # type: ignore[assignment,misc]
