"""What benchmarks/training.py runs: cases beside TRL, what the project wants of them, and what can be left out."""

from dataclasses import dataclass, field
from typing import Any

QV, ALL = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

NO_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
"""Lets both sides compute as on a processor without AMX's tiles (oneDNN's own variable)."""

CASES: dict[str, dict[str, Any]] = {
    "lora fp32": {"lora": QV, "rank": 8, "dtype": "fp32", "packed": True},
    "lora bf16": {"lora": QV, "rank": 8, "dtype": "bf16", "packed": True},
    "lora bf16, no AMX": {"lora": QV, "rank": 8, "dtype": "bf16", "packed": True, "environment": NO_AMX},
    "full fp32": {"lora": None, "dtype": "fp32", "packed": True},
    "lora fp32, same batches": {"lora": QV, "rank": 8, "dtype": "fp32", "packed": False},
    "lora on all fp32": {"lora": ALL, "rank": 16, "dtype": "fp32", "packed": True},
    "full bf16": {"lora": None, "dtype": "bf16", "packed": True},
    "lora fp32, peer packed": {"lora": QV, "rank": 8, "dtype": "fp32", "packed": True, "peer_packed": True},
}
GOALS = {
    "lora fp32": (2.0, 0.40, 0.45, 0.60),
    "lora bf16": (2.3, 0.35, 0.45, 0.45),
    "lora bf16, no AMX": (2.3, 0.35, 0.45, 0.45),
    "full fp32": (1.8, 0.60, 0.50, 0.60),
    "lora fp32, same batches": (1.3, 0.60, None, None),
}
"""The project's: tokens/s beside TRL's at least, peak and start beside TRL's at most, MFU at least."""


@dataclass(frozen=True)
class Ablation:
    """One technique left out, or another put in its place.

    Args:
        words: Overrides that do so.
        environment: Variables that do.
        instead: A key of `benchmarks.training_sides.instead.INSTEAD`, where no override does.
        packed: Whether rows are packed where the case packs them.
        dtype: The only precision in which there is anything to leave out; empty: each.
    """

    words: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    instead: str = ""
    packed: bool = True
    dtype: str = ""


GLIBC = {"GLIBC_TUNABLES": "", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024", "LRU_CACHE_CAPACITY": "1024"}
MANY_KERNELS = {name: value for name, value in GLIBC.items() if name != "GLIBC_TUNABLES"}
ABLATIONS: dict[str, Ablation] = {
    "everything": Ablation(),
    "rows padded": Ablation(packed=False),
    "logits at every position": Ablation(("loss=torch.nn.CrossEntropyLoss",)),
    "the loss in one chunk": Ablation(("loss.chunk_size=65536",)),
    "plain layers": Ablation(("placement.lean_layers=false",)),
    "beginnings written out": Ablation(("loading.packing.share_prefixes=false",)),
    "weights copied": Ablation(instead="weights copied"),
    "attention in bfloat16": Ablation(instead="attention in bfloat16", dtype="bf16"),
    "products by oneDNN": Ablation(instead="products by oneDNN", dtype="fp32"),
    "torch's optimizer as it is": Ablation(instead="torch's optimizer as it is"),
    "numbers read a step later": Ablation(instead="numbers read a step later"),
    "the heap as glibc has it": Ablation(environment=GLIBC),
    "1,024 kernels cached": Ablation(environment=MANY_KERNELS, dtype="bf16"),
    "inputs of layers kept alone": Ablation(("placement.activation_checkpointing.keep=inputs",)),
}
