"""The command-line workflow of the README: convert, fine-tune, generate, export.

The quick tests use a tiny model with random weights; `test_demo.py` uses the real one.
"""

import json
from pathlib import Path

import pytest

from tests.tiny_run import Tiny, tiny_run
from tests.tune import Tune


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from torchtune.cli import main

    return tiny_run(tmp_path_factory.mktemp("tiny"), lambda *args: main(args))


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validations = [line["step"] for line in records if "validation_loss" in line]
    assert (validations[0], validations[-1]) == (0, records[-1]["step"])
    lines = [line for line in records if "validation_loss" not in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0].keys() == {
        "step",
        "loss",
        "lr",
        "grad_norm",
        "tokens_per_second",
        "padding_fraction",
        "peak_memory_bytes",
    }
    return [line["loss"] for line in lines]


def train(tune: Tune, recipe: str, config: str, out: Path, tiny: Tiny, *overrides: str) -> list[float]:
    args = [
        recipe,
        "--config",
        config,
        "--override",
        *tiny.overrides,
        *tiny.rows,
        "validation.max_new_tokens=4",
        f"output_dir={out}",
        "device=cpu",
        *overrides,
    ]
    result = tune(*args)
    assert result.status == 0, result.err
    return losses(out)


def test_lora_run_learns_the_answers_and_its_saved_config_reproduces_the_run(
    tune: Tune, tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "lora"
    overrides = ("epochs=6", "batch_size=6", "optimizer.lr=0.02", "lora.rank=4")
    run_losses = train(tune, "lora_finetune", "smollm2_135m_lora", out, tiny, *overrides)
    assert len(run_losses) == 12
    assert run_losses[-1] < 0.8 * run_losses[0]
    assert {p.name for p in out.iterdir()} >= {"config.yaml", "run.json", "metrics.jsonl", "final"}
    adapter = {"adapter_config.json", "adapter_model.safetensors"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert {p.name for p in (out / "final").iterdir()} == adapter | tokenizer

    repeated = tune(
        "lora_finetune", "--config", str(out / "config.yaml"), f"output_dir={tmp_path / 'repeated'}"
    )
    assert repeated.status == 0
    assert losses(tmp_path / "repeated") == run_losses
    weights = "final/adapter_model.safetensors"
    assert (tmp_path / "repeated" / weights).read_bytes() == (out / weights).read_bytes()

    args = [
        "alpaca_generate",
        "--config",
        "smollm2_135m_generate",
        *tiny.overrides,
        "device=cpu",
        "max_new_tokens=8",
    ]
    adapted = tune(*args, f"adapter_directory={out / 'final'}", "prompt=What is the number 3 called?")
    base = tune(*args, "adapter_directory=null", "prompt=What is the number 3 called?")
    assert adapted.status == base.status == 0
    assert adapted.out != base.out


@pytest.mark.slow
def test_transformers_generates_text_with_a_fine_tuned_model(tune: Tune, tiny: Tiny, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "full"
    run_losses = train(
        tune, "full_finetune", "smollm2_135m_full", out, tiny, "epochs=4", "batch_size=6", "optimizer.lr=0.01"
    )
    assert run_losses[-1] < run_losses[0]
    model = AutoModelForCausalLM.from_pretrained(out / "final")
    tokens = AutoTokenizer.from_pretrained(out / "final")("What is", return_tensors="pt")["input_ids"]
    torch.manual_seed(0)
    assert model.generate(tokens, max_new_tokens=4, do_sample=False).shape[1] > tokens.shape[1]


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated"
)  # PEFT reads this attribute of transformers
def test_peft_loads_the_adapter_on_the_converted_base_model(tune: Tune, tiny: Tiny, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path / "lora"
    train(tune, "lora_finetune", "smollm2_135m_lora", out, tiny, "epochs=2", "batch_size=6")
    base = AutoModelForCausalLM.from_pretrained(tiny.folder / "model")
    adapted = PeftModel.from_pretrained(base, str(out / "final"))
    assert adapted.peft_config["default"].to_dict()["r"] == 16


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("overrides", "status", "part"),
    [
        (["dataset.source=none.json"], 2, "none.json"),
        (["model_directory=none"], 2, "none"),
        (["lora.targets=[q_prj]"], 2, "q_prj"),
        (["model.num_layers=3"], 2, "layers"),
        (["tokenizer.path=none/tokenizer.json"], 2, "none"),
    ],
)
def test_mistake_found_at_run_time_is_reported_in_one_line(
    overrides: list[str], status: int, part: str, tune: Tune, tiny: Tiny, tmp_path: Path
) -> None:
    args = [
        "lora_finetune",
        "--config",
        "smollm2_135m_lora",
        *tiny.overrides,
        *tiny.rows,
        "validation.max_new_tokens=4",
        f"output_dir={tmp_path / 'r'}",
    ]
    result = tune(*args, "device=cpu", *overrides)
    assert result.status == status
    message = result.err.strip().removeprefix("1 mistake in the config:\n").splitlines()
    assert len(message) == 1
    assert part in message[0]
