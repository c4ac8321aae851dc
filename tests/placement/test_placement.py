from pathlib import Path

import pytest
import torch
from attrs import evolve
from torch import Tensor

from tests.training.tiny import SINGLE_RANK, examples, make_batch, place, step_loss, tiny_decoder, tiny_model
from torchtune.config import FieldError
from torchtune.formats import save_hf_folder
from torchtune.modules import Decoder, Hardware, LinearCrossEntropy, assume_hardware
from torchtune.placement import Placement, full_state
from torchtune.placement._placement import resolve_dtype
from torchtune.training import Lora

ADAPTERS = Lora(targets=["q_proj", "v_proj"], rank=3)


def build_on_meta() -> Decoder:
    with torch.device("meta"):
        return tiny_decoder()


def state(model: Decoder) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        (Hardware("cpu"), "fp32"),
        (Hardware("mps"), "fp32"),
        (Hardware("cuda", (7, 5)), "fp32"),
        (Hardware("cuda", (8, 0)), "bf16"),
        (Hardware("cuda", (9, 0)), "bf16"),
    ],
)
def test_auto_is_bf16_on_a_gpu_that_supports_it(hardware: Hardware, expected: str) -> None:
    with assume_hardware(hardware):
        assert resolve_dtype("auto", torch.device("cpu")) == expected
        assert resolve_dtype("fp16", torch.device("cpu")) == "fp16"


@pytest.mark.parametrize(
    ("dtype", "trained", "frozen"),
    [
        ("auto", torch.float32, torch.float32),
        ("fp32", torch.float32, torch.float32),
        ("bf16", torch.float32, torch.bfloat16),
        ("fp16", torch.float32, torch.float16),
        ("fp64", torch.float64, torch.float64),
    ],
)
def test_trained_parameters_are_fp32_and_frozen_parameters_have_the_compute_dtype(
    dtype: str, trained: torch.dtype, frozen: torch.dtype
) -> None:
    assert {p.dtype for p in tiny_model(dtype).parameters()} == {trained}
    model = tiny_model(dtype, ADAPTERS)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {trained}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {frozen}


@pytest.mark.parametrize("lora", [None, ADAPTERS], ids=["full", "lora"])
def test_pure_bf16_stores_trained_parameters_and_their_gradients_in_bf16(lora: Lora | None) -> None:
    model = build_on_meta()
    if lora is not None:
        lora.add_to(model)
    place(model, SINGLE_RANK, dtype="bf16", weights_dtype="bf16")
    torch.autograd.backward(step_loss(LinearCrossEntropy(), "bf16")(model, make_batch(examples())))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == sum(p.requires_grad for p in model.parameters())
    assert {gradient.dtype for gradient in gradients} == {torch.bfloat16}


@pytest.mark.parametrize("initial", ["none", "tf32", "ieee"])
def test_every_run_on_a_gpu_selects_tf32_or_full_precision(initial: str) -> None:
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    try:
        products.fp32_precision = initial
        tiny_model("fp32")
        assert products.fp32_precision == initial, "a run on a CPU leaves the setting for GPUs unchanged"
        with assume_hardware(Hardware("cuda", (9, 0))):
            for tf32, expected in ((True, "tf32"), (False, "ieee")):
                place(build_on_meta(), SINGLE_RANK, dtype="fp32", tf32=tf32)
                assert products.fp32_precision == expected
    finally:
        products.fp32_precision = before


@pytest.mark.parametrize("hardware", [Hardware("cpu"), Hardware("cuda", (7, 5))])
def test_tf32_is_rejected_on_a_device_without_it(hardware: Hardware) -> None:
    with assume_hardware(hardware), pytest.raises(FieldError, match="this device has no TF32") as error:
        place(build_on_meta(), SINGLE_RANK, dtype="fp32", tf32=True)
    assert error.value.fields == ("placement.tf32",)


@pytest.mark.parametrize(
    ("dtype", "device", "message"),
    [
        ("auto", "cuda", "has no effect with dtype=auto; set dtype=fp32"),
        ("bf16", "cuda", "has no effect with dtype=bf16; set dtype=fp32"),
        ("fp32", "cpu", "has no effect with device=cpu"),
        ("fp32", "mps", "has no effect with device=mps"),
    ],
)
def test_tf32_without_effect_is_rejected(dtype: str, device: str, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        Placement(tf32=True).check(dtype=dtype, enable_fsdp=False, device=device)
    for possible in ("auto", "cuda"):
        Placement(tf32=True).check(dtype="fp32", enable_fsdp=False, device=possible)


def test_fp16_computes_in_fp16() -> None:
    model = tiny_model("fp16", ADAPTERS)
    assert model(torch.tensor([[1, 2, 3]])).dtype == torch.float16


def test_random_weights_depend_only_on_the_seed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = tiny_model("fp32"), tiny_model("fp32")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state(first)[name], p) for name, p in state(second).items())
    other = tiny_model("fp32", world=evolve(SINGLE_RANK, seed=1))
    assert not torch.equal(state(first)["embed_tokens.weight"], state(other)["embed_tokens.weight"])


def test_base_of_an_adapted_model_is_initialized() -> None:
    model = tiny_model("fp32", ADAPTERS)
    weights = [layer.weight for name, layer in model.named_modules() if name.endswith("proj")]
    assert len(weights) == 14
    assert all(0.01 < weight.std() < 0.04 for weight in weights)  # initialized with 0.02


@pytest.mark.parametrize("lora", [None, ADAPTERS], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_weights_are_loaded_and_adapters_start_at_zero(tmp_path: Path, dtype: str, lora: Lora | None) -> None:
    saved = tiny_model("fp32", world=evolve(SINGLE_RANK, seed=9))
    save_hf_folder(saved, tmp_path / "hf")
    model = build_on_meta()
    if lora is not None:
        lora.add_to(model)
    place(model, SINGLE_RANK, dtype=dtype, model_directory=str(tmp_path / "hf"))
    assert not any(p.is_meta for p in model.parameters())
    for name, p in state(saved).items():
        assert torch.equal(state(model)[name], p.to(state(model)[name].dtype)), name
    if lora is not None:
        assert not state(model)["layers.0.self_attn.q_proj.adapter.lora_b"].any()
        assert state(model)["layers.0.self_attn.q_proj.adapter.lora_a"].any()


def test_training_does_not_change_the_memory_mapped_file(tmp_path: Path) -> None:
    save_hf_folder(tiny_model("fp32"), tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    before = file.read_bytes()
    model = build_on_meta()
    place(model, SINGLE_RANK, dtype="fp32", model_directory=str(tmp_path / "hf"))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    del model
    assert file.read_bytes() == before


@pytest.mark.parametrize(("capability", "is_slow"), [("AVX2", True), ("AVX512", False)])
def test_slow_bf16_is_reported(
    capability: str, is_slow: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    tiny_model("bf16")
    assert ("set dtype=fp32" in caplog.text) is is_slow


def test_full_state_contains_the_trained_parameters_in_their_dtype() -> None:
    model = tiny_model("bf16", ADAPTERS)
    adapters = full_state(model, SINGLE_RANK)
    assert adapters is not None
    assert set(adapters) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {tensor.dtype for tensor in adapters.values()} == {torch.float32}
