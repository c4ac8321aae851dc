"""Every kind of checkpoint converts to a Hugging Face folder, with adapters merged or kept separate."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.formats.tiny_gguf import write_gguf
from tests.formats.tiny_meta import LLAMA2, write_meta
from tests.models.tiny import random_tokens, tiny_smollm2, tiny_tokenizer, tokenizer_config, write
from tests.tolerance import assert_near, bound
from torchtune.formats import (
    convert,
    hf_decoder,
    load_hf_weights,
    load_peft_adapter,
    save_hf_folder,
    save_peft_adapter,
)
from torchtune.modules import Decoder, add_lora, lora_state, merge_lora
from torchtune.tokenizers import auto_tokenizer

# PEFT reads an attribute that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SMALL = {"vocab_size": 300, "pad_token_id": 0}
LLAMA_LIKE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "Llama": LLAMA_LIKE,
    "Phi3": {**LLAMA_LIKE, "original_max_position_embeddings": 64},  # stores fused weights
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},  # stores transposed weights
    "Gemma2": {**LLAMA_LIKE, "head_dim": 16},  # has tied embeddings
}


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write a transformers model in bfloat16 with norms in float32, and a tokenizer."""
    import transformers

    torch.manual_seed(0)
    model_config = getattr(transformers, f"{request.param}Config")(**FAMILIES[request.param], **SMALL)
    build_model: Any = transformers.AutoModelForCausalLM.from_config
    model = build_model(model_config).bfloat16()
    for name, parameter in model.named_parameters():
        if "norm" in name or ".ln_" in name:
            parameter.data = torch.rand(parameter.shape)
    folder = tmp_path / "base"
    model.save_pretrained(folder)
    return write(
        folder,
        tokenizer__json=tiny_tokenizer().to_str(),
        tokenizer_config__json=json.dumps(tokenizer_config()),
        generation_config__json=json.dumps({"bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 0}),
    )


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """Write a small bfloat16 model with a tokenizer."""
    folder = tmp_path / "base"
    save_hf_folder(tiny_smollm2(tied_embeddings=False).bfloat16(), folder)
    return write(
        folder,
        tokenizer__json=tiny_tokenizer().to_str(),
        tokenizer_config__json=json.dumps(tokenizer_config()),
    )


def read_tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def are_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return actual.keys() == expected.keys() and all(
        actual[n].dtype == t.dtype and torch.equal(actual[n], t) for n, t in expected.items()
    )


def read_json(folder: Path, name: str = "config.json") -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / name).read_text())
    return values


def write_adapter(folder: Path, base: Path, **changes: Any) -> Path:
    """Write an adapter for every linear layer of a base."""
    model = hf_decoder(str(base))
    add_lora(model, "all-linear", rank=3, alpha=5.0)
    for parameter in lora_state(model).values():
        parameter.normal_(std=0.1)
    save_peft_adapter(model, folder, base_model=str(base))
    if changes:
        write(
            folder, adapter_config__json=json.dumps({**read_json(folder, "adapter_config.json"), **changes})
        )
    return folder


def test_converting_a_hugging_face_folder_preserves_it(base: Path, tmp_path: Path) -> None:
    convert(base, tmp_path / "converted")
    assert are_equal(read_tensors(tmp_path / "converted"), read_tensors(base))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "converted" / name).read_bytes() == (base / name).read_bytes()
    assert hf_decoder(str(tmp_path / "converted")).architecture == hf_decoder(str(base)).architecture
    converted = read_json(tmp_path / "converted")
    assert (converted["torch_dtype"], converted["eos_token_id"]) == ("bfloat16", [2, 0])
    convert(tmp_path / "converted", tmp_path / "reconverted")
    for file in (tmp_path / "converted").iterdir():
        assert file.read_bytes() == (tmp_path / "reconverted" / file.name).read_bytes()


