"""Checkpoints of every kind become Hugging Face folders, adapters merged or kept separate."""

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

# PEFT asks transformers by an attribute that transformers 5.23 has renamed.
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
    "Phi3": {**LLAMA_LIKE, "original_max_position_embeddings": 64},  # several of our weights lie in one
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},  # weights lie the other way round
    "Gemma2": {**LLAMA_LIKE, "head_dim": 16},  # tied
}


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write a model of transformers in bfloat16, with its norms in float32 and a tokenizer."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(**FAMILIES[request.param], **SMALL)
    make: Any = transformers.AutoModelForCausalLM.from_config
    model = make(config).bfloat16()
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
    """Write a small model in bfloat16 with a tokenizer."""
    folder = tmp_path / "base"
    save_hf_folder(tiny_smollm2(tied_embeddings=False).bfloat16(), folder)
    return write(
        folder,
        tokenizer__json=tiny_tokenizer().to_str(),
        tokenizer_config__json=json.dumps(tokenizer_config()),
    )


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[n].dtype == t.dtype and torch.equal(found[n], t) for n, t in expected.items()
    )


def config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / name).read_text())
    return values


def adapter(folder: Path, base: Path, **changes: Any) -> Path:
    """Write an adapter of every linear layer of a base."""
    model = hf_decoder(str(base))
    add_lora(model, "all-linear", rank=3, alpha=5.0)
    for parameter in lora_state(model).values():
        parameter.normal_(std=0.1)
    save_peft_adapter(model, folder, base_model=str(base))
    if changes:
        write(folder, adapter_config__json=json.dumps({**config(folder, "adapter_config.json"), **changes}))
    return folder


def test_a_hugging_face_folder_comes_out_as_it_went_in(base: Path, tmp_path: Path) -> None:
    convert(base, tmp_path / "ours")
    assert same(tensors(tmp_path / "ours"), tensors(base))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (base / name).read_bytes()
    assert hf_decoder(str(tmp_path / "ours")).architecture == hf_decoder(str(base)).architecture
    found = config(tmp_path / "ours")
    assert (found["torch_dtype"], found["eos_token_id"]) == ("bfloat16", [2, 0])
    convert(tmp_path / "ours", tmp_path / "again")
    for file in (tmp_path / "ours").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


