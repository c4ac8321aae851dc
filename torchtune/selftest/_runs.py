"""Short training runs: repeated, stopped and resumed, and timed."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from torchtune.modules import hardware_of
from torchtune.selftest._check import Check, Difference

STEPS = 12
INPUTS = "inputs"
"""Folder of the tokenizer and the rows."""
WORDS = ("red", "green", "blue", "one", "two", "three", "up", "down")
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
TINY = (
    "model.num_layers=2",
    "model.embed_dim=64",
    "model.num_heads=4",
    "model.num_kv_heads=2",
    "model.head_dim=16",
    "model.ffn_dim=128",
)
GPU_RUN = ("batch_size=2", "loading.packing.length=4096", "max_steps=12")
"""The timed run on a GPU: SmolLM2-135M with random weights."""
CPU_RUN = ("model.num_layers=4", "batch_size=2", "loading.packing.length=256", "max_steps=6")
"""The timed run on a CPU: the same model with fewer layers."""
VOCABULARY = 49_152
"""Vocabulary size of SmolLM2."""


def run_checks() -> Iterator[Check]:
    """Yield checks of whole runs, each in separate processes."""
    yield Check("deterministic mode", "the same run twice", _repeat)
    yield Check("checkpoint and resume", "a run stopped by SIGTERM", _resume)
    yield Check("training run", "SmolLM2 with random weights", _train)


@frozen
class _Runs:
    """Runs of one config in a temporary folder."""

    folder: Path
    device: torch.device

    def command(self, name: str, *overrides: str) -> list[str]:
        """Return the command line of a run with an output folder of this name."""
        settings = [
            f"output_dir={self.folder / name}",
            "seed=3",
            f"device={self.device.type}",
            "model=torchtune.models.smollm2.smollm2",
            "model_directory=null",
            "tokenizer=torchtune.tokenizers.auto_tokenizer",
            f"tokenizer.path={self.folder / INPUTS}",
            f"tokenizer_directory={self.folder / INPUTS}",
            f"dataset.source={self.folder / INPUTS / 'rows.jsonl'}",
            "validation=null",
            "loading.workers=0",
            "epochs=100",
            "optimizer.lr=1e-3",
        ]
        return ["full_finetune", "--config", "smollm2_135m_full", *settings, *overrides]

    def start(self, *args: str) -> "subprocess.Popen[str]":
        """Start `tune` in a new process."""
        return subprocess.Popen(  # noqa: S603 -- this program
            [sys.executable, "-m", "torchtune.cli", *args],
            cwd=self.folder,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *args: str) -> str:
        """Run `tune` to its end and return its output.

        Raises:
            RuntimeError: It fails; the message is its last line.
        """
        process = self.start(*args)
        out, err = process.communicate()
        if process.returncode:
            lines = err.strip().splitlines() or [f"exit status {process.returncode}"]
            raise RuntimeError(f"tune {args[0]}: {lines[-1]}")
        return out

    def weights(self, name: str) -> dict[str, Tensor]:
        """Return the weights of a run's final model."""
        from safetensors.torch import load_file

        return load_file(self.folder / name / "final" / "model.safetensors")

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """Return the metrics of the steps of a run so far."""
        file = self.folder / name / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [entry for entry in map(json.loads, lines) if "loss" in entry]


@contextmanager
def _runs(device: torch.device) -> Iterator[_Runs]:
    """Write a tokenizer and rows into a temporary folder for runs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, INPUTS)
        folder.mkdir()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["</s>"])
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {
            "eos_token": "</s>",
            "chat_template": TEMPLATE,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        rows = [
            {"instruction": f"{a} {b}", "output": f"{b} {a} {i}"}
            for i, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
        ]
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        yield _Runs(Path(name), device)


def _repeat(device: torch.device) -> Iterator[Difference]:
    with _runs(device) as runs:
        for name in ("first", "second"):
            runs.call(*runs.command(name, *TINY, "deterministic=true", f"max_steps={STEPS}"))
        yield from _weight_differences(runs.weights("second"), runs.weights("first"))


def _resume(device: torch.device) -> Iterator[Difference]:
    settings = (*TINY, "deterministic=true", "checkpoints.every_n_steps=5", "max_steps=40")
    with _runs(device) as runs:
        runs.call(*runs.command("whole", *settings))
        process = runs.start(*runs.command("stopped", *settings))
        while process.poll() is None and len(runs.metrics("stopped")) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate()
        if (runs.folder / "stopped" / "final").exists():
            raise RuntimeError("the run ended before it could be stopped")
        runs.call(*runs.command("stopped", *settings))
        yield from _weight_differences(runs.weights("stopped"), runs.weights("whole"))
        losses = [[entry["loss"] for entry in runs.metrics(name)] for name in ("stopped", "whole")]
        yield Difference("losses", float(losses[0] != losses[1]), 0.5)


def _train(device: torch.device) -> Iterator[Difference | str]:
    settings = CPU_RUN if hardware_of(device).is_cpu else GPU_RUN
    with _runs(device) as runs:
        command = runs.command("run", *settings)
        estimate = json.loads(runs.call("validate", *command, "--json"))["needs"]["peak"]
        runs.call(*command)
        entries = runs.metrics("run")
    losses, last = [entry["loss"] for entry in entries], entries[-1]
    peak = last["peak_memory_bytes"]
    gib = 2**30
    mfu = f", MFU {last['mfu']:.1%}" if last.get("mfu") else ""
    yield (
        f"{last['tokens_per_second']:,.0f} tokens/s{mfu}, peak memory {peak / gib:.2f} GiB, estimate"
        f" {estimate / gib:.2f} GiB; losses {losses[0]:.2f} to {losses[-1]:.2f}"
    )
    yield Difference("first loss from log(vocabulary)", abs(losses[0] / math.log(VOCABULARY) - 1), 0.1)
    yield Difference("last loss relative to the first", losses[-1] / losses[0], 1.0)


def _weight_differences(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> Iterator[Difference]:
    """Yield the number of elements that differ; all must be equal."""
    n_different = sum(int((tensor != actual[name]).sum()) for name, tensor in expected.items())
    yield Difference("number of different weights", float(n_different), 0.5)
