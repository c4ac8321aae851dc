"""Speed, memory, startup time and losses of fine-tuning steps, compared with TRL on the same rows.

    python -m benchmarks.training MODEL ROWS [--cases NAME ...] [--steps N] [--repeats N] [--no-trl] [--ablate]
        [--json FILE] [--chart FILE]

MODEL is a Hugging Face folder, such as models/SmolLM2-135M-Instruct from `make demo`; ROWS is a file of Alpaca rows,
such as alpaca_en_demo.json from LLaMA-Factory's source package. Each run is a fresh process; runs of torchtune and TRL
alternate, and medians are reported. The extra `bench` installs TRL; without TRL, the benchmark exits with status 1
unless --no-trl is passed. Run nothing else at the same time: two busy processes on two cores slow torch down tenfold.

Both libraries train on the same rows in the same order, encoded by torchtune, with the loss on the answers only, and
the same AdamW at a constant rate without warm-up. TRL pads its rows to the longest row of a batch, since its attention
is exact on a CPU only in this layout. In the case "same batches", torchtune pads in the same way and the losses must
agree. In all other cases, torchtune packs its rows, to about the same number of tokens per step. In "TRL packed", TRL
packs as well; on a CPU, its documents then attend to each other, so it computes a different loss. In "no AMX", both
libraries compute bfloat16 products with AVX-512 only, as on processors without AMX: with AMX, matrix products are so
fast relative to everything else that MFU is not informative.

tokens/s  useful tokens (without padding) per second; the first three steps and the last are excluded
peak      peak resident set of the process, including imports
start     seconds from the command to the end of the first optimizer step
MFU       FLOP/s that the plain algorithm needs for the useful tokens (`torchtune.training.step_flops`), divided by the
          FLOP/s that matrix products at the model's feed-forward shapes sustain in the same process
estimate  estimate of `tune validate --memory` for batches as wide as the widest batch of the run, divided by the peak
          memory of the run minus the memory after its imports
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.command_line import benchmark_parser
from benchmarks.fresh_process import FreshProcess
from benchmarks.training_sides import torchtune_side, trl_side
from benchmarks.training_sides.cases import ABLATIONS, CASES, GOALS, Ablation, Case, Goals
from benchmarks.training_sides.measurement import Measurement, ModelSizes

N_UNTIMED = 3
"""Steps at the start that are not timed.

