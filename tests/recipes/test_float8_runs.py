"""Runs with products in float8 learn as in bf16, and resume exactly."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from recipes import full_finetune, lora_finetune
from tests.recipes.parts import InterruptOnce, full_config, lora_config, losses, metrics
from tests.tolerance import rms_error
from torchtune.config import lazy
from torchtune.modules import Hardware, assume_hardware
from torchtune.training import Lora

COMMON: dict[str, Any] = {
    "optimizer": lazy(AdamW, lr=1e-2, fused=True),
    "device": "auto",
    "dtype": "bf16",
    "epochs": 7,
    "max_steps": 20,
    "checkpoints.every_n_steps": 8,
}


def run_full(folder: Path, name: str, **changes: Any) -> None:
    full_finetune.main(full_config(folder, name, **COMMON | changes))


def run_lora(folder: Path, name: str, **changes: Any) -> None:
    lora = Lora(targets=["all-linear"], rank=4)
    lora_finetune.main(lora_config(folder, name, **COMMON | {"lora": lora} | changes))


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("torchao") is None, reason="needs the package torchao, which the extra fp8 installs"
)
@pytest.mark.parametrize("run", [run_full, run_lora], ids=["full", "lora"])
def test_run_learns_as_in_bf16_and_resumes(
    tmp_path: Path, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_settings: function)
    with assume_hardware(Hardware("cuda", (9, 0))):
        run(tmp_path, "bf16")
        run(tmp_path, "fp8", **{"placement.fp8": True})
        plain, loss = losses(tmp_path, "bf16"), losses(tmp_path, "fp8")
        assert len(loss) == 20
        assert loss != plain
        assert loss[0] == pytest.approx(plain[0], rel=rms_error(torch.float8_e4m3fn, 2))
        decrease, plain_decrease = (values[0] - sum(values[-3:]) / 3 for values in (loss, plain))
        assert plain_decrease > (1.0 if run is run_full else 0.3)
        # Noise of the same relative size as the rounding errors of gradients cannot change the decrease more.
        assert decrease == pytest.approx(plain_decrease, rel=rms_error(torch.float8_e5m2, 8))

        logger = lazy(InterruptOnce, step=11, marker=str(tmp_path / "marker"))
        interrupted = {"placement.fp8": True, "metric_logger": logger}
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "interrupted", **interrupted)
        run(tmp_path, "interrupted", **interrupted)
    assert metrics(tmp_path, "interrupted") == metrics(tmp_path, "fp8")
    (file,) = (tmp_path / "interrupted" / "final").glob("*.safetensors")
    assert file.read_bytes() == (tmp_path / "fp8" / "final" / file.name).read_bytes()