@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_weights_convert_to_safetensors(llama: Path, tmp_path: Path, shards: int) -> None:
    expected = read_tensors(llama)
    (llama / "model.safetensors").unlink()
    if shards == 1:
        torch.save(expected, llama / "pytorch_model.bin")
    else:
        files = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(expected)}
        for file in set(files.values()):
            torch.save({n: t for n, t in expected.items() if files[n] == file}, llama / file)
        write(llama, pytorch_model__bin__index__json=json.dumps({"weight_map": files}))
    convert(llama, tmp_path / "converted")
    assert are_equal(read_tensors(tmp_path / "converted"), expected)
    assert not list((tmp_path / "converted").glob("pytorch_model*"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_dtype_applies_to_every_tensor(base: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    convert(base, tmp_path / "converted", dtype=dtype)
    assert are_equal(
        read_tensors(tmp_path / "converted"), {name: t.to(dtype) for name, t in read_tensors(base).items()}
    )
    assert read_json(tmp_path / "converted")["torch_dtype"] == str(dtype).removeprefix("torch.")


def test_values_beyond_float16_are_rejected(llama: Path, tmp_path: Path) -> None:
    weights = read_tensors(llama)
    weights["model.norm.weight"][3] = 70_000.0
    save_file(weights, llama / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model.norm.weight of .*base has values that float16 cannot represent \(above"
    ):
        convert(llama, tmp_path / "converted", dtype=torch.float16)
    assert not (tmp_path / "converted").exists()


def test_quantized_weights_are_rejected(llama: Path, tmp_path: Path) -> None:
    weights = read_tensors(llama)
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"].to(
        torch.float8_e4m3fn
    )
    save_file(weights, llama / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"base contains a quantized model, according to the dtype of model.layers.0.mlp.up_proj.weight",
    ):
        convert(llama, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_tokenizer_argument_is_written_if_the_source_has_none(llama: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (llama / name).rename(tokenizer / name)
    convert(llama, tmp_path / "without")
    assert {path.name for path in (tmp_path / "without").iterdir()} == {"config.json", "model.safetensors"}
    for i, path in enumerate((tokenizer, tokenizer / "tokenizer.json")):
        convert(llama, tmp_path / f"with-{i}", tokenizer=path)
        assert (tmp_path / f"with-{i}/tokenizer.json").is_file()
        assert read_json(tmp_path / f"with-{i}")["eos_token_id"] == 2
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in .*: expected tokenizer.json, "):
        convert(tmp_path / "without", tmp_path / "converted", tokenizer=llama)


def special_ids(folder: Path, name: str = "config.json") -> list[Any]:
    values = read_json(folder, name)
    return [values.get(f"{key}_token_id", "absent") for key in ("bos", "eos", "pad")]


SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("model_ids", "generation", "expected"),
    [
        ({}, {}, ["absent", "absent", "absent"]),
        (SPECIAL_IDS, {}, [1, 2, 0]),
        (SPECIAL_IDS, {"eos_token_id": 2, "temperature": 0.6}, [1, 2, 0]),
        (SPECIAL_IDS, {"eos_token_id": [2, 7], "pad_token_id": None, "top_p": 0.9}, [1, [2, 7], 0]),
        ({**SPECIAL_IDS, "bos_token_id": None}, {"bos_token_id": 5}, [5, 2, 0]),
        ({"eos_token_id": 2, "pad_token_id": None}, {"eos_token_id": []}, ["absent", 2, None]),
    ],
)
@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_special_ids_and_generation_settings_are_preserved(
    llama: Path,
    tmp_path: Path,
    model_ids: dict[str, Any],
    generation: dict[str, Any],
    expected: list[Any],
    has_tokenizer: bool,
) -> None:
    write(llama, config__json=json.dumps({**read_json(llama), **model_ids}))
    if generation:
        write(llama, generation_config__json=json.dumps(generation))
    if not has_tokenizer:
        (llama / "tokenizer.json").unlink()
    elif not model_ids:
        expected = [None, 2, 0]  # from the tokenizer
    convert(llama, tmp_path / "converted")
    assert special_ids(tmp_path / "converted") == expected
    assert (tmp_path / "converted/generation_config.json").exists() == bool(generation)
    if generation:
        assert read_json(tmp_path / "converted", "generation_config.json") == generation


@pytest.mark.parametrize(
    ("model_ids", "tokenizer_ids", "expected"),
    [
        (SPECIAL_IDS, {}, [1, 2, 0]),
        ({**SPECIAL_IDS, "eos_token_id": [2, 7]}, {}, [1, [2, 7], 0]),  # end of text and end of turn
        ({**SPECIAL_IDS, "eos_token_id": [2, 7]}, {**SPECIAL_IDS, "bos_token_id": 3}, [1, [2, 7], 0]),
        ({**SPECIAL_IDS, "eos_token_id": 7, "pad_token_id": 5}, {}, [1, 2, 0]),
        (SPECIAL_IDS, {"eos_token_id": [2, 9]}, [1, [2, 9], 0]),
        ({"eos_token_id": 2, "pad_token_id": None}, {}, [None, 2, 0]),
        ({}, {}, [None, 2, 0]),
    ],
)
@pytest.mark.parametrize("tokenizer_file", ["config.json", "generation_config.json"])
def test_replacing_the_tokenizer_changes_only_the_special_ids(
    llama: Path,
    tmp_path: Path,
    model_ids: dict[str, Any],
    tokenizer_ids: dict[str, Any],
    expected: list[Any],
    tokenizer_file: str,
) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (llama / name).rename(tokenizer / name)
    settings = {**model_ids, "temperature": 0.6, "top_p": 0.9}
    write(llama, config__json=json.dumps({**read_json(llama), **model_ids}))
    write(llama, generation_config__json=json.dumps(settings))
    if tokenizer_ids:
        write(tokenizer, **{tokenizer_file.replace(".", "__"): json.dumps({**tokenizer_ids, "top_p": 0.1})})
    convert(llama, tmp_path / "converted", tokenizer=tokenizer)
    assert special_ids(tmp_path / "converted") == expected
    generation = read_json(tmp_path / "converted", "generation_config.json")
    assert (generation["temperature"], generation["top_p"]) == (0.6, 0.9)
    assert generation.get("eos_token_id") == expected[1]
    assert auto_tokenizer(str(tmp_path / "converted")).stop_ids >= {2}


def test_mismatched_or_damaged_tokenizer_is_rejected_before_weights_are_written(
    llama: Path, tmp_path: Path
) -> None:
    tokenizer = tmp_path / "tokenizer"
    oversized = tiny_tokenizer()
    oversized.add_tokens(["words words"])
    write(
        tokenizer, tokenizer__json=oversized.to_str(), tokenizer_config__json=json.dumps(tokenizer_config())
    )
    message = r"the tokenizer of .*tokenizer cannot be used: the tokenizer has 301 ids, but .*embedding has 300 rows"
    for path in (tokenizer, tokenizer / "tokenizer.json"):
        with pytest.raises(ValueError, match=message):
            convert(llama, tmp_path / "converted", tokenizer=path, progress=fail_on_progress)
    with pytest.raises(
        ValueError, match=r"base/config.json is not a tokenizer file; expected tokenizer.json, "
    ):
        convert(llama, tmp_path / "converted", tokenizer=llama / "config.json", progress=fail_on_progress)
    padded = tiny_tokenizer()
    padded.add_special_tokens(["<image>"])
    write(tokenizer, tokenizer__json=padded.to_str())
    convert(llama, tmp_path / "extra", tokenizer=tokenizer)  # Gemma 3's tokenizer has such a token
    write(llama, config__json=json.dumps({**read_json(llama), **SPECIAL_IDS}), tokenizer__json="{")
    with pytest.raises(
        ValueError,
        match=r"the tokenizer of .*base cannot be used: .*base/tokenizer.json is not a tokenizer.json",
    ):
        convert(llama, tmp_path / "converted", progress=fail_on_progress)
    convert(llama, tmp_path / "repaired", tokenizer=tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "extra", "repaired", "tokenizer"]


def fail_on_progress(*_: int) -> None:
    pytest.fail("a tensor was read")


@pytest.mark.parametrize("kind", ["hugging face", "gguf", "meta", "meta without a tokenizer"])
def test_tokenizer_and_template_of_an_adapter_are_copied(tmp_path: Path, kind: str) -> None:
    base = write_gguf(tmp_path / "tiny.gguf") if kind == "gguf" else tmp_path / "meta"
    if kind != "gguf":
        write_meta(base, LLAMA2)
    convert(base, tmp_path / "hf", dtype=torch.float32)
    if kind == "hugging face":
        base = tmp_path / "hf"
    source = write_adapter(tmp_path / "adapter", tmp_path / "hf")
    files = {
        "tokenizer.json": tiny_tokenizer().to_str(),
        "tokenizer_config.json": json.dumps({**tokenizer_config(), "chat_template": None}),
        "chat_template.jinja": "{{ messages[0].content }}<|im_end|>",
    }
    write(source, **{name.replace(".", "__"): text for name, text in files.items()})
    write(source, README__md="not to be copied")
    convert(source, tmp_path / "adapter_only", keep_adapter=True)
    if kind == "meta without a tokenizer":
        (base / "tokenizer.model").unlink()
    convert(source, tmp_path / "merged", base=base)
    for folder in (tmp_path / "adapter_only", tmp_path / "merged"):
        assert {name: (folder / name).read_text() for name in files} == files
        assert not (folder / "README.md").exists()
        assert not (folder / "tokenizer.model").exists()
    assert special_ids(tmp_path / "merged")[1] == 2
    assert auto_tokenizer(str(tmp_path / "merged")).stop_ids == {2}
    if kind == "hugging face":
        convert(source, tmp_path / "from_base", base=base, tokenizer=base)
        assert (tmp_path / "from_base/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
        assert not (tmp_path / "from_base/chat_template.jinja").exists()


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_merged_adapter_matches_merge_lora_bit_for_bit(
    base: Path, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    convert(write_adapter(tmp_path / "adapter", base), tmp_path / "merged", dtype=dtype)
    model = hf_decoder(str(base)).to(dtype or torch.bfloat16)
    load_hf_weights(model, base)
    load_peft_adapter(model, tmp_path / "adapter")
    merge_lora(model)
    save_hf_folder(model, tmp_path / "expected", tokenizer_directory=base, base=base)
    norms = {} if dtype else {n: t for n, t in read_tensors(base).items() if t.dtype == torch.float32}
    assert are_equal(read_tensors(tmp_path / "merged"), {**read_tensors(tmp_path / "expected"), **norms})
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    assert not are_equal(read_tensors(tmp_path / "merged"), read_tensors(base))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_adapter_matches_peft_up_to_rounding(tmp_path: Path, dtype: torch.dtype) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    save_hf_folder(tiny_smollm2().to(dtype), tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    patterns: dict[str, Any] = {
        "rank_pattern": {"o_proj": 5},
        "alpha_pattern": {"o_proj": 7, "layers.1.mlp.gate_proj": 2},
    }
    lora = LoraConfig(
        r=4, lora_alpha=6, target_modules=["o_proj", "gate_proj"], init_lora_weights=False, **patterns
    )
    get_peft_model(base, lora).save_pretrained(str(tmp_path / "adapter"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    peft_model = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).merge_and_unload()
    convert(tmp_path / "adapter", tmp_path / "merged", base=tmp_path / "base")
    expected = {n: t for n, t in peft_model.state_dict().items() if n != "lm_head.weight"}
    merged = read_tensors(tmp_path / "merged")
    assert {tensor.dtype for tensor in merged.values()} == {dtype}
    # The product sums over a LoRA rank of up to five, is scaled, and is added to the weight.
    assert_near(merged, expected, bound(dtype, 5 + 2))


@pytest.mark.parametrize("kind", ["gguf", "meta"])
def test_base_of_an_adapter_may_be_any_kind_of_checkpoint(tmp_path: Path, kind: str) -> None:
    source = (
        write_gguf(tmp_path / "tiny.gguf") if kind == "gguf" else write_meta(tmp_path / "meta", LLAMA2, n=2)
    )
    convert(source, tmp_path / "base", dtype=torch.float32)
    write_adapter(tmp_path / "adapter", tmp_path / "base")
    convert(tmp_path / "adapter", tmp_path / "one_step", base=source, dtype=torch.float32)
    convert(tmp_path / "adapter", tmp_path / "two_steps")
    actual, expected = read_tensors(tmp_path / "one_step"), read_tensors(tmp_path / "two_steps")
    assert {tensor.dtype for tensor in actual.values()} == {torch.float32}
    # One path rounds the checkpoint's float64 to float32 before adding the adapter; the other rounds after adding it.
    assert_near(actual, expected, 0 if kind == "gguf" else bound(torch.float32, 3 + 2))


def test_kept_adapter_is_copied_without_merging(llama: Path, tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "adapter", llama)
    weights = load_file(source / "adapter_model.safetensors")
    convert(source, tmp_path / "copied", keep_adapter=True)
    assert are_equal(load_file(tmp_path / "copied/adapter_model.safetensors"), weights)
    assert read_json(tmp_path / "copied", "adapter_config.json") == read_json(source, "adapter_config.json")
    torch.save(weights, source / "adapter_model.bin")
    (source / "adapter_model.safetensors").unlink()
    llama.rename(tmp_path / "moved")
    convert(source, tmp_path / "bfloat16", keep_adapter=True, base=tmp_path / "moved", dtype=torch.bfloat16)
    rounded = {name: tensor.bfloat16() for name, tensor in weights.items()}
    assert are_equal(load_file(tmp_path / "bfloat16/adapter_model.safetensors"), rounded)
    adapter_config = read_json(tmp_path / "bfloat16", "adapter_config.json")
    assert adapter_config["base_model_name_or_path"] == str(tmp_path / "moved")
    model = Decoder(tiny_smollm2(tied_embeddings=False).architecture)
    load_peft_adapter(model, tmp_path / "bfloat16")
    assert model(random_tokens(1, 5)).isfinite().all()


WRAPPERS: dict[str, Callable[[str], str]] = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "DataParallel": lambda name: f"module.{name}",
    "compiled base": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "compiled layers": lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."),
    "state dict": lambda name: "module." + name.replace(".weight", ".default.weight"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("names_base", [False, True])
def test_kept_adapter_is_written_without_wrapper_prefixes(
    llama: Path, tmp_path: Path, wrapper: str, names_base: bool
) -> None:
    source = write_adapter(tmp_path / "adapter", llama)
    plain = load_file(source / "adapter_model.safetensors")
    wrapped = {WRAPPERS[wrapper](name): tensor for name, tensor in plain.items()}
    assert wrapped.keys() != plain.keys()
    save_file(wrapped, source / "adapter_model.safetensors")
    convert(source, tmp_path / "adapter_only", keep_adapter=True, base=llama if names_base else None)
    assert are_equal(load_file(tmp_path / "adapter_only/adapter_model.safetensors"), plain)


def test_adapter_of_a_different_model_is_rejected(llama: Path, tmp_path: Path) -> None:
    save_hf_folder(hf_decoder(str(write_narrow_model(tmp_path))), tmp_path / "other")
    source = write_adapter(tmp_path / "adapter", llama)
    for keep_adapter in (False, True):
        with pytest.raises(
            ValueError,
            match=r"the adapter in .*adapter belongs to a different model: .*expected shape \[32, 3\]",
        ):
            convert(source, tmp_path / "converted", base=tmp_path / "other", keep_adapter=keep_adapter)
    assert not (tmp_path / "converted").exists()


def write_narrow_model(tmp_path: Path) -> Path:
    values = {**read_json(tmp_path / "base"), "hidden_size": 32}
    return write(tmp_path / "narrow", config__json=json.dumps(values))


def test_missing_base_is_reported(llama: Path, tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "adapter", llama, base_model_name_or_path="owner/model")
    with pytest.raises(
        FileNotFoundError,
        match=r"names the base model 'owner/model', which does not exist; set it with --base",
    ):
        convert(source, tmp_path / "converted")
    write_adapter(tmp_path / "nameless", llama, base_model_name_or_path=None)
    with pytest.raises(
        FileNotFoundError, match=r"adapter_config.json does not name a base model; set it with --base"
    ):
        convert(tmp_path / "nameless", tmp_path / "converted")
    with pytest.raises(
        ValueError, match=r"nameless is an adapter, not a base model; merge it into its base first"
    ):
        convert(source, tmp_path / "converted", base=tmp_path / "nameless")
    with pytest.raises(FileNotFoundError, match=r"none does not exist"):
        convert(source, tmp_path / "converted", base="none")


def test_error_for_a_run_folder_lists_its_weights(tmp_path: Path) -> None:
    for name in ("final", "best"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run/config.yaml").touch()
    names = f"{tmp_path / 'run/final'} or {tmp_path / 'run/best'}"
    with pytest.raises(ValueError, match=f"run is a run's folder, not a checkpoint; use .*, {names}$"):
        convert(tmp_path / "run", tmp_path / "converted")


@pytest.mark.parametrize("name", ["owner/name", "models/gpt2"])
def test_error_for_a_hub_name_suggests_the_download_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub_name = {"models/gpt2": "openai-community/gpt2"}.get(name, name)
    with pytest.raises(FileNotFoundError) as caught:
        convert(name, tmp_path / "converted")
    assert str(caught.value).startswith(f"{name} does not exist; ")
    assert (
        f"download it with `tune download {hub_name} --output-dir models/{hub_name.partition('/')[2]}`"
        in str(caught.value)
    )


def test_arguments_without_effect_are_rejected(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"base \(--base\) applies to adapters, but .*base is not one \(no adapter_config.json\)",
    ):
        convert(llama, tmp_path / "converted", base=llama)
    with pytest.raises(
        ValueError, match=r"keep_adapter \(--keep-adapter\) applies to adapters, but .*base is not one"
    ):
        convert(llama, tmp_path / "converted", keep_adapter=True)
    with pytest.raises(
        ValueError,
        match=r"keep_adapter \(--keep-adapter\) also keeps the adapter's tokenizer; remove tokenizer \(--tokenizer\)",
    ):
        convert(
            write_adapter(tmp_path / "adapter", llama),
            tmp_path / "converted",
            keep_adapter=True,
            tokenizer=llama,
        )
    with pytest.raises(ValueError, match=r"tiny.gguf contains a tokenizer; remove tokenizer \(--tokenizer\)"):
        convert(write_gguf(tmp_path / "tiny.gguf"), tmp_path / "converted", tokenizer=llama)
    assert not (tmp_path / "converted").exists()


def test_source_that_is_not_a_checkpoint_is_rejected(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is not a checkpoint; expected config.json .* \(PEFT\)$"):
        convert(tmp_path / "empty", tmp_path / "converted")
    write_gguf(tmp_path / "empty/tiny.gguf")
    with pytest.raises(ValueError, match=r"\(PEFT\); to convert a GGUF file in it, pass the file, tiny.gguf"):
        convert(tmp_path / "empty", tmp_path / "converted")
    with pytest.raises(
        ValueError, match=r"model.safetensors is not a GGUF file; .* pass the folder that contains them"
    ):
        convert(llama / "model.safetensors", tmp_path / "converted")
    (tmp_path / "empty/tiny.gguf").rename(tmp_path / "blob")
    convert(tmp_path / "blob", tmp_path / "converted")
    assert (tmp_path / "converted/tokenizer.json").is_file()


def test_source_is_never_overwritten(llama: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in llama.iterdir()}
    for target in (llama, llama / "..", llama / "../base"):
        with pytest.raises(ValueError, match=r"base would be overwritten by the target"):
            convert(llama, target)
    source = write_adapter(tmp_path / "adapter", llama)
    with pytest.raises(ValueError, match=r"base would be overwritten by the target"):
        convert(source, llama)
    with pytest.raises(FileExistsError, match="is not empty; remove it or choose another folder"):
        convert(llama, source)
    partial = tmp_path / "new.torchtune-partial"  # the temporary name of a folder that is being written
    llama.rename(partial)
    with pytest.raises(ValueError, match=r"new.torchtune-partial would be overwritten by the target"):
        convert(partial, tmp_path / "new")
    assert {llama / p.name: p.read_bytes() for p in partial.iterdir()} == before


def test_large_conversion_is_split_into_indexed_shards(llama: Path, tmp_path: Path) -> None:
    from torchtune.formats._checkpoint import write_checkpoint
    from torchtune.formats.hf._open import open_hf

    write_checkpoint(open_hf(llama), tmp_path / "converted", shard_bytes=30_000)
    index = read_json(tmp_path / "converted", "model.safetensors.index.json")
    files = sorted(path.name for path in (tmp_path / "converted").glob("*.safetensors"))
    assert len(files) > 3
    assert files == sorted(set(index["weight_map"].values()))
    shards = [load_file(tmp_path / "converted" / name) for name in files]
    assert are_equal({n: t for shard in shards for n, t in shard.items()}, read_tensors(llama))


def test_interrupted_merge_leaves_no_files(llama: Path, tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "adapter", llama)

    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "converted", progress=interrupt)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}
    steps: list[tuple[int, int]] = []
    convert(source, tmp_path / "converted", progress=lambda *step: steps.append(step))
    assert steps == [(i, 21) for i in range(1, 22)]
