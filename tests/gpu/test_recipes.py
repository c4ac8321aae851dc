"""The recipes on a device that rejects what CUDA rejects (`tests.gpu.device`): complete runs, and planted faults."""

import contextlib
import io
import itertools
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from safetensors import safe_open
from torch.optim import AdamW

from recipes import alpaca_generate, full_finetune, lora_finetune
from recipes.alpaca_generate import AlpacaGenerateConfig
from tests.data.byte_tokenizer import ByteTokenizer
from tests.gpu.choices import no_waits_in_steps, runs_on_gpu
from tests.gpu.models import FAMILIES, Fault, Kind, tiny
from tests.gpu.process import in_separate_process
from tests.gpu.waits import waits
from tests.recipes.parts import InterruptOnce, full_config, lora_config, losses, metrics
from tests.tolerance import bound, roundings
from torchtune.config import Trust, lazy, only_trusting
from torchtune.placement import DTYPES, ActivationCheckpointing
from torchtune.training import Packing, Validation

TRUST = Trust(packages=frozenset({"tests"}))
RECIPES: dict[str, Any] = {"full": (full_finetune, full_config), "lora": (lora_finetune, lora_config)}
PROMPTS = ["What is 2 plus 2?", "Hi"]


def run(recipe: str, folder: Path, name: str, kind: Kind, **changes: Any) -> None:
    """Run a recipe for 3 steps of 2 micro-batches."""
    program, config = RECIPES[recipe]
    fields = {
        "model": lazy(tiny, kind=kind),
        "optimizer": lazy(AdamW, lr=1e-2, fused=True),
        "max_steps": 3,
        "gradient_accumulation_steps": 2,
        "epochs": 9,
        "placement.compile": False,
    }
    with only_trusting(TRUST):
        program.main(config(folder, name, **fields | changes))


def run_on_gpu(recipe: str, folder: Path, name: str, kind: Kind, **changes: Any) -> None:
    """Run a recipe on the device; a step in which the host waits for the device fails."""
    with runs_on_gpu(), no_waits_in_steps():
        run(recipe, folder, name, kind, **changes)


def everything(*, is_packed: bool) -> dict[str, Any]:
    """Return changes to a config that make a run use all of its features."""
    validation = Validation(fraction=0.3, every_n_steps=2, prompts=PROMPTS, max_new_tokens=5)
    packing = {"loading.packing": Packing(length=150)} if is_packed else {}
    return {"validation": validation, "checkpoints.every_n_steps": 2, **packing}


CASES = list(itertools.product(RECIPES, FAMILIES, ("bf16", "fp32", "fp16"), ("padded", "packed")))
QUICK = {
    ("full", "llama", "bf16", "packed"),
    ("lora", "gemma2", "fp32", "packed"),
    ("full", "qwen2", "fp16", "padded"),
    ("lora", "gpt2", "bf16", "padded"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "kind", "dtype", "layout"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
@in_separate_process
def test_a_run_on_the_device_agrees_with_a_run_on_the_cpu(
    tmp_path: Path, recipe: str, kind: Kind, dtype: str, layout: str
) -> None:
    changes = everything(is_packed=layout == "packed") | {"dtype": dtype}
    run_on_gpu(recipe, tmp_path, "gpu", kind, **changes)
    assert not [wait for wait in waits if "_non_finite.py" in wait.location], "an update waits for the step"
    (file,) = (tmp_path / "gpu/final").glob("*.safetensors")
    with safe_open(file, "pt") as tensors:
        names = list(tensors.keys())
        assert all(tensors.get_tensor(name).isfinite().all() for name in names)
    assert (tmp_path / "gpu/best").is_dir()
    answers = [json.loads(line) for line in (tmp_path / "gpu/samples.jsonl").read_text().splitlines()]
    assert [
        answer["prompt"] for answer in answers
    ] == PROMPTS * 3  # at the start, after 2 steps and at the end

    run(recipe, tmp_path, "cpu", kind, **changes, max_steps=1)
    steps = [next(line for line in metrics(tmp_path, name) if "grad_norm" in line) for name in ("gpu", "cpu")]
    # Half precision rounds every activation, float32 only the sums.
    n_roundings = 3 * roundings(tiny(kind).architecture, 150) if dtype == "fp32" else 2
    for name in ("loss", "grad_norm"):
        assert steps[0][name] == pytest.approx(steps[1][name], rel=bound(DTYPES[dtype], n_roundings)), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "kind", "dtype", "is_packed"),
    [
        ("full", "llama", "bf16", True),
        pytest.param("lora", "gemma2", "fp16", False, marks=pytest.mark.slow),
    ],
)
@in_separate_process
def test_an_interrupted_run_on_the_device_resumes_and_matches_an_uninterrupted_one(
    tmp_path: Path, recipe: str, kind: Kind, dtype: str, is_packed: bool
) -> None:
    changes = everything(is_packed=is_packed) | {"dtype": dtype, "validation": None}
    run_on_gpu(recipe, tmp_path, "uninterrupted", kind, **changes)
    interrupted = changes | {"metric_logger": lazy(InterruptOnce, step=2, marker=str(tmp_path / "marker"))}
    with pytest.raises(KeyboardInterrupt):
        run_on_gpu(recipe, tmp_path, "interrupted", kind, **interrupted)
    run_on_gpu(recipe, tmp_path, "interrupted", kind, **interrupted)
    assert metrics(tmp_path, "interrupted") == metrics(tmp_path, "uninterrupted")
    (file,) = (tmp_path / "interrupted/final").glob("*.safetensors")
    assert file.read_bytes() == (tmp_path / "uninterrupted/final" / file.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["full", pytest.param("lora", marks=pytest.mark.slow)])
