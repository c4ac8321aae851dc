"""Components and minimal configs for the recipe tests."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from recipes.full_finetune import FullFinetuneConfig
from recipes.lora_finetune import LoraFinetuneConfig
from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.config import lazy
from torchtune.data import IGNORE_INDEX, Example, Tokenizer
from torchtune.datasets import InstructDataset
from torchtune.models.smollm2 import smollm2
from torchtune.placement import Placement
from torchtune.training import Checkpoints, Loading, Lora
from torchtune.utils.metric_logging import MetricLogger

ROWS = [
    {"instruction": f"What is {i} plus {i}?", "input": "", "output": f"It is {2 * i}." + " Yes." * (i % 3)}
    for i in range(6)
]
TINY = lazy(
    smollm2,
    vocab_size=ByteTokenizer.vocab_size,
    num_layers=2,
    embed_dim=32,
    num_heads=4,
    num_kv_heads=2,
    ffn_dim=48,
    max_seq_len=256,
)


class InterruptOnce(MetricLogger):
    """Interrupts the run at a step, unless the file `marker` shows that it was interrupted before."""

    def __init__(self, step: int, marker: str) -> None:
        self._step, self._marker = step, Path(marker)

    def log_dict(self, metrics: Mapping[str, float], step: int) -> None:
        if step == self._step and not self._marker.exists():
            self._marker.touch()
            raise KeyboardInterrupt


class HalfMasked(Dataset[Example]):
    """A dataset of two examples; the first has no target."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokens = tokenizer.encode("abc")
        self._rows = [
            Example(tokens, [IGNORE_INDEX] * len(tokens)),
            Example(tokens, [IGNORE_INDEX, *tokens[1:]]),
        ]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int, /) -> Example:
        return self._rows[index]


class NonFiniteLoss(nn.Module):
    """A cross-entropy loss whose value or gradient is not finite in some calls, which are counted from 1."""

    def __init__(self, reduction: str, calls: list[int], non_finite: str = "loss") -> None:
        super().__init__()
        self._loss = nn.CrossEntropyLoss(reduction=reduction)
        self._calls, self._non_finite, self._n = calls, non_finite, 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self._n += 1
        loss: Tensor = self._loss(logits, labels)
        if self._n not in self._calls:
            return loss
        return loss * float("nan") if self._non_finite == "loss" else loss + (logits * 0).abs().sqrt().sum()


def common_fields(
    folder: Path,
    name: str,
    *,
    rows: list[dict[str, str]] = ROWS,
    dataset_class: Callable[..., Any] = InstructDataset,
    **changes: Any,
) -> dict[str, Any]:
    source = folder / "rows.json"
    source.write_text(json.dumps(rows), encoding="utf-8")
    fields = {
        "output_dir": str(folder / name),
        "seed": 1,
        "device": "cpu",
        "model": TINY,
        "model_directory": None,
        "tokenizer": lazy(ByteTokenizer),
        "dataset": lazy(dataset_class, source=str(source)),
        "batch_size": 2,
    }
    return nest_sections(fields | changes)


def nest_sections(fields: dict[str, Any]) -> dict[str, Any]:
    """Replace dotted fields, such as `checkpoints.keep`, with sections."""
    flat = {name: value for name, value in fields.items() if "." not in name}
    section_classes = {"placement": Placement, "loading": Loading, "checkpoints": Checkpoints}
    for name, section_class in section_classes.items():
        inner = {n.removeprefix(f"{name}."): v for n, v in fields.items() if n.startswith(f"{name}.")}
        if inner:
            flat[name] = section_class(**inner)
    return flat


def full_config(folder: Path, name: str = "full", **changes: Any) -> FullFinetuneConfig:
    return FullFinetuneConfig(**common_fields(folder, name, **changes))


def lora_config(folder: Path, name: str = "lora", **changes: Any) -> LoraFinetuneConfig:
    return LoraFinetuneConfig(
        **{"lora": Lora(targets=["all-linear"], rank=4)} | common_fields(folder, name, **changes)
    )


def metrics(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return a run's metrics except speed and memory, which depend on the machine."""
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    excluded = {"tokens_per_second", "peak_memory_bytes"}
    return [{key: value for key, value in line.items() if key not in excluded} for line in lines]


def losses(folder: Path, name: str) -> list[float]:
    return [line["loss"] for line in metrics(folder, name)]
