"""The cases of benchmarks/training.py, their goals, and the ablations."""

from dataclasses import dataclass, field
from typing import NamedTuple, NotRequired, TypedDict

QV, ALL = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

NO_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
"""Environment variables that disable AMX in oneDNN, as on a processor without AMX."""


class Case(TypedDict):
    """A training setup that both libraries run."""

    lora: list[str] | None
    """The layers with adapters; None: all weights are trained."""
    rank: NotRequired[int]
    """The adapters' rank."""
    dtype: str
    """The compute precision, fp32 or bf16."""
    is_packed: bool
    """Whether torchtune packs rows."""
    is_packed_in_trl: NotRequired[bool]
    """Whether TRL packs rows."""
    environment: NotRequired[dict[str, str]]
    """Environment variables of both libraries."""


class Goals(NamedTuple):
    """The targets of a case; ratios are torchtune's value divided by TRL's."""

    speed: float
    """Minimum ratio of tokens per second."""
    peak: float
    """Maximum ratio of peak memory."""
    start: float | None = None
    """Maximum ratio of seconds to the first step."""
    mfu: float | None = None
    """Minimum MFU of torchtune."""


CASES: dict[str, Case] = {
    "lora fp32": {"lora": QV, "rank": 8, "dtype": "fp32", "is_packed": True},
    "lora bf16": {"lora": QV, "rank": 8, "dtype": "bf16", "is_packed": True},
    "lora bf16, no AMX": {"lora": QV, "rank": 8, "dtype": "bf16", "is_packed": True, "environment": NO_AMX},
    "full fp32": {"lora": None, "dtype": "fp32", "is_packed": True},
    "lora fp32, same batches": {"lora": QV, "rank": 8, "dtype": "fp32", "is_packed": False},
    "lora on all fp32": {"lora": ALL, "rank": 16, "dtype": "fp32", "is_packed": True},
    "full bf16": {"lora": None, "dtype": "bf16", "is_packed": True},
    "lora fp32, TRL packed": {
        "lora": QV,
        "rank": 8,
        "dtype": "fp32",
        "is_packed": True,
        "is_packed_in_trl": True,
    },
}
GOALS = {
    "lora fp32": Goals(2.0, 0.40, 0.45, 0.60),
    "lora bf16": Goals(2.3, 0.35, 0.45, 0.45),
    "lora bf16, no AMX": Goals(2.3, 0.35, 0.45, 0.45),
    "full fp32": Goals(1.8, 0.60, 0.50, 0.60),
    "lora fp32, same batches": Goals(1.3, 0.60),
}


@dataclass(frozen=True)
class Ablation:
    """A run with one optimization disabled or replaced.

    Args:
        overrides: Overrides that disable the optimization.
        environment: Environment variables that disable the optimization.
        replacement: A key of `REPLACEMENTS`, if neither overrides nor variables can disable the optimization.
        is_packed: Whether rows are packed, if the case packs rows.
        dtype: The only precision that uses the optimization; empty: every precision does.
    """

    overrides: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    replacement: str = ""
    is_packed: bool = True
    dtype: str = ""


DEFAULT_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024", "LRU_CACHE_CAPACITY": "1024"}
DEFAULT_HEAP = {"GLIBC_TUNABLES": "", **DEFAULT_CACHES}
ABLATIONS: dict[str, Ablation] = {
    "none": Ablation(),
    "padded rows": Ablation(is_packed=False),
    "logits at every position": Ablation(("loss=torch.nn.CrossEntropyLoss",)),
    "the loss in one chunk": Ablation(("loss.chunk_size=65536",)),
    "standard layers": Ablation(("placement.lean_layers=false",)),
    "shared prefixes written out": Ablation(("loading.packing.share_prefixes=false",)),
    "weights copied": Ablation(replacement="weights copied"),
    "attention in bfloat16": Ablation(replacement="attention in bfloat16", dtype="bf16"),
    "products by oneDNN": Ablation(replacement="products by oneDNN", dtype="fp32"),
    "torch's unmodified optimizer": Ablation(replacement="torch's unmodified optimizer"),
    "metrics read one step later": Ablation(replacement="metrics read one step later"),
    "glibc's default heap": Ablation(environment=DEFAULT_HEAP),
    "1,024 kernels cached": Ablation(environment=DEFAULT_CACHES, dtype="bf16"),
    "activation checkpointing": Ablation(("placement.activation_checkpointing.keep=inputs",)),
}
