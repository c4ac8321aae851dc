"""Fine-tuning steps beside TRL's, on the same rows: speed, memory, start, and the losses that must agree.

    python benchmarks/training.py MODEL ROWS [--cases NAME ...] [--steps N] [--repeats N] [--ablate]
        [--json FILE] [--picture FILE]

MODEL is a Hugging Face folder, such as SmolLM2-135M-Instruct as `make demo` leaves it in models/; ROWS are Alpaca rows,
such as alpaca_en_demo.json of LLaMA-Factory's source package. Every side of a case runs in a fresh process, the sides
in turns, and medians are taken. TRL comes with the extra `bench`; without it this ends with status 1. Nothing else may
run beside it: two busy processes on two cores slow torch tenfold.

Both sides get the same rows in the same order, encoded by us, with the loss on the answers alone, the same AdamW at a
constant rate and no warm-up. TRL has its rows padded to the longest of a batch, which is what its attention can do
exactly on a CPU; "same batches" is ours padded alike, to the token, and its losses must agree. In the other cases our
rows are packed, to about as many tokens a step. "peer packed" lets TRL pack as well; its documents then see each other
on a CPU, so it computes something else. "no AMX" has both sides compute bfloat16 by AVX-512 alone, as on processors
without tiles: AMX multiplies so much faster than anything else runs that MFU says little of it.

tokens/s  useful tokens (no padding) a second, over the steps behind the first three
peak      resident set of the process at its largest, imports among it
start     seconds from the command to the end of the first optimizer step
MFU       what the plain algorithm needs for the useful tokens (`torchtune.training.step_flops`), by what matrix
          products at the shapes of the model's feed-forward sustained in the same process
planned   what `tune validate --memory` says a step takes whose rows are as wide as the widest of the run, by what the
          run took beyond its imports
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.training_sides.cases import ABLATIONS, CASES, GOALS, Ablation  # noqa: E402

FIRST = 3
"""Steps that are not timed."""
BATCH, LENGTH, PACKED = 4, 512, 1024
"""Rows of a padded batch, tokens of an example at most, positions of a packed row."""

Found = dict[str, Any]


def main() -> None:
    """Run the cases, or the ablations of the first."""
    arguments = parsed()
    if importlib.util.find_spec("trl") is None:
        sys.exit("TRL is not installed: pip install 'torchtune[bench]'")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.model, arguments.rows, arguments.steps, Path(folder))
        if arguments.ablate:
            found = bench.ablations(arguments.cases[0], arguments.repeats)
        else:
            for name in arguments.cases:
                found[name] = bench.case(name, arguments.repeats)
    if arguments.picture and not arguments.ablate:
        from benchmarks.training_sides.picture import picture

        Path(arguments.picture).write_text(picture(found), encoding="utf-8")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--json", help="a file for the numbers")
    parser.add_argument("--picture", help="a file for bars of them, SVG")
    return parser.parse_args()


class Bench:
    """What all cases have in common: the model, the rows, and what a token costs."""

    def __init__(self, model: str, rows: str, steps: int, folder: Path) -> None:
        import torch

        from torchtune.datasets import InstructDataset
        from torchtune.formats import hf_decoder
        from torchtune.tokenizers import auto_tokenizer

        self.model, self.rows, self.steps, self.folder = model, rows, steps, folder
        with torch.device("meta"):
            self.decoder = hf_decoder(model)
        dataset = InstructDataset(auto_tokenizer(model), rows, max_seq_len=LENGTH)
        encoded = [dataset[i] for i in range(steps * BATCH * 4)]
        self.encoded = folder / "encoded.json"
        self.encoded.write_text(
            json.dumps(
                [{"input_ids": e.tokens, "completion_mask": [int(n >= 0) for n in e.labels]} for e in encoded]
            )
        )

    def case(self, name: str, repeats: int) -> dict[str, Found]:
        """Run both sides of a case in turns, and print what they came to."""
        case, runs = CASES[name], {"TRL": list[Found](), "ours": list[Found]()}
        for _ in range(repeats):
            runs["TRL"].append(self.peer(case))
            runs["ours"].append(self.ours(case))
        found = {side: middle(of) for side, of in runs.items()}
        show(name, found)
        return found

    def ablations(self, name: str, repeats: int) -> dict[str, Found]:
        """Leave one technique out at a time."""
        found = {}
        print(f"{name}: one technique left out at a time, or another in its place")
        case = CASES[name]
        fitting = {
            what: ablation for what, ablation in ABLATIONS.items() if ablation.dtype in {"", case["dtype"]}
        }
        runs: dict[str, list[Found]] = {what: [] for what in fitting}
        for _ in range(repeats):  # in turns, as the machine's speed drifts
            for what, ablation in fitting.items():
                runs[what].append(self.ours(case, ablation))
        for what, of in runs.items():
            found[what] = middle(of)
            show_line(what, found[what], found["everything"])
        return found

    def ours(self, case: dict[str, Any], ablation: Ablation = ABLATIONS["everything"]) -> Found:
        """Run our side of a case, with a technique left out."""
        out = tempfile.mkdtemp(dir=self.folder)
        kind = "lora" if case["lora"] else "full"
        words = [f"{kind}_finetune", "--config", f"smollm2_135m_{kind}", "--override"]
        words += [f"output_dir={out}", f"model_directory={self.model}", "model=torchtune.formats.hf_decoder"]
        words += ["model.path=${model_directory}", "tokenizer=torchtune.tokenizers.auto_tokenizer"]
        words += ["tokenizer.path=${model_directory}", f"dataset.source={self.rows}"]
        words += [f"dataset.max_seq_len={LENGTH}", "validation=null", "shuffle=false", "loading.workers=0"]
        words += [f"max_steps={self.steps}", f"dtype={case['dtype']}", "device=cpu", "lr_scheduler=null"]
        words += ["optimizer.lr=1e-4", "checkpoints.every_n_steps=null", "checkpoints.at_epoch_ends=false"]
        if case["packed"] and ablation.packed:
            words += [f"loading.packing.length={PACKED}", "loading.packing.window=64", "batch_size=1"]
        else:
            words += [f"batch_size={BATCH}"]
        if case["lora"]:
            words += [f"lora.targets=[{','.join(case['lora'])}]", f"lora.rank={case['rank']}"]
            words += [f"lora.alpha={2 * case['rank']}"]
        given = {"words": [*words, *ablation.words], "dtype": case["dtype"], "instead": ablation.instead}
        return self._run("ours", given, case, ablation.environment)

    def peer(self, case: dict[str, Any]) -> Found:
        """Run TRL's side of a case."""
        packed = case.get("peer_packed", False)
        given = {
            "model": self.model,
            "rows": str(self.encoded),
            "steps": self.steps,
            "batch": 1 if packed else BATCH,
            "length": PACKED if packed else LENGTH,
            "packed": packed,
            "lora": case["lora"],
            "rank": case.get("rank"),
            "dtype": case["dtype"],
        }
        return self._run("peer", given, case)

    def _run(
        self,
        side: str,
        given: dict[str, Any],
        case: dict[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> Found:
        a = self.decoder.architecture
        given |= {"begun": time.time(), "embed_dim": a.embed_dim, "ffn_dim": a.flat()["ffn_dim"]}
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.training_sides.{side}", json.dumps(given)],
            cwd=ROOT,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                **case.get("environment", {}),
                **(environment or {}),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"the benchmark failed:\n{done.stderr[-3000:]}")
        return self._judged(json.loads(done.stdout.splitlines()[-1]), case)

    def _judged(self, found: Found, case: dict[str, Any]) -> Found:
        """Add speed and MFU, of the steps behind the first."""
        lengths, seconds = found.pop("lengths"), found.pop("seconds")
        timed = lengths[FIRST : len(seconds) + 1]
        took = sum(seconds[FIRST - 1 :])
        tokens = sum(map(sum, timed))
        found["tokens_per_second"] = tokens / took
        found["mfu"] = self._flops(timed, case) / took / found["matmul"]
        return found

    def _flops(self, lengths: list[list[int]], case: dict[str, Any]) -> float:
        import torch

        from torchtune.data import Batch
        from torchtune.training import step_flops

        self.decoder.requires_grad_(requires_grad=case["lora"] is None)
        nothing = torch.empty(0)
        batches = [
            Batch(nothing, nothing, nothing, nothing, counts={"targets": 0}, lengths=tuple(of))
            for of in lengths
        ]
        return step_flops(self.decoder)(batches)


def middle(runs: list[Found]) -> Found:
    """Take the median of each number over runs."""
    numbers = ("tokens_per_second", "peak", "start", "mfu", "matmul", "planned", "beyond")
    found = {name: statistics.median(run[name] for run in runs) for name in numbers if name in runs[0]}
    return {**runs[0], **found, "runs": len(runs)}


def show(name: str, found: dict[str, Found]) -> None:
    """Print a case, with what it is beside the goals."""
    print(name)
    for side in ("TRL", "ours"):
        show_line(side, found[side], found["TRL"])
    ours, peer = found["ours"], found["TRL"]
    if not CASES[name]["packed"]:
        apart = abs(ours["losses"][0] / peer["losses"][0] - 1)
        print(f"  losses, ours:  {' '.join(f'{loss:.4f}' for loss in ours['losses'])}")
        print(f"  losses, TRL's: {' '.join(f'{loss:.4f}' for loss in peer['losses'])}")
        print(f"  the first ones differ by {apart:.1e} {'' if apart < 1e-3 else '(MORE THAN 1e-3)'}")
    if name in GOALS:
        speed, peak, start, mfu = GOALS[name]
        met = [("tokens/s", ours["tokens_per_second"] / peer["tokens_per_second"] >= speed)]
        met += [("peak", ours["peak"] / peer["peak"] <= peak)]
        met += [("start", ours["start"] / peer["start"] <= start)] if start else []
        met += [("MFU", ours["mfu"] >= mfu)] if mfu else []
        print("  goals: " + ", ".join(f"{what} {'met' if is_met else 'NOT MET'}" for what, is_met in met))
    sys.stdout.flush()


def show_line(name: str, found: Found, beside: Found) -> None:
    speed, peak, start = (found[n] / beside[n] for n in ("tokens_per_second", "peak", "start"))
    print(
        f"  {name:26}{found['tokens_per_second']:8.0f} tokens/s {speed:5.2f}x"
        f"   peak {found['peak'] / 2**30:5.2f} GiB {peak:5.2f}x"
        f"   start {found['start']:5.1f} s {start:5.2f}x   MFU {found['mfu']:.2f}"
        + (f"   planned {found['planned'] / found['beyond']:.2f}x" if "planned" in found else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