The last step is not timed either: with deferred metrics, no computation overlaps with reading the last step's metrics.
"""
BATCH_SIZE, MAX_SEQ_LEN, PACKED_LENGTH = 4, 512, 1024
"""Rows per padded batch, maximum number of tokens per example, and positions per pack."""

Result = dict[str, Any]
"""The results of one library on a case: the fields of `Measurement`, `tokens_per_second` and `mfu`."""


def main() -> None:
    """Run the cases, or the ablations of the first case."""
    arguments = parse_arguments()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Benchmark(arguments.model, arguments.rows, arguments.steps, Path(folder))
        if arguments.ablate:
            results = bench.run_ablations(arguments.cases[0], arguments.repeats)
        else:
            for name in arguments.cases:
                results[name] = bench.run_case(name, arguments.repeats, runs_trl=not arguments.no_trl)
    if arguments.chart:
        from benchmarks.training_sides.chart import draw_chart

        Path(arguments.chart).write_text(draw_chart(results), encoding="utf-8")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = benchmark_parser("training", __doc__)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("rows", metavar="ROWS")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="NAME")
    parser.add_argument("--steps", type=int, default=12, metavar="N", help="optimizer steps per run")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs per library")
    parser.add_argument("--no-trl", action="store_true", help="run without TRL")
    parser.add_argument("--ablate", action="store_true", help="disable or replace one optimization at a time")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file")
    parser.add_argument("--chart", metavar="FILE", help="write a bar chart of the results to this file (SVG)")
    arguments = parser.parse_args()
    runs_trl = not (arguments.no_trl or arguments.ablate)
    if arguments.chart and not runs_trl:
        parser.error("--chart compares both libraries; remove --no-trl and --ablate")
    if arguments.steps < N_UNTIMED + 2:
        parser.error(
            f"--steps must be at least {N_UNTIMED + 2}: the first {N_UNTIMED} and the last are not timed"
        )
    if runs_trl and importlib.util.find_spec("trl") is None:
        sys.exit("TRL is not installed: pip install 'torchtune[bench]', or pass --no-trl")
    return arguments


class Benchmark:
    """Runs cases with one model and one file of rows.

    Args:
        model: A Hugging Face folder.
        rows: A file of Alpaca rows.
        steps: Optimizer steps per run.
        folder: Scratch folder for the runs.
    """

    def __init__(self, model: str, rows: str, steps: int, folder: Path) -> None:
        import torch

        from torchtune.data import Example
        from torchtune.datasets import InstructDataset
        from torchtune.formats import hf_decoder
        from torchtune.tokenizers import auto_tokenizer

        self._model, self._rows, self._steps, self._folder = model, rows, steps, folder
        with torch.device("meta"):
            self._decoder = hf_decoder(model)
        sizes = self._decoder.architecture.flat()
        self._sizes = ModelSizes(embed_dim=sizes["embed_dim"], ffn_dim=sizes["ffn_dim"])
        dataset = InstructDataset(auto_tokenizer(model), rows, max_seq_len=MAX_SEQ_LEN)
        n_rows = steps * BATCH_SIZE * 4  # a pack has about four times the tokens of a padded row
        if len(dataset) < n_rows:
            sys.exit(
                f"{rows} has {len(dataset)} rows, but {steps} steps need {n_rows};"
                " pass a file with more rows, or lower --steps"
            )
        rows_read = [dataset[i] for i in range(n_rows)]
        encoded = [
            {"input_ids": example.tokens, "completion_mask": [int(label >= 0) for label in example.labels]}
            for example in rows_read
            if isinstance(example, Example)
        ]
        self._encoded = folder / "encoded.json"
        self._encoded.write_text(json.dumps(encoded), encoding="utf-8")

    def run_case(self, name: str, repeats: int, *, runs_trl: bool = True) -> dict[str, Result]:
        """Run a case alternately with both libraries, or with torchtune only, and print the medians."""
        torchtune, trl = list[Result](), list[Result]()
        for _ in range(repeats):
            if runs_trl:
                trl.append(self.run_trl(CASES[name]))
            torchtune.append(self.run_torchtune(CASES[name]))
        results = {"TRL": medians(trl)} if runs_trl else {}
        results["torchtune"] = medians(torchtune)
        show(name, results)
        return results

    def run_ablations(self, name: str, repeats: int) -> dict[str, Result]:
        """Disable or replace one optimization at a time, and print the medians."""
        case = CASES[name]
        runs: dict[str, list[Result]] = {
            optimization: []
            for optimization, ablation in ABLATIONS.items()
            if ablation.dtype in {"", case["dtype"]}
        }
        for _ in range(repeats):  # interleaved, because the machine's speed drifts
            for optimization, ablation_runs in runs.items():
                ablation_runs.append(self.run_torchtune(case, ABLATIONS[optimization]))
        results = {optimization: medians(ablation_runs) for optimization, ablation_runs in runs.items()}
        print(f"{name}: one optimization disabled or replaced at a time")
        for optimization, result in results.items():
            show_line(optimization, result, results["none"])
        return results

    def run_torchtune(self, case: Case, ablation: Ablation = ABLATIONS["none"]) -> Result:
        """Run a case with torchtune, without the ablated optimization."""
        process = self._process(case, ablation.environment)
        args = self._tune_args(case, is_packed=case["is_packed"] and ablation.is_packed)
        measurement = process.call(
            torchtune_side.train,
            time.time(),
            [*args, *ablation.overrides],
            dtype=case["dtype"],
            sizes=self._sizes,
            replacement=ablation.replacement,
        ).result
        return self._result(measurement, case)

    def run_trl(self, case: Case) -> Result:
        """Run a case with TRL."""
        is_packed = case.get("is_packed_in_trl", False)
        run = trl_side.TRLRun(
            model=self._model,
            rows=str(self._encoded),
            case=case,
            n_steps=self._steps,
            batch_size=1 if is_packed else BATCH_SIZE,
            length=PACKED_LENGTH if is_packed else MAX_SEQ_LEN,
        )
        measurement = self._process(case).call(trl_side.train, time.time(), run, self._sizes).result
        return self._result(measurement, case)

    def _process(self, case: Case, environment: Mapping[str, str] | None = None) -> FreshProcess:
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        return FreshProcess(environment={**offline, **case.get("environment", {}), **(environment or {})})

    def _tune_args(self, case: Case, *, is_packed: bool) -> list[str]:
        """Return the arguments of `tune`."""
        output_dir = tempfile.mkdtemp(dir=self._folder)
        kind = "lora" if case["lora"] else "full"
        args = [f"{kind}_finetune", "--config", f"smollm2_135m_{kind}", "--override"]
        args += [f"output_dir={output_dir}", f"model_directory={self._model}"]
        args += ["model=torchtune.formats.hf_decoder", "model.path=${model_directory}"]
        args += ["tokenizer=torchtune.tokenizers.auto_tokenizer", "tokenizer.path=${model_directory}"]
        args += [f"dataset.source={self._rows}", f"dataset.max_seq_len={MAX_SEQ_LEN}", "validation=null"]
        args += ["shuffle=false", "loading.workers=0", f"max_steps={self._steps}", "device=cpu"]
        args += [f"dtype={case['dtype']}", "lr_scheduler=null", "optimizer.lr=1e-4"]
        args += ["checkpoints.every_n_steps=null", "checkpoints.at_epoch_ends=false"]
        if is_packed:
            args += [f"loading.packing.length={PACKED_LENGTH}", "loading.packing.window=64", "batch_size=1"]
        else:
            args += [f"batch_size={BATCH_SIZE}"]
        if case["lora"]:
            args += [f"lora.targets=[{','.join(case['lora'])}]", f"lora.rank={case['rank']}"]
            args += [f"lora.alpha={2 * case['rank']}"]
        return args

    def _result(self, measurement: Measurement, case: Case) -> Result:
        """Return the results of a run, with speed and MFU computed over the timed steps."""
        end = len(measurement["seconds"])
        lengths = measurement["lengths"][N_UNTIMED:end]
        seconds = sum(measurement["seconds"][N_UNTIMED - 1 : end - 1])
        result: Result = {
            name: value for name, value in measurement.items() if name not in {"lengths", "seconds"}
        }
        result["tokens_per_second"] = sum(map(sum, lengths)) / seconds
        result["mfu"] = self._flops(lengths, case) / seconds / measurement["matmul"]
        return result

    def _flops(self, lengths: list[list[int]], case: Case) -> float:
        """Return the FLOPs of steps, given the lengths of each step's examples."""
        import torch

        from torchtune.data import Batch
        from torchtune.training import step_flops

        self._decoder.requires_grad_(requires_grad=case["lora"] is None)
        empty = torch.empty(0)
        batches = [
            Batch(empty, empty, empty, empty, counts={"targets": 0}, lengths=tuple(step_lengths))
            for step_lengths in lengths
        ]
        return step_flops(self._decoder)(batches)