@in_separate_process
def test_recomputed_activations_do_not_change_a_run_on_the_device(tmp_path: Path, recipe: str) -> None:
    for name, section in (("stored", None), ("recomputed", ActivationCheckpointing())):
        changes = {"dtype": "bf16", "placement.activation_checkpointing": section}
        run_on_gpu(
            recipe, tmp_path, name, "gemma2", **everything(is_packed=True) | changes | {"validation": None}
        )
    assert losses(tmp_path, "recomputed") == losses(tmp_path, "stored")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lora", pytest.param("full", marks=pytest.mark.slow)])
@in_separate_process
def test_plain_layers_train_on_the_device(tmp_path: Path, recipe: str) -> None:
    run_on_gpu(recipe, tmp_path, "plain", "qwen2", **{"placement.lean_layers": False, "dtype": "bf16"})
    assert losses(tmp_path, "plain")[-1] < losses(tmp_path, "plain")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["gemma2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in FAMILIES if kind != "gemma2")]
)
@in_separate_process
def test_answers_on_the_device_equal_answers_on_the_cpu(tmp_path: Path, kind: Kind) -> None:
    run("full", tmp_path, "full", kind, max_steps=12)
    prompts = ["What is 2 plus 2?", "Hi", "A longer prompt than the window of the model: " + "x" * 40]
    fields: dict[str, Any] = {
        "prompts": prompts,
        "template": "plain",
        "model": lazy(tiny, kind=kind),
        "model_directory": str(tmp_path / "full/final"),
        "tokenizer": lazy(ByteTokenizer),
        "max_new_tokens": 12,
        "device": "cpu",
        "dtype": "fp32",
        "seed": 1,
    }
    ways: dict[str, dict[str, Any]] = {
        "greedy": {},
        "one by one": {"batch_size": 1},
        "sampled": {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.3},
        "bfloat16": {"dtype": "bf16"},
        "auto": {"dtype": "auto"},
        "streamed": {"prompts": None, "prompt": prompts[0]},
    }
    answers: dict[str, str] = {}
    for way, changes in ways.items():
        for device, choices in (("cpu", contextlib.nullcontext()), ("gpu", runs_on_gpu())):
            with choices, only_trusting(TRUST), contextlib.redirect_stdout(io.StringIO()) as out:
                alpaca_generate.main(AlpacaGenerateConfig(**fields | changes))
            answers[f"{way} on {device}"] = out.getvalue()
    for way in ("greedy", "one by one", "sampled", "streamed"):
        assert answers[f"{way} on gpu"] == answers[f"{way} on cpu"], way
    assert answers["greedy on gpu"] == answers["one by one on gpu"]
    assert answers["sampled on gpu"] != answers["greedy on gpu"]
    assert answers["auto on gpu"] == answers["bfloat16 on gpu"]


QUICK_FAULTS = {("cpu_tensor", 0), ("mixed_dtypes", 1), ("readback", 2), ("readback", 3), ("upload", 5)}
HOST_WAITS = r"\.default: the host waits for the device in a training step, at .*models.py:\d+ in "
MESSAGES: dict[Fault, str] = {
    "cpu_tensor": r"aten\.add\.Tensor: a tensor \[.*\] on cpu among tensors on gpu:0",
    "mixed_dtypes": r"aten\.(mm|bmm)\.default: the device requires that all tensors have the same dtype",
    "readback": rf"aten\._local_scalar_dense{HOST_WAITS}_read_back",
    "upload": rf"aten\._copy_from{HOST_WAITS}_upload",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "seed"),
    [
        pytest.param(fault, seed, marks=() if (fault, seed) in QUICK_FAULTS else pytest.mark.slow)
        for fault in get_args(Fault)
        for seed in range(8)
    ],
)
@in_separate_process
def test_a_fault_planted_in_a_layer_raises_an_error_that_names_the_operator(
    tmp_path: Path, fault: Fault, seed: int
) -> None:
    """The seed determines the family, the layer, the module, and the pass of the fault: forward or backward."""
    kind = FAMILIES[seed % len(FAMILIES)]
    model = lazy(tiny, kind=kind, fault=fault, seed=seed)
    with pytest.raises(RuntimeError, match=MESSAGES[fault]):
        run_on_gpu("full", tmp_path, "full", kind, model=model, dtype="bf16", max_steps=1)


@pytest.mark.slow
@in_separate_process
def test_a_run_on_the_cpu_does_not_notice_the_faults(tmp_path: Path) -> None:
    faults: tuple[Fault, ...] = ("cpu_tensor", "readback", "upload")
    for fault in faults:
        run("full", tmp_path, fault, "llama", model=lazy(tiny, kind="llama", fault=fault), max_steps=1)
