"""Bytes that a decoder layer moves in addition to its matrix products and attention, counted without a GPU.

    python -m benchmarks.layer_traffic [--tokens N] [--json FILE]

A layer of Llama 3 8B is run forward and backward in bfloat16 on tensors without data, in full fine-tuning and with LoRA
of rank 16 on all linear layers. On a GPU, these bytes take time while its matrix units are idle: 7 GB are 2.5 ms at 2.8
TB/s, compared with about 19 ms for the matrix products of 8,192 tokens at 620 TFLOP/s.

standard  standard layers, one operation at a time: inputs and outputs of every operation that is not a view
lean      the same for layers that store less for the backward pass (`torchtune.modules.lean`)
compiled  standard layers, compiled: the bytes that inductor's fused kernels read and write, by inductor's own count
"""

# ruff: noqa: SLF001 -- the compiler counts bytes in private attributes

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command_line import benchmark_parser
from benchmarks.fresh_process import in_fresh_process

GIGABYTE = 1e9
CASES = ("full", "LoRA r16")
KINDS = ("standard", "lean", "compiled")


def main() -> None:
    """Print a table of gigabytes."""
    arguments = parse_arguments()
    traffic = {
        case: {kind: in_fresh_process(count_bytes, kind, case, arguments.tokens) for kind in KINDS}
        for case in CASES
    }
    lines = [f"{'':10}" + "".join(f"{kind:>10}" for kind in KINDS)]
    for case, row in traffic.items():
        lines.append(f"{case:10}" + "".join(f"{row[kind] / GIGABYTE:8.1f}GB" for kind in KINDS))
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(traffic, indent=2))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = benchmark_parser("layer_traffic", __doc__)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of the batch, in one row")
    parser.add_argument("--json", type=Path, help="file for the numbers of bytes")
    return parser.parse_args()


def count_bytes(kind: str, case: str, n_tokens: int) -> int:
    """Return the bytes that a layer moves in a forward and backward pass, except in products and attention.

    Args:
        kind: One of `KINDS`.
        case: One of `CASES`.
        n_tokens: Number of tokens.
    """
    import torch

    from torchtune.internals import fake_tensors
    from torchtune.models.llama3 import llama3_8b
    from torchtune.modules import Decoder, Hardware, _attention, add_lora, assume_hardware, lean
    from torchtune.placement import set_dtype

    with torch.device("meta"):
        model = Decoder(llama3_8b().architecture.evolve(num_layers=1, vocab_size=256))
    if case != "full":
        add_lora(model, ["all-linear"], rank=16, alpha=16.0)
    set_dtype(model, torch.bfloat16, torch.bfloat16)
    if kind == "lean":
        lean(model)
    setattr(_attention, "attend", attention_without_kernel())  # noqa: B010 -- only in this process
    with fake_tensors(), assume_hardware(Hardware("cuda", (9, 0))):
        model.to_empty(device="cpu")
        layer, context = model.layers[0], pass_context(model, n_tokens)
        x = torch.empty(1, n_tokens, 4096, dtype=torch.bfloat16, requires_grad=True)
        if kind == "compiled":
            return inductor_bytes(lambda y: layer(y, context), x)
        with operation_bytes() as counter:
            torch.autograd.backward(layer(x, context), torch.empty_like(x))
        return int(counter.n_bytes)


def attention_without_kernel() -> Callable[..., Any]:
    """Return a replacement for `attend` whose result has no values; it saves the tensors of a fused kernel."""
    import torch
    from torch import Tensor

    @torch.library.custom_op("benchmarks::attend", mutates_args=())
    def attend(inputs: list[Tensor]) -> Tensor:
        return torch.empty_like(inputs[0])

    @torch.library.custom_op("benchmarks::attend_backward", mutates_args=())
    def attend_backward(inputs: list[Tensor]) -> list[Tensor]:
        return [torch.empty_like(x) for x in inputs[:3]]

    attend.register_fake(lambda inputs: torch.empty_like(inputs[0]))
    attend_backward.register_fake(lambda inputs: [torch.empty_like(x) for x in inputs[:3]])

    def save(ctx: Any, inputs: tuple[list[Tensor]], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[0], output)

    def backward(ctx: Any, grad: Tensor) -> list[Tensor]:
        gradients: list[Tensor] = attend_backward([*ctx.saved_tensors, grad])
        return gradients

    attend.register_autograd(backward, setup_context=save)
    return lambda q, k, v, _mask, **_options: attend([q, k, v])


def operation_bytes() -> Any:
    """Return a context that counts the bytes of inputs and outputs of operations in its `n_bytes`."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    excluded = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.addmm_.default}

    class OperationBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's methods are untyped
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.n_bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **kwargs or {})
            tensors = [x for x in tree_leaves((args, result)) if isinstance(x, torch.Tensor)]
            moves_data = not func.is_view and func not in excluded and "empty" not in func.name()
            if moves_data and func.namespace == "aten":
                self.n_bytes += sum(x.numel() * x.element_size() for x in tensors)
            return result

    return OperationBytes()


def pass_context(model: Any, n_tokens: int) -> Any:
    """Return the rotation and the mask of a row of tokens."""
    import torch

    from torchtune.modules import PassContext, hardware_of
    from torchtune.modules._attention_mask import PassShape

    tokens = torch.empty(1, n_tokens, dtype=torch.long)
    shape = PassShape(tokens, hardware_of(tokens.device))
    mask = shape.mask(model.architecture.attention, None, torch.bfloat16)
    return PassContext(model.rotary(torch.arange(n_tokens)[None], torch.bfloat16), mask)


def inductor_bytes(function: Callable[[Any], Any], x: Any) -> int:
    """Compile the forward and backward pass of a function, and return the bytes of inductor's kernels."""
    import torch
    from torch._guards import detect_fake_mode
    from torch._inductor.compile_fx import compile_fx, record_original_output_strides
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode
    from torch._inductor.virtualized import V

    total = 0

    def count(graph_module: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        nonlocal total
        record_original_output_strides(graph_module)
        graph = GraphLowering(graph_module)
        fake_mode = detect_fake_mode(inputs)
        with V.set_fake_mode(fake_mode), V.set_graph_handler(graph), V.set_debug_handler(DebugContext()):
            graph.run(*inputs)
            graph._update_scheduler()
            for node in graph.scheduler.nodes:
                if not isinstance(node, (ExternKernelSchedulerNode, NopKernelSchedulerNode)):
                    total += node.get_read_write_buffers_sizes()
        return graph_module.forward

    torch._dynamo.reset()
    compiled = torch.compile(function, backend=partial(compile_fx, inner_compile=count), fullgraph=True)
    torch.autograd.backward(compiled(x), torch.empty_like(x))
    return total


if __name__ == "__main__":
    main()
