"""Complete runs in separate processes give the same results with and without TUNE_PLAIN=1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_run import tiny_run
from tests.tolerance import FLOAT64

ROOT = Path(__file__).resolve().parents[2]
RUNS = """
import json, os, sys
from torchtune.internals import limit_heap_growth
limit_heap_growth()
import torch
from torchtune.cli import main
from torchtune.placement import DTYPES
DTYPES["fp32"] = torch.float64  # in fp32, Adam would amplify rounding differences
for args in json.loads(sys.argv[1]):
    assert main(args) == 0
print(json.dumps(["torch._dynamo" in sys.modules, "GLIBC_TUNABLES" in os.environ]))
"""


@pytest.mark.slow
def test_runs_with_and_without_probed_features_agree_within_rounding(tmp_path: Path) -> None:
    from torchtune.cli import main

    tiny = tiny_run(tmp_path, lambda *args: main(args))
    metrics, is_loaded = {}, {}
    for plain in ("0", "1"):
        runs = [
            [
                *(f"{kind}_finetune", "--config", f"smollm2_135m_{kind}", "--override"),
                *(
                    *tiny.overrides,
                    f"output_dir={tmp_path}/{kind}_{plain}",
                    f"dataset.source={tmp_path}/rows.json",
                ),
                *("device=cpu", "dtype=fp32", "batch_size=2", "loading.workers=0", "validation=null"),
                *("lr_scheduler=null", "optimizer.lr=1e-2", "loading.packing.length=64", "max_steps=4"),
            ]
            for kind in ("full", "lora")
        ]
        environment = {n: v for n, v in os.environ.items() if n != "GLIBC_TUNABLES"} | {"TUNE_PLAIN": plain}
        result = subprocess.run(
            [sys.executable, "-c", RUNS, json.dumps(runs)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        is_loaded[plain] = json.loads(result.stdout.splitlines()[-1])
        for kind in ("full", "lora"):
            lines = (tmp_path / f"{kind}_{plain}" / "metrics.jsonl").read_text().splitlines()
            metrics[kind, plain] = [json.loads(line) for line in lines]
    is_glibc = sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    assert is_loaded == {"0": [False, is_glibc], "1": [True, False]}
    for kind in ("full", "lora"):
        assert len(metrics[kind, "0"]) == 4
        for line, plain_line in zip(metrics[kind, "0"], metrics[kind, "1"], strict=True):
            for name in ("loss", "grad_norm", "lr"):
                assert line[name] == pytest.approx(plain_line[name], rel=FLOAT64)
    losses = [line["loss"] for line in metrics["full", "0"]]
    assert losses[-1] < losses[0]
