"""Run folders with generated metrics, and a parser for the page that plots the metrics."""

import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from torchtune.plots._run import PlottedRun
from torchtune.utils.metric_logging import RunMetrics

CONFIG = """\
output_dir: {folder}
seed: {seed}
optimizer:
  _component_: torch.optim.AdamW
  lr: {lr}
  betas: [0.9, 0.95]
metric_logger:
  _component_: torchtune.utils.metric_logging.DiskLogger
  log_dir: ${{output_dir}}
batch_size: {batch_size}
epochs: 3
max_steps_per_epoch: null
max_steps: {max_steps}
"""


def synthetic_metrics(
    n_steps: int, *, seed: int = 0, lr: float = 1e-4, validate_every: int = 0, skipped: tuple[int, ...] = ()
) -> list[dict[str, Any]]:
    """Return the metrics of a run with a noisy, falling loss and a validation every `validate_every` steps."""
    draw = random.Random(seed)
    warm, rate = max(1, n_steps // 20), 40 + 10 * draw.random()
    lines: list[dict[str, Any]] = []

    def validate(step: int) -> None:
        level = 1.15 + 2.2 * math.exp(-step / n_steps * 6) + 0.15 * (step / n_steps) ** 2 + seed * 0.04
        lines.append(
            {"step": step, "validation_loss": level + draw.gauss(0, 0.004), "validation_targets": 9000}
        )

    if validate_every:
        validate(0)
    for step in range(1, n_steps + 1):
        done = step / n_steps
        level = 1.1 + 2.2 * math.exp(-done * rate / 7) + seed * 0.04
        current_lr = lr * min(1.0, step / warm) * (1 + math.cos(math.pi * done)) / 2
        norm = (0.6 + 4 * math.exp(-done * 20)) * math.exp(draw.gauss(0, 0.25))
        metrics = {
            "loss": level + draw.gauss(0, 0.09),
            "lr": current_lr,
            "grad_norm": norm * (40 if draw.random() < 2e-3 else 1),
        }
        lines.append(
            {
                "step": step,
                **(dict.fromkeys(metrics) if step in skipped else metrics),
                "tokens_per_second": round(
                    (300 if step == 1 else 5200 + 200 * seed) * (1 + draw.gauss(0, 0.03)), 1
                ),
                "padding_fraction": draw.random() * 0.1,
                "peak_memory_bytes": int((1.2 + 0.1 * seed + 0.2 * min(1, 20 * done)) * 2**30),
            }
        )
        if validate_every and step % validate_every == 0:
            validate(step)
    return lines


def write_run(
    folder: Path,
    lines: list[dict[str, Any]] | None,
    *,
    seed: int = 1,
    lr: float = 1e-4,
    batch_size: int = 8,
    max_steps: int | None = None,
    finished: bool = True,
    samples: list[dict[str, Any]] | None = None,
) -> Path:
    """Write a run folder. Without `lines`, it contains no metrics, as before the first step of a run."""
    folder.mkdir(parents=True)
    limit = "null" if max_steps is None else max_steps
    text = CONFIG.format(folder=folder, seed=seed, lr=lr, batch_size=batch_size, max_steps=limit)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    record = {"command": ["tune"], "started": "2026-11-26T15:00:00+0000"}
    record |= {"finished": "2026-11-26T16:00:00+0000"} if finished else {}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    for name, rows in (("metrics", lines), ("samples", samples)):
        if rows is not None:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


class Page(HTMLParser):
    """Collects a page's elements, its text, and the JSON data that its script plots."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._data: list[str] = []
        self._is_data = False
        self.feed(text)
        self.close()
        self.data: dict[str, Any] = json.loads("".join(self._data))
        self.text = "\n".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._is_data = tag == "script" and dict(attrs).get("id") == "data"

    def handle_data(self, data: str) -> None:
        (self._data if self._is_data else self.texts).append(data)
        self._is_data = False

    def points(self, run: int, metric: str) -> list[tuple[int, float]]:
        return [(step, value) for step, value in self.data["runs"][run]["curves"][metric]["points"]]


def plotted_run(lines: list[dict[str, Any]], name: str = "a", **fields: Any) -> PlottedRun:
    parts = {"config": {}, "record": {}, "samples": [], "notes": []} | fields
    return PlottedRun(name, Path(), RunMetrics(lines, []), **parts)