def medians(runs: list[Result]) -> Result:
    """Return the median of each number over all runs, and the losses of the first run."""
    numbers = {name for name, value in runs[0].items() if not isinstance(value, list)}
    return {
        **runs[0],
        **{name: statistics.median(run[name] for run in runs) for name in numbers},
        "runs": len(runs),
    }


def show(name: str, results: dict[str, Result]) -> None:
    """Print a case's results, and whether it meets its goals if both libraries ran."""
    print(name)
    baseline = results.get("TRL", results["torchtune"])
    for side, result in results.items():
        show_line(side, result, baseline)
    if "TRL" in results and not CASES[name]["is_packed"]:
        show_losses(results["torchtune"]["losses"], results["TRL"]["losses"])
    if "TRL" in results and name in GOALS:
        show_goals(GOALS[name], results["torchtune"], results["TRL"])
    sys.stdout.flush()


def show_losses(losses: list[float], trl: list[float]) -> None:
    """Print the losses of both libraries on the same batches."""
    difference = abs(losses[0] / trl[0] - 1)
    print(f"  losses, torchtune: {' '.join(f'{loss:.4f}' for loss in losses)}")
    print(f"  losses, TRL:       {' '.join(f'{loss:.4f}' for loss in trl)}")
    print(f"  the first losses differ by {difference:.1e} {'' if difference < 1e-3 else '(MORE THAN 1e-3)'}")


def show_goals(goals: Goals, result: Result, trl: Result) -> None:
    """Print whether each goal is met."""
    is_met = {"tokens/s": result["tokens_per_second"] / trl["tokens_per_second"] >= goals.speed}
    is_met["peak"] = result["peak"] / trl["peak"] <= goals.peak
    if goals.start is not None:
        is_met["start"] = result["start"] / trl["start"] <= goals.start
    if goals.mfu is not None:
        is_met["MFU"] = result["mfu"] >= goals.mfu
    print("  goals: " + ", ".join(f"{name} {'met' if met else 'NOT MET'}" for name, met in is_met.items()))


def show_line(name: str, result: Result, baseline: Result) -> None:
    """Print the results of one library, and their ratios to the baseline's."""
    speed, peak, start = (result[n] / baseline[n] for n in ("tokens_per_second", "peak", "start"))
    print(
        f"  {name:26}{result['tokens_per_second']:8.0f} tokens/s {speed:5.2f}x"
        f"   peak {result['peak'] / 2**30:5.2f} GiB {peak:5.2f}x"
        f"   start {result['start']:5.1f} s {start:5.2f}x   MFU {result['mfu']:.2f}"
        + (
            f"   estimate {result['estimate'] / result['peak_without_imports']:.2f}x"
            if "estimate" in result
            else ""
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
