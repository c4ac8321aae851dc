"""Train twelve tiny models with each of two versions of this code, and compare the results bit for bit.

    python scripts/compare_runs.py BASE [--head-env TUNE_PLAIN=1] [--only lora]

BASE is a commit, which is checked out into a separate worktree; the other version is the current working tree. Each
case runs with both versions at the same time, with one thread per rank. The script compares every metric of each step
in `metrics.jsonl`, except times and memory, and every tensor in `final/`. It exits with status 1 if anything differs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

ROOT = Path(__file__).resolve().parents[1]
NON_DETERMINISTIC = {"tokens_per_second", "peak_memory_bytes", "mfu", "time", "seconds"}
"""Metrics that differ between runs of the same code."""

LAYERS, WIDTH, HEADS, KV_HEADS, INNER = 2, 32, 4, 2, 64
FULL = ("full_finetune", "smollm2_135m_full", "optimizer.lr=1e-2")
LORA = ("lora_finetune", "smollm2_135m_lora", "lora.rank=4", "optimizer.lr=1e-2")
DORA = (*LORA, "lora.kind=dora")
PACKED = ("loading.packing={}", "loading.packing.length=192", "loading.packing.window=16")
DROPOUT = ("lora.dropout=0.2",)
VALIDATED = ("validation.every_n_steps=3", "validation.prompts=[Hello]", "validation.max_new_tokens=4")
UNVALIDATED = ("validation=null",)


class Case(NamedTuple):
    """The arguments of a run."""

    name: str
    args: tuple[str, ...]
    """The recipe, its config, and overrides."""
    ranks: int = 1
    killed_at: int | None = None
    """The step after which all processes are killed; the same command then resumes the run."""


CASES = (
    Case("full, packed", (*FULL, *PACKED, *UNVALIDATED)),
    Case("full, padded, validation", (*FULL, *VALIDATED)),
    Case("full, packed, 2 ranks", (*FULL, *PACKED, *UNVALIDATED, "enable_fsdp=true"), ranks=2),
    Case("full, padded, accumulated, bf16", (*FULL, *UNVALIDATED, "dtype=bf16", "gradient_accumulation_steps=2")),
    Case("full, packed, validation, killed", (*FULL, *PACKED, *VALIDATED), killed_at=4),
    Case("LoRA, packed, dropout", (*LORA, *PACKED, *DROPOUT, *UNVALIDATED)),
    Case("LoRA, padded, validation", (*LORA, *VALIDATED)),
    Case("LoRA, padded, 2 ranks, validation", (*LORA, *VALIDATED), ranks=2),
    Case("LoRA, packed, dropout, 2 ranks, killed", (*LORA, *PACKED, *DROPOUT, *UNVALIDATED), ranks=2, killed_at=4),
    Case("DoRA, packed", (*DORA, *PACKED, *UNVALIDATED)),
    Case("DoRA, padded, dropout, validation, killed", (*DORA, *DROPOUT, *VALIDATED), killed_at=4),
    Case("DoRA, packed, 2 ranks", (*DORA, *PACKED, *UNVALIDATED, "enable_fsdp=true"), ranks=2),
)  # fmt: skip


def write_model(folder: Path) -> dict[str, Any]:
    """Write a random Llama with a byte-level tokenizer as a Hugging Face folder.

    Returns:
        The arguments of `torchtune.models.smollm2.smollm2` that describe it.
    """
    folder.mkdir()
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**special, "chat_template": template}))
    size = tokenizer.get_vocab_size()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    kv_width = WIDTH // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (size, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{layer}.self_attn.k_proj.weight": (kv_width, WIDTH),
            f"{layer}.self_attn.v_proj.weight": (kv_width, WIDTH),
            f"{layer}.self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{layer}.mlp.gate_proj.weight": (INNER, WIDTH),
            f"{layer}.mlp.up_proj.weight": (INNER, WIDTH),
            f"{layer}.mlp.down_proj.weight": (WIDTH, INNER),
            f"{layer}.input_layernorm.weight": (WIDTH,),
            f"{layer}.post_attention_layernorm.weight": (WIDTH,),
        }
    weights = {n: torch.ones(s) if len(s) == 1 else torch.randn(s) * 0.1 for n, s in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return {
        "vocab_size": size,
        "num_layers": LAYERS,
        "embed_dim": WIDTH,
        "num_heads": HEADS,
        "num_kv_heads": KV_HEADS,
        "ffn_dim": INNER,
        "max_seq_len": 512,
        "rope_base": 10000.0,
        "tied_embeddings": "true",
    }


def write_rows(file: Path) -> None:
    """Write 48 rows of different lengths."""
    rows = [
        {"instruction": f"Count to {i}.", "input": "", "output": " ".join(map(str, range(i % 11 + 1)))}
        for i in range(48)
    ]
    file.write_text(json.dumps(rows))


OLD_NAMES = {
    "lora.kind=dora": "lora.dora=true",
    "loading.packing": "packing",
    "checkpoints.every_n_steps": "save_every_n_steps",
}
"""The names of these fields in older commits."""


def overrides_for(tree: Path, overrides: list[str]) -> list[str]:
    """Return the overrides with the field names that a version of the code uses."""
    if (tree / "torchtune/training/_loading.py").is_file():
        return overrides
    for name, old_name in OLD_NAMES.items():
        overrides = [
            old_name + override.removeprefix(name) if override.startswith(name) else override
            for override in overrides
        ]
    return overrides


class Run:
    """One case with one version of the code.

    Args:
        case: The case to run.
        tree: The working tree that contains the code.
        work: The folder that contains the model and rows.
        out: The run's output folder.
        env: Environment variables.
    """

    def __init__(self, case: Case, tree: Path, work: Path, out: Path, env: dict[str, str]) -> None:
        recipe, config, *overrides = case.args
        launch = ["--nproc_per_node", str(case.ranks)] if case.ranks > 1 else []
        model: dict[str, Any] = json.loads((work / "arguments.json").read_text())
        run_overrides = [
            "model=torchtune.models.smollm2.smollm2",
            *(f"model.{k}={v}" for k, v in model.items()),
        ]
        run_overrides += [f"model_directory={work / 'model'}", f"dataset.source={work / 'rows.json'}"]
        if "validation=null" not in overrides:
            run_overrides += [f"validation.dataset.source={work / 'rows.json'}"]
        run_overrides += [
            f"output_dir={out}",
            "device=cpu",
            "batch_size=2",
            "max_steps=8",
            "checkpoints.every_n_steps=3",
        ]
        self._command = [sys.executable, "-m", "torchtune.cli", *launch, recipe, "--config", config]
        self._command += ["--override", *overrides_for(tree, [*run_overrides, *overrides])]
        self._tree, self._out, self._killed_at = tree, out, case.killed_at
        self._env = {
            **os.environ,
            **env,
            "PYTHONPATH": str(tree),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._log = out.with_suffix(".log")
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 -- torchtune's command
                self._command,
                cwd=self._tree,
                env=self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self) -> None:
        """Wait for the end of the run; kill and resume the run first if the case has `killed_at`.

        Raises:
            SystemExit: The run failed.
        """
        if self._killed_at is not None:
            while self._process.poll() is None and self._steps() < self._killed_at:
                time.sleep(0.005)
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
                self._process = self._start()
        if self._process.wait():
            sys.exit(f"{' '.join(self._command)}\n{self._log.read_text()}")

    def kill(self) -> None:
        """Kill the run if it has not ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _steps(self) -> int:
        try:
            return (self._out / "metrics.jsonl").read_text().count('"grad_norm"')
        except FileNotFoundError:
            return 0

    def metrics(self) -> dict[str, float]:
        """Return the deterministic values in `metrics.jsonl`, by step and name."""
        metrics = {}
        for line in (self._out / "metrics.jsonl").read_text().splitlines():
            values = json.loads(line)
            for name, value in values.items():
                if name not in NON_DETERMINISTIC and isinstance(value, int | float):
                    metrics[f"step {values.get('step')} {name}"] = float(value)
        return metrics

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors in `final/`."""
        files = sorted((self._out / "final").glob("*.safetensors"))
        return {name: tensor for file in files for name, tensor in load_file(file).items()}


def difference(base: Run, head: Run) -> tuple[str, float]:
    """Compare two runs.

    Returns:
        The name of the first metric or tensor that differs, or an empty string if the results are bitwise equal; and
        the largest relative difference of a metric or tensor.
    """
    first, largest = "", 0.0
    pairs: list[tuple[str, Any, Any]] = []
    for before, after in ((base.metrics(), head.metrics()), (base.tensors(), head.tensors())):
        pairs += [(name, before.get(name), after.get(name)) for name in {**before, **after}]
    for name, before, after in pairs:
        if before is None or after is None:
            return f"{name}, which only one run has", float("inf")
        x, y = torch.as_tensor(before), torch.as_tensor(after)
        if x.dtype != y.dtype or not torch.equal(x, y):
            first = first or name
            scale = max(x.double().norm().item(), y.double().norm().item())
            largest = max(largest, (x.double() - y.double()).norm().item() / scale)
    return first, largest


def main() -> int:
    """Run every case with both versions and compare the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--head-env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--only", default="", help="run only cases whose names contain this text")
    options = parser.parse_args()
    env = dict(pair.split("=", 1) for pair in options.head_env)
    n_different = 0
    with tempfile.TemporaryDirectory() as folder:
        work, tree = Path(folder), Path(folder) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), options.base], check=True)  # noqa: S603
        try:
            (work / "arguments.json").write_text(json.dumps(write_model(work / "model")))
            write_rows(work / "rows.json")
            for i, case in enumerate(c for c in CASES if options.only in c.name):
                base = Run(case, tree, work, work / f"{i}_base", {})
                head = Run(case, ROOT, work, work / f"{i}_head", env)
                try:
                    base.finish()
                    head.finish()
                finally:
                    base.kill()
                    head.kill()
                first, largest = difference(base, head)
                n_different += bool(first)
                outcome = (
                    f"first difference at {first}; largest difference {largest:.1e}"
                    if first
                    else "bitwise equal"
                )
                print(
                    f"{case.name:<45}{len(base.metrics())} metrics, {len(base.tensors())} tensors: {outcome}",
                    flush=True,
                )
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)  # noqa: S603
    return 1 if n_different else 0


if __name__ == "__main__":
    sys.exit(main())