@pytest.mark.parametrize("shards", [1, 2])
def test_pickles_become_safetensors(llama: Path, tmp_path: Path, shards: int) -> None:
    expected = tensors(llama)
    (llama / "model.safetensors").unlink()
    if shards == 1:
        torch.save(expected, llama / "pytorch_model.bin")
    else:
        files = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(expected)}
        for file in set(files.values()):
            torch.save({n: t for n, t in expected.items() if files[n] == file}, llama / file)
        write(llama, pytorch_model__bin__index__json=json.dumps({"weight_map": files}))
    convert(llama, tmp_path / "ours")
    assert same(tensors(tmp_path / "ours"), expected)
    assert not list((tmp_path / "ours").glob("pytorch_model*"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_another_dtype_is_that_of_every_tensor(base: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    convert(base, tmp_path / "ours", dtype=dtype)
    assert same(tensors(tmp_path / "ours"), {name: t.to(dtype) for name, t in tensors(base).items()})
    assert config(tmp_path / "ours")["torch_dtype"] == str(dtype).removeprefix("torch.")


def test_what_float16_cannot_hold_is_refused(llama: Path, tmp_path: Path) -> None:
    found = tensors(llama)
    found["model.norm.weight"][3] = 70_000.0
    save_file(found, llama / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model.norm.weight of .*base has numbers that float16 cannot hold \(above"
    ):
        convert(llama, tmp_path / "ours", dtype=torch.float16)
    assert not (tmp_path / "ours").exists()


def test_quantised_weights_are_refused(llama: Path, tmp_path: Path) -> None:
    found = tensors(llama)
    found["model.layers.0.mlp.up_proj.weight"] = found["model.layers.0.mlp.up_proj.weight"].to(
        torch.float8_e4m3fn
    )
    save_file(found, llama / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"base holds a quantised model, by the dtype of model.layers.0.mlp.up_proj.weight"
    ):
        convert(llama, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_folder_without_a_tokenizer_stays_without_one_unless_one_is_named(
    llama: Path, tmp_path: Path
) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (llama / name).rename(tokenizer / name)
    convert(llama, tmp_path / "without")
    assert {path.name for path in (tmp_path / "without").iterdir()} == {"config.json", "model.safetensors"}
    for i, named in enumerate((tokenizer, tokenizer / "tokenizer.json")):
        convert(llama, tmp_path / f"with-{i}", tokenizer=named)
        assert (tmp_path / f"with-{i}/tokenizer.json").is_file()
        assert config(tmp_path / f"with-{i}")["eos_token_id"] == 2
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in .*: expected tokenizer.json, "):
        convert(tmp_path / "without", tmp_path / "ours", tokenizer=llama)


def special_ids(folder: Path, name: str = "config.json") -> list[Any]:
    values = config(folder, name)
    return [values.get(f"{key}_token_id", "absent") for key in ("bos", "eos", "pad")]


IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("own", "generation", "expected"),
    [
        ({}, {}, ["absent", "absent", "absent"]),
        (IDS, {}, [1, 2, 0]),
        (IDS, {"eos_token_id": 2, "temperature": 0.6}, [1, 2, 0]),
        (IDS, {"eos_token_id": [2, 7], "pad_token_id": None, "top_p": 0.9}, [1, [2, 7], 0]),
        ({**IDS, "bos_token_id": None}, {"bos_token_id": 5}, [5, 2, 0]),
        ({"eos_token_id": 2, "pad_token_id": None}, {"eos_token_id": []}, ["absent", 2, None]),
    ],
)
@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_ids_and_settings_of_the_source_stay(
    llama: Path,
    tmp_path: Path,
    own: dict[str, Any],
    generation: dict[str, Any],
    expected: list[Any],
    has_tokenizer: bool,
) -> None:
    write(llama, config__json=json.dumps({**config(llama), **own}))
    if generation:
        write(llama, generation_config__json=json.dumps(generation))
    if not has_tokenizer:
        (llama / "tokenizer.json").unlink()
    elif not own:
        expected = [None, 2, 0]  # the tokenizer's
    convert(llama, tmp_path / "ours")
    assert special_ids(tmp_path / "ours") == expected
    assert (tmp_path / "ours/generation_config.json").exists() == bool(generation)
    if generation:
        assert config(tmp_path / "ours", "generation_config.json") == generation


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (IDS, {}, [1, 2, 0]),
        ({**IDS, "eos_token_id": [2, 7]}, {}, [1, [2, 7], 0]),  # the end of a text and the end of a turn
        ({**IDS, "eos_token_id": [2, 7]}, {**IDS, "bos_token_id": 3}, [1, [2, 7], 0]),
        ({**IDS, "eos_token_id": 7, "pad_token_id": 5}, {}, [1, 2, 0]),
        (IDS, {"eos_token_id": [2, 9]}, [1, [2, 9], 0]),
        ({"eos_token_id": 2, "pad_token_id": None}, {}, [None, 2, 0]),
        ({}, {}, [None, 2, 0]),
    ],
)
@pytest.mark.parametrize("others_file", ["config.json", "generation_config.json"])
def test_a_tokenizer_from_elsewhere_changes_the_ids_that_are_its_alone(
    llama: Path,
    tmp_path: Path,
    own: dict[str, Any],
    others: dict[str, Any],
    expected: list[Any],
    others_file: str,
) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (llama / name).rename(tokenizer / name)
    settings = {**own, "temperature": 0.6, "top_p": 0.9}
    write(llama, config__json=json.dumps({**config(llama), **own}))
    write(llama, generation_config__json=json.dumps(settings))
    if others:
        write(tokenizer, **{others_file.replace(".", "__"): json.dumps({**others, "top_p": 0.1})})
    convert(llama, tmp_path / "ours", tokenizer=tokenizer)
    assert special_ids(tmp_path / "ours") == expected
    found = config(tmp_path / "ours", "generation_config.json")
    assert (found["temperature"], found["top_p"]) == (0.6, 0.9)
    assert found.get("eos_token_id") == expected[1]
    assert auto_tokenizer(str(tmp_path / "ours")).stop_ids >= {2}


def test_a_tokenizer_for_another_model_or_damaged_is_refused_before_weights_are_written(
    llama: Path, tmp_path: Path
) -> None:
    tokenizer = tmp_path / "tokenizer"
    large = tiny_tokenizer()
    large.add_tokens(["words words"])
    write(tokenizer, tokenizer__json=large.to_str(), tokenizer_config__json=json.dumps(tokenizer_config()))
    message = r"the tokenizer of .*tokenizer cannot be used: the tokenizer has 301 ids and the model's embedding 300"
    for named in (tokenizer, tokenizer / "tokenizer.json"):
        with pytest.raises(ValueError, match=message):
            convert(llama, tmp_path / "ours", tokenizer=named, progress=never)
    with pytest.raises(
        ValueError, match=r"base/config.json is not a tokenizer's file; expected tokenizer.json, "
    ):
        convert(llama, tmp_path / "ours", tokenizer=llama / "config.json", progress=never)
    idle = tiny_tokenizer()
    idle.add_special_tokens(["<image>"])
    write(tokenizer, tokenizer__json=idle.to_str())
    convert(llama, tmp_path / "idle", tokenizer=tokenizer)  # as Gemma 3's is
    write(llama, config__json=json.dumps({**config(llama), **IDS}), tokenizer__json="{")
    with pytest.raises(
        ValueError,
        match=r"the tokenizer of .*base cannot be used: .*base/tokenizer.json is not a tokenizer.json",
    ):
        convert(llama, tmp_path / "ours", progress=never)
    convert(llama, tmp_path / "repaired", tokenizer=tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "idle", "repaired", "tokenizer"]


def never(*_: int) -> None:
    pytest.fail("a tensor was read")


@pytest.mark.parametrize("kind", ["hugging face", "gguf", "meta", "meta without a tokenizer"])
def test_an_adapters_own_tokenizer_and_template_come_along(tmp_path: Path, kind: str) -> None:
    base = write_gguf(tmp_path / "tiny.gguf") if kind == "gguf" else tmp_path / "meta"
    if kind != "gguf":
        write_meta(base, LLAMA2)
    convert(base, tmp_path / "hf", dtype=torch.float32)
    if kind == "hugging face":
        base = tmp_path / "hf"
    source = adapter(tmp_path / "adapter", tmp_path / "hf")
    own = {
        "tokenizer.json": tiny_tokenizer().to_str(),
        "tokenizer_config.json": json.dumps({**tokenizer_config(), "chat_template": None}),
        "chat_template.jinja": "{{ messages[0].content }}<|im_end|>",
    }
    write(source, **{name.replace(".", "__"): text for name, text in own.items()})
    write(source, README__md="not to be copied")
    convert(source, tmp_path / "adapter_only", keep_adapter=True)
    if kind == "meta without a tokenizer":
        (base / "tokenizer.model").unlink()
    convert(source, tmp_path / "merged", base=base)
    for folder in (tmp_path / "adapter_only", tmp_path / "merged"):
        assert {name: (folder / name).read_text() for name in own} == own
        assert not (folder / "README.md").exists()
        assert not (folder / "tokenizer.model").exists()
    assert special_ids(tmp_path / "merged")[1] == 2
    assert auto_tokenizer(str(tmp_path / "merged")).stop_ids == {2}
    if kind == "hugging face":
        convert(source, tmp_path / "bases", base=base, tokenizer=base)
        assert (tmp_path / "bases/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
        assert not (tmp_path / "bases/chat_template.jinja").exists()


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_a_merged_adapter_is_merge_loras_to_the_bit(
    base: Path, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    convert(adapter(tmp_path / "adapter", base), tmp_path / "merged", dtype=dtype)
    model = hf_decoder(str(base)).to(dtype or torch.bfloat16)
    load_hf_weights(model, base)
    load_peft_adapter(model, tmp_path / "adapter")
    merge_lora(model)
    save_hf_folder(model, tmp_path / "expected", tokenizer_directory=base, base=base)
    norms = {} if dtype else {n: t for n, t in tensors(base).items() if t.dtype == torch.float32}
    assert same(tensors(tmp_path / "merged"), {**tensors(tmp_path / "expected"), **norms})
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    assert not same(tensors(tmp_path / "merged"), tensors(base))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_merged_adapter_is_pefts_up_to_rounding(tmp_path: Path, dtype: torch.dtype) -> None:
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
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).merge_and_unload()
    convert(tmp_path / "adapter", tmp_path / "merged", base=tmp_path / "base")
    expected = {n: t for n, t in theirs.state_dict().items() if n != "lm_head.weight"}
    merged = tensors(tmp_path / "merged")
    assert {tensor.dtype for tensor in merged.values()} == {dtype}
    # The product over up to five ranks is scaled and added to the weight.
    assert_near(merged, expected, bound(dtype, 5 + 2))


@pytest.mark.parametrize("kind", ["gguf", "meta"])
def test_the_base_of_an_adapter_may_be_of_any_kind(tmp_path: Path, kind: str) -> None:
    source = (
        write_gguf(tmp_path / "tiny.gguf") if kind == "gguf" else write_meta(tmp_path / "meta", LLAMA2, n=2)
    )
    convert(source, tmp_path / "base", dtype=torch.float32)
    adapter(tmp_path / "adapter", tmp_path / "base")
    convert(tmp_path / "adapter", tmp_path / "in_one", base=source, dtype=torch.float32)
    convert(tmp_path / "adapter", tmp_path / "in_two")
    found, expected = tensors(tmp_path / "in_one"), tensors(tmp_path / "in_two")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    # The checkpoint's float64 is rounded to float32 before the adapter is added, or after.
    assert_near(found, expected, 0 if kind == "gguf" else bound(torch.float32, 3 + 2))


def test_an_adapter_apart_stays_one(llama: Path, tmp_path: Path) -> None:
    source = adapter(tmp_path / "adapter", llama)
    whole = load_file(source / "adapter_model.safetensors")
    convert(source, tmp_path / "own", keep_adapter=True)
    assert same(load_file(tmp_path / "own/adapter_model.safetensors"), whole)
    assert config(tmp_path / "own", "adapter_config.json") == config(source, "adapter_config.json")
    torch.save(whole, source / "adapter_model.bin")
    (source / "adapter_model.safetensors").unlink()
    llama.rename(tmp_path / "moved")
    convert(source, tmp_path / "half", keep_adapter=True, base=tmp_path / "moved", dtype=torch.bfloat16)
    halves = {name: tensor.bfloat16() for name, tensor in whole.items()}
    assert same(load_file(tmp_path / "half/adapter_model.safetensors"), halves)
    found = config(tmp_path / "half", "adapter_config.json")
    assert found["base_model_name_or_path"] == str(tmp_path / "moved")
    model = Decoder(tiny_smollm2(tied_embeddings=False).architecture)
    load_peft_adapter(model, tmp_path / "half")
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
def test_an_adapter_apart_loses_the_prefixes_of_wrappers(
    llama: Path, tmp_path: Path, wrapper: str, names_base: bool
) -> None:
    source = adapter(tmp_path / "adapter", llama)
    plain = load_file(source / "adapter_model.safetensors")
    wrapped = {WRAPPERS[wrapper](name): tensor for name, tensor in plain.items()}
    assert wrapped.keys() != plain.keys()
    save_file(wrapped, source / "adapter_model.safetensors")
    convert(source, tmp_path / "adapter_only", keep_adapter=True, base=llama if names_base else None)
    assert same(load_file(tmp_path / "adapter_only/adapter_model.safetensors"), plain)


def test_an_adapter_of_another_model_is_refused(llama: Path, tmp_path: Path) -> None:
    save_hf_folder(hf_decoder(str(write_other(tmp_path))), tmp_path / "other")
    source = adapter(tmp_path / "adapter", llama)
    for keep_adapter in (False, True):
        with pytest.raises(
            ValueError, match=r"the adapter in .*adapter is another model's: .*should be \[32, 3\]"
        ):
            convert(source, tmp_path / "ours", base=tmp_path / "other", keep_adapter=keep_adapter)
    assert not (tmp_path / "ours").exists()


def write_other(tmp_path: Path) -> Path:
    values = {**config(tmp_path / "base"), "hidden_size": 32}
    return write(tmp_path / "narrow", config__json=json.dumps(values))


def test_a_base_that_is_not_here_is_named(llama: Path, tmp_path: Path) -> None:
    source = adapter(tmp_path / "adapter", llama, base_model_name_or_path="the/hubs")
    with pytest.raises(
        FileNotFoundError, match=r"its base is 'the/hubs', which is not here: name the base \(--base\)"
    ):
        convert(source, tmp_path / "ours")
    adapter(tmp_path / "nameless", llama, base_model_name_or_path=None)
    with pytest.raises(
        FileNotFoundError, match=r"adapter_config.json does not say what its base is: name the base"
    ):
        convert(tmp_path / "nameless", tmp_path / "ours")
    with pytest.raises(
        ValueError, match=r"nameless is an adapter, not a base; merge it into its own base first"
    ):
        convert(source, tmp_path / "ours", base=tmp_path / "nameless")
    with pytest.raises(FileNotFoundError, match=r"no file or folder none"):
        convert(source, tmp_path / "ours", base="none")


def test_a_runs_folder_is_answered_by_the_weights_in_it(tmp_path: Path) -> None:
    for name in ("final", "best"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run/config.yaml").touch()
    names = f"{tmp_path / 'run/final'} or {tmp_path / 'run/best'}"
    with pytest.raises(ValueError, match=f"run is a run's folder, not a checkpoint; name .*, {names}$"):
        convert(tmp_path / "run", tmp_path / "ours")


@pytest.mark.parametrize("name", ["owner/name", "models/gpt2"])
def test_a_source_that_may_be_on_the_hub_is_answered_by_the_command_that_fetches_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"models/gpt2": "openai-community/gpt2"}.get(name, name)
    with pytest.raises(FileNotFoundError) as caught:
        convert(name, tmp_path / "ours")
    assert str(caught.value).startswith(f"no file or folder {name}; ")
    assert f"download it with `tune download {known} --output-dir models/{known.partition('/')[2]}`" in str(
        caught.value
    )


def test_arguments_without_effect_are_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"base \(--base\) is for adapters, and .*base is not one \(no adapter_config.json\)"
    ):
        convert(llama, tmp_path / "ours", base=llama)
    with pytest.raises(
        ValueError, match=r"keep_adapter \(--keep-adapter\) is for adapters, and .*base is not one"
    ):
        convert(llama, tmp_path / "ours", keep_adapter=True)
    with pytest.raises(
        ValueError,
        match=r"keep_adapter \(--keep-adapter\) also keeps the adapter's tokenizer; leave out tokenizer \(--tokenizer\)",
    ):
        convert(adapter(tmp_path / "adapter", llama), tmp_path / "ours", keep_adapter=True, tokenizer=llama)
    with pytest.raises(
        ValueError, match=r"tiny.gguf brings a tokenizer of its own; leave tokenizer \(--tokenizer\) out"
    ):
        convert(write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ours", tokenizer=llama)
    assert not (tmp_path / "ours").exists()


def test_what_is_no_checkpoint_is_said_to_be_none(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"empty is no checkpoint: it holds neither config.json .* \(an adapter\)$"
    ):
        convert(tmp_path / "empty", tmp_path / "ours")
    write_gguf(tmp_path / "empty/tiny.gguf")
    with pytest.raises(ValueError, match=r"\(an adapter\); name a file in it, tiny.gguf"):
        convert(tmp_path / "empty", tmp_path / "ours")
    with pytest.raises(
        ValueError, match=r"model.safetensors is no GGUF file; .* name the folder that it lies in"
    ):
        convert(llama / "model.safetensors", tmp_path / "ours")
    (tmp_path / "empty/tiny.gguf").rename(tmp_path / "blob")
    convert(tmp_path / "blob", tmp_path / "ours")
    assert (tmp_path / "ours/tokenizer.json").is_file()


def test_no_source_is_overwritten(llama: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in llama.iterdir()}
    for target in (llama, llama / "..", llama / "../base"):
        with pytest.raises(ValueError, match=r"base is in the folder that is to be written"):
            convert(llama, target)
    source = adapter(tmp_path / "adapter", llama)
    with pytest.raises(ValueError, match=r"base is in the folder that is to be written"):
        convert(source, llama)
    with pytest.raises(FileExistsError, match="is not empty; remove it or choose another folder"):
        convert(llama, source)
    partial = tmp_path / "new.torchtune-partial"  # where a folder that is being written lies
    llama.rename(partial)
    with pytest.raises(ValueError, match=r"new.torchtune-partial is in the folder that is to be written"):
        convert(partial, tmp_path / "new")
    assert {llama / p.name: p.read_bytes() for p in partial.iterdir()} == before


def test_a_conversion_holds_one_file_of_weights_at_a_time(llama: Path, tmp_path: Path) -> None:
    from torchtune.formats._source import write_checkpoint
    from torchtune.formats.hf._open import open_hf

    write_checkpoint(open_hf(llama), tmp_path / "ours", shard_bytes=30_000)
    index = config(tmp_path / "ours", "model.safetensors.index.json")
    files = sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 3
    assert files == sorted(set(index["weight_map"].values()))
    parts = [load_file(tmp_path / "ours" / name) for name in files]
    assert same({n: t for part in parts for n, t in part.items()}, tensors(llama))


def test_an_interrupted_merge_leaves_nothing_behind(llama: Path, tmp_path: Path) -> None:
    source = adapter(tmp_path / "adapter", llama)

    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "ours", progress=interrupt)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}
    steps: list[tuple[int, int]] = []
    convert(source, tmp_path / "ours", progress=lambda *step: steps.append(step))
    assert steps == [(i, 21) for i in range(1, 22)]
