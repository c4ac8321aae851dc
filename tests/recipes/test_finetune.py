"""The fine-tuning recipes: learning, resuming and extending runs, incompatible settings, and non-finite losses."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import CrossEntropyLoss, MSELoss
from torch.optim import AdamW

from recipes import full_finetune, lora_finetune
from tests.recipes.parts import (
    ROWS,
    TINY,
    HalfMasked,
    InterruptOnce,
    NonFiniteLoss,
    full_config,
    lora_config,
    losses,
    metrics,
)
from tests.tolerance import FLOAT64, bound
from tests.training.tiny import SINGLE_RANK, place
from torchtune.config import instantiate, lazy
from torchtune.datasets import InstructDataset
from torchtune.formats import load_hf_weights, load_peft_adapter
from torchtune.modules import Hardware, assume_hardware
from torchtune.placement import DTYPES, ActivationCheckpointing, Sharding
from torchtune.training import Lora, Packing, cosine_with_warmup

RunRecipe = Callable[[Path, str, dict[str, Any]], None]


def run_full(folder: Path, name: str, changes: dict[str, Any]) -> None:
    full_finetune.main(full_config(folder, name, **changes))


def run_lora(folder: Path, name: str, changes: dict[str, Any]) -> None:
    lora_finetune.main(lora_config(folder, name, **changes))


both_recipes = pytest.mark.parametrize("run", [run_full, run_lora], ids=["full", "lora"])
HIGH_LR: dict[str, Any] = {"optimizer": lazy(AdamW, lr=1e-2, fused=True)}


@pytest.mark.slow
@both_recipes
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_few_rows_are_learned(tmp_path: Path, run: RunRecipe, dtype: str) -> None:
    run(tmp_path, "a", HIGH_LR | {"epochs": 8, "dtype": dtype})
    loss = losses(tmp_path, "a")
    assert len(loss) == 8 * 3
    assert loss[0] == pytest.approx(torch.log(torch.tensor(261.0)).item(), abs=0.3)  # uniform guessing
    min_decrease = 1.0 if run is run_full else 0.3  # adapters cannot change the random head
    assert max(loss[-3:]) < loss[0] - min_decrease


@pytest.mark.quick_cases(1)
@both_recipes
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_steps_with_the_choices_of_a_gpu_match_steps_on_a_cpu(
    tmp_path: Path, run: RunRecipe, dtype: str
) -> None:
    changes = {"dtype": dtype, "max_steps": 2, "placement.compile": False}
    run(tmp_path, "cpu", changes)
    with assume_hardware(Hardware("cuda", (9, 0))):
        run(tmp_path, "gpu", changes)
    on_gpu, on_cpu = losses(tmp_path, "gpu"), losses(tmp_path, "cpu")
    assert len(on_gpu) == 2
    assert on_gpu == pytest.approx(on_cpu, rel=bound(DTYPES[dtype], 1 if dtype != "fp32" else 300))


@pytest.mark.slow
@both_recipes
@pytest.mark.parametrize(
    "data", [{}, {"loading.packing": Packing(length=150)}, {"loading.group_by_length": True}]
)
def test_an_interrupted_run_resumes_and_matches_an_uninterrupted_one(
    tmp_path: Path, run: RunRecipe, data: dict[str, Any]
) -> None:
    changes: dict[str, Any] = (
        HIGH_LR | {"epochs": 12 if "loading.packing" in data else 3, "checkpoints.every_n_steps": 2} | data
    )
    if run is run_lora:
        changes |= {"lora": Lora(targets=["all-linear"], rank=4, dropout=0.2)}
    run(tmp_path, "uninterrupted", changes)
    interrupted = changes | {"metric_logger": lazy(InterruptOnce, step=5, marker=str(tmp_path / "marker"))}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "interrupted", interrupted)
    assert [line["step"] for line in metrics(tmp_path, "interrupted")] == [1, 2, 3, 4, 5]
    assert not (tmp_path / "interrupted" / "final").exists()
    run(tmp_path, "interrupted", interrupted)
    assert metrics(tmp_path, "interrupted") == metrics(tmp_path, "uninterrupted")
    (file,) = (tmp_path / "interrupted" / "final").glob("*.safetensors")
    assert file.read_bytes() == (tmp_path / "uninterrupted" / "final" / file.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [{"batch_size": 2}, {"batch_size": 1, "loading.packing": Packing(length=150)}],
    ids=["padded", "packed"],
)
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_with_uneven_epochs_interrupted_at_any_step_matches_an_uninterrupted_one(
    tmp_path: Path, data: dict[str, Any], step: int
) -> None:
    changes: dict[str, Any] = HIGH_LR | data | {"epochs": 2, "gradient_accumulation_steps": 2}
    changes |= {"checkpoints.every_n_steps": 1}
    run_full(tmp_path, "uninterrupted", changes)
    assert [line["step"] for line in metrics(tmp_path, "uninterrupted")] == [1, 2, 3, 4]
    interrupted = changes | {"metric_logger": lazy(InterruptOnce, step=step, marker=str(tmp_path / "marker"))}
    with pytest.raises(KeyboardInterrupt):
        run_full(tmp_path, "interrupted", interrupted)
    run_full(tmp_path, "interrupted", interrupted)
    assert metrics(tmp_path, "interrupted") == metrics(tmp_path, "uninterrupted")
    name = "final/model.safetensors"
    assert (tmp_path / "interrupted" / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()


@pytest.mark.slow
@both_recipes
def test_an_extended_run_equals_a_single_run_of_the_same_length(tmp_path: Path, run: RunRecipe) -> None:
    changes: dict[str, Any] = HIGH_LR | {"lr_scheduler": None, "epochs": 3, "gradient_accumulation_steps": 1}
    run(tmp_path, "whole", changes)
    run(tmp_path, "extended", changes | {"epochs": 1})
    with pytest.raises(
        ValueError, match="has finished; to train longer, raise epochs or max_steps and pass extend=True"
    ):
        run(tmp_path, "extended", changes)
    recipe, config = (full_finetune, full_config) if run is run_full else (lora_finetune, lora_config)
    recipe.main(config(tmp_path, "extended", **changes), extend=True)
    assert metrics(tmp_path, "extended") == metrics(tmp_path, "whole")
    (file,) = (tmp_path / "extended/final").glob("*.safetensors")
    assert file.read_bytes() == (tmp_path / "whole/final" / file.name).read_bytes()


@pytest.mark.slow
def test_a_run_that_ends_between_checkpoints_can_be_extended(tmp_path: Path) -> None:
    changes: dict[str, Any] = HIGH_LR | {"lr_scheduler": None, "checkpoints.every_n_steps": 100}
    full_finetune.main(full_config(tmp_path, "whole", **changes, max_steps=5))
    full_finetune.main(full_config(tmp_path, "extended", **changes, max_steps=2))
    full_finetune.main(full_config(tmp_path, "extended", **changes, max_steps=5), extend=True)
    assert metrics(tmp_path, "extended") == metrics(tmp_path, "whole")


@pytest.mark.slow
def test_max_steps_per_epoch_limits_the_run_without_repeating_rows(tmp_path: Path) -> None:
    limited = HIGH_LR | {"batch_size": 2, "gradient_accumulation_steps": 1, "shuffle": False, "epochs": 2}
    run_full(tmp_path, "limited", limited | {"max_steps_per_epoch": 2})
    run_full(tmp_path, "steps", limited | {"max_steps": 4})
    assert losses(tmp_path, "limited") == losses(tmp_path, "steps")
    run_full(tmp_path, "whole", limited | {"max_steps_per_epoch": 99})
    assert len(losses(tmp_path, "whole")) == 2 * 3
    assert losses(tmp_path, "whole")[:1] == losses(tmp_path, "limited")[:1]


def test_a_run_shorter_than_its_warm_up_works(tmp_path: Path) -> None:
    schedule = lazy(cosine_with_warmup, warmup_steps=100)
    run_full(tmp_path, "smoke", HIGH_LR | {"max_steps": 2, "lr_scheduler": schedule})
    assert len(losses(tmp_path, "smoke")) == 2
    assert (tmp_path / "smoke" / "final").is_dir()


def test_a_run_with_only_skipped_steps_raises_an_error_and_saves_no_model(tmp_path: Path) -> None:
    skipped = {"loss": lazy(NonFiniteLoss, calls=[1, 2, 3, 4, 5, 6]), "non_finite": "skip", "epochs": 1}
    with pytest.raises(ValueError, match=r"the model was not trained: every step was skipped \(3 steps\)"):
        run_full(tmp_path, "skipped", HIGH_LR | skipped)
    assert not (tmp_path / "skipped" / "final").exists()


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("changes", [{}, {"max_steps": 2}, {"lr_scheduler": None}])
def test_rows_without_targets_raise_an_error_before_the_first_step(tmp_path: Path, changes: Any) -> None:
    model = lazy(TINY.func, **{**TINY.keywords, "max_seq_len": 4})
    with pytest.raises(ValueError, match=r"no row has a target \(6 rows\)"):
        run_full(tmp_path, "none", HIGH_LR | {"model": model, **changes})
    assert not (tmp_path / "none" / "final").exists()


@pytest.mark.slow
def test_an_interrupted_run_on_a_stream_resumes(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS * 4), tmp_path / "rows.parquet")
    streamed = lazy(
        InstructDataset, source=str(tmp_path / "rows.parquet"), load_options={"streaming": True, "rows": 20}
    )
    changes = HIGH_LR | {
        "epochs": 8,
        "checkpoints.every_n_steps": 2,
        "dataset": streamed,
        "loading.packing": Packing(length=300),
    }
    run_full(tmp_path, "uninterrupted", changes)
    assert len(metrics(tmp_path, "uninterrupted")) > 5
    interrupted = changes | {"metric_logger": lazy(InterruptOnce, step=5, marker=str(tmp_path / "marker"))}
    with pytest.raises(KeyboardInterrupt):
        run_full(tmp_path, "interrupted", interrupted)
    run_full(tmp_path, "interrupted", interrupted)
    assert metrics(tmp_path, "interrupted") == metrics(tmp_path, "uninterrupted")


@pytest.mark.slow
@pytest.mark.usefixtures("fp32_is_float64")
def test_packed_examples_train_like_separate_examples(tmp_path: Path) -> None:
    run_full(tmp_path, "separate", HIGH_LR | {"batch_size": 6, "shuffle": False, "epochs": 3})
    packed = {"batch_size": 1, "gradient_accumulation_steps": 1, "loading.packing": Packing(length=2000)}
    run_full(tmp_path, "packed", HIGH_LR | {"shuffle": False, "epochs": 3} | packed)
    assert losses(tmp_path, "packed") == pytest.approx(losses(tmp_path, "separate"), rel=FLOAT64)
    padding = [line["padding_fraction"] for line in metrics(tmp_path, "packed")]
    assert padding == [0.0] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loading.packing": Packing(), "loading.group_by_length": True},
            "group_by_length: this setting has no effect with packing",
        ),
        ({"placement.weights_dtype": "bf16"}, "placement.weights_dtype: bf16 requires dtype=bf16"),
        (
            {
                "placement.compile": True,
                "placement.activation_checkpointing": ActivationCheckpointing(offload=True),
            },
            "compile: the activations of compiled layers cannot be offloaded",
        ),
        (
            {"placement.sharding": Sharding()},
            "placement.sharding: this section has no effect without enable_fsdp=true",
        ),
    ],
)
def test_incompatible_settings_are_rejected(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_full(tmp_path, "a", HIGH_LR | changes)


@pytest.mark.slow
@pytest.mark.usefixtures("fp32_is_float64")
def test_losses_do_not_depend_on_micro_batches_or_the_loss_component(tmp_path: Path) -> None:
    results = []
    cases: dict[str, dict[str, Any]] = {
        "whole": {"batch_size": 6},
        "split": {"batch_size": 2, "gradient_accumulation_steps": 3},
        "logits": {"batch_size": 6, "loss": lazy(CrossEntropyLoss)},
    }
    for name, changes in cases.items():
        run_full(tmp_path, name, HIGH_LR | changes | {"epochs": 3})
        results.append(losses(tmp_path, name))
    assert len(results[0]) == 3
    assert results[1] == pytest.approx(results[0], rel=FLOAT64)
    assert results[2] == pytest.approx(results[0], rel=FLOAT64)


@pytest.mark.slow
def test_full_finetuning_saves_the_trained_model(tmp_path: Path) -> None:
    run_full(tmp_path, "a", HIGH_LR | {"epochs": 20})
    second = HIGH_LR | {"model_directory": str(tmp_path / "a" / "final"), "tokenizer_directory": None}
    run_full(tmp_path, "b", second | {"shuffle": False, "batch_size": 6})
    assert losses(tmp_path, "b")[0] < losses(tmp_path, "a")[-1] + 0.2


def test_lora_finetuning_saves_an_adapter_and_keeps_the_base_weights(tmp_path: Path) -> None:
    run_full(tmp_path, "base", {"max_steps_per_epoch": 1})
    base = str(tmp_path / "base" / "final")
    run_lora(tmp_path, "a", HIGH_LR | {"model_directory": base, "tokenizer_directory": None})
    with torch.device("meta"):
        model = instantiate(TINY)
    place(model, SINGLE_RANK, dtype="fp32", model_directory=base)
    load_peft_adapter(model, tmp_path / "a" / "final")
    adapters = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * 7 * 2
    assert all(p.any() for p in adapters.values())
    plain = instantiate(TINY)
    load_hf_weights(plain, base)
    for name, p in plain.named_parameters():
        assert torch.equal(p, model.get_parameter(name))


def test_a_step_without_targets_is_skipped_and_has_no_loss(tmp_path: Path) -> None:
    changes = {"dataset": lazy(HalfMasked), "batch_size": 1, "shuffle": False, "epochs": 2}
    run_full(tmp_path, "a", changes)
    assert [loss is None for loss in losses(tmp_path, "a")] == [True, False, True, False]


@pytest.mark.parametrize("non_finite", ["loss", "gradient"])
def test_a_non_finite_loss_or_gradient_ends_the_run_and_is_reported_with_rows_and_checkpoint(
    tmp_path: Path, non_finite: str
) -> None:
    changes = HIGH_LR | {
        "loss": lazy(NonFiniteLoss, calls=[5], non_finite=non_finite),
        "epochs": 3,
        "checkpoints.every_n_steps": 2,
        "checkpoints.at_epoch_ends": False,
    }
    reason = "the loss is nan" if non_finite == "loss" else "the gradient's norm is (nan|inf)"
    with pytest.raises(FloatingPointError) as caught:
        run_full(tmp_path, "a", changes | {"shuffle": False})
    message = str(caught.value)
    assert re.match(rf"step 5: {reason}. Rows: .*rows.json: row 3, .*rows.json: row 4. ", message)
    assert f"The last good checkpoint is {tmp_path / 'a/checkpoints/step_4'}. Lower optimizer.lr" in message
    assert [line["step"] for line in metrics(tmp_path, "a")] == [1, 2, 3, 4]


def test_a_non_finite_loss_can_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = HIGH_LR | {"loss": lazy(NonFiniteLoss, calls=[2, 4]), "epochs": 3, "non_finite": "skip"}
    run_full(tmp_path, "a", changes)
    assert [loss is None for loss in losses(tmp_path, "a")] == [False, True, False, True] + [False] * 5
    assert "step 4/9: skipped (2 so far): the loss is nan; rows: " in capsys.readouterr().err


def test_ten_consecutive_non_finite_losses_end_the_run_even_with_skip(tmp_path: Path) -> None:
    loss = lazy(NonFiniteLoss, calls=list(range(3, 99)))
    changes = HIGH_LR | {"loss": loss, "epochs": 9, "non_finite": "skip"}
    with pytest.raises(FloatingPointError, match="step 12: the loss is nan, in 10 steps in a row"):
        run_full(tmp_path, "a", changes)


def test_a_resumed_run_continues_the_count_of_non_finite_losses(tmp_path: Path) -> None:
    non_finite = {"loss": lazy(NonFiniteLoss, calls=list(range(1, 99))), "non_finite": "skip"}
    changes = HIGH_LR | non_finite | {"epochs": 9, "checkpoints.every_n_steps": 1}
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="step 10: the loss is nan, in 10 steps in a row"):
            run_full(tmp_path, "a", changes)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_torch_loss_that_does_not_accept_logits_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"loss: MSELoss does not accept logits \[\d+, 261\] with labels \[\d+\]: "
    ):
        run_full(tmp_path, "a", {"loss": lazy(MSELoss)})


@pytest.mark.slow
def test_adapters_resume_only_with_unchanged_base_weights(tmp_path: Path) -> None:
    run_full(tmp_path, "base", {"max_steps": 1})
    run_full(tmp_path, "other", HIGH_LR | {"max_steps": 3})
    base = tmp_path / "base" / "final"
    changes = HIGH_LR | {
        "model_directory": str(base),
        "tokenizer_directory": None,
        "checkpoints.every_n_steps": 2,
        "epochs": 3,
    }
    interrupted = changes | {"metric_logger": lazy(InterruptOnce, step=5, marker=str(tmp_path / "marker"))}
    with pytest.raises(KeyboardInterrupt):
        run_lora(tmp_path, "a", interrupted)
    weights = base / "model.safetensors"
    weights.write_bytes((tmp_path / "other" / "final" / weights.name).read_bytes())
    with pytest.raises(
        ValueError,
        match=r"(?s)code, data or versions have changed .*\n  sources.model_directory changed from 2 files",
    ):
        run_lora(tmp_path, "a", interrupted)
    with pytest.raises(
        ValueError,
        match=r"step_4 was written with base weights that differ from .*: model.safetensors differs",
    ):
        lora_finetune.main(lora_config(tmp_path, "a", **interrupted), accept_changes=True)


@pytest.mark.slow
def test_fp16_loss_scaling_learns_and_resumes(tmp_path: Path) -> None:
    changes = HIGH_LR | {"dtype": "fp16", "epochs": 8, "checkpoints.every_n_steps": 2}
    run_full(tmp_path, "a", changes)
    loss = [line["loss"] for line in metrics(tmp_path, "a") if line["loss"] is not None]
    assert len(loss) > 20
    assert max(loss[-3:]) < loss[0] - 1.0
    run_full(tmp_path, "plain", changes | {"dtype": "fp32"})
    assert loss[0] == pytest.approx(losses(tmp_path, "plain")[0], rel=bound(torch.float16, 1))
    interrupted = changes | {"metric_logger": lazy(InterruptOnce, step=5, marker=str(tmp_path / "marker"))}
    with pytest.raises(KeyboardInterrupt):
        run_full(tmp_path, "interrupted", interrupted)
    run_full(tmp_path, "interrupted", interrupted)
    assert metrics(tmp_path, "interrupted") == metrics(tmp_path, "a")


@pytest.mark.slow
def test_bf16_weights_halve_the_checkpoint_and_learn(tmp_path: Path) -> None:
    changes = HIGH_LR | {
        "dtype": "bf16",
        "placement.weights_dtype": "bf16",
        "epochs": 8,
        "checkpoints.every_n_steps": 2,
    }
    run_full(tmp_path, "a", changes)
    loss = losses(tmp_path, "a")
    assert max(loss[-3:]) < loss[0] - 1.0
    (file,) = (tmp_path / "a" / "checkpoints").glob("step_*/__0_0.distcp")
    run_full(tmp_path, "fp32", changes | {"placement.weights_dtype": "fp32", "epochs": 8})
    (fp32_file,) = (tmp_path / "fp32" / "checkpoints").glob("step_*/__0_0.distcp")
    assert 0.4 < file.stat().st_size / fp32_file.stat().st_size < 0.75


def test_max_steps_overrides_epochs(tmp_path: Path) -> None:
    run_full(tmp_path, "a", HIGH_LR | {"epochs": 1, "max_steps": 5})
    assert len(losses(tmp_path, "a")) == 5  # an epoch has 3 steps


def test_null_disables_logger_schedule_clipping_and_checkpoints(tmp_path: Path) -> None:
    off: dict[str, Any] = {"metric_logger": None, "lr_scheduler": None, "clip_grad_norm": None}
    off |= {"checkpoints.every_n_steps": None, "checkpoints.at_epoch_ends": False}
    run_full(tmp_path, "a", HIGH_LR | off | {"seed": None, "max_steps_per_epoch": 2, "epochs": 2})
    assert [line["lr"] for line in metrics(tmp_path, "a")] == [1e-2] * 4
    assert not (tmp_path / "a" / "checkpoints").exists()
    assert not (tmp_path / "a" / "log.txt").exists()


@pytest.mark.slow
def test_the_seed_determines_the_run(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_lora(tmp_path, name, {"seed": seed})
    assert metrics(tmp_path, "a") == metrics(tmp_path, "b")
    assert losses(tmp_path, "a") != losses(tmp_path, "c")


def test_the_config_classes_are_not_subclasses_of_each_other() -> None:
    assert not issubclass(full_finetune.FullFinetuneConfig, lora_finetune.LoraFinetuneConfig)
    assert not issubclass(lora_finetune.LoraFinetuneConfig, full_finetune.FullFinetuneConfig)
