"""GGUF files convert to equivalent Hugging Face folders."""

import json
import random
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import RopeScalingType
from safetensors.torch import load_file

from tests.formats.float64 import float64_transformers
from tests.formats.tiny_gguf import write_gguf
from tests.models.tiny import random_tokens, tiny_smollm2, tiny_tokenizer
from tests.tolerance import FLOAT64, assert_near
from torchtune.formats import convert, load_hf_weights
from torchtune.modules import Decoder
from torchtune.tokenizers import HFTokenizer


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.mark.parametrize("tied_embeddings", [False, True])
def test_weights_match_transformers_rounded_to_bfloat16(tmp_path: Path, *, tied_embeddings: bool) -> None:
    from transformers import AutoModelForCausalLM

    write_gguf(tmp_path / "tiny.gguf", tied_embeddings=tied_embeddings)
    convert(tmp_path / "tiny.gguf", tmp_path / "converted")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    weights = load_file(tmp_path / "converted" / "model.safetensors")
    expected = {name: weight.bfloat16() for name, weight in model.state_dict().items()}
    if tied_embeddings:
        del expected["lm_head.weight"]
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


def test_unquantized_weights_convert_to_rounded_bfloat16(gguf: Path, tmp_path: Path) -> None:
    convert(gguf, tmp_path / "converted")
    original = tiny_smollm2()
    model = Decoder(original.architecture)
    load_hf_weights(model, tmp_path / "converted")
    for name, weight in original.state_dict().items():
        converted = model.state_dict()[name].double()
        is_unquantized = not name.endswith(("q_proj.weight", "up_proj.weight", "embed_tokens.weight"))
        if is_unquantized:  # the file's rounding to float16 may change the last of bfloat16's 8 bits
            torch.testing.assert_close(converted, weight.float().bfloat16().double(), rtol=2**-7, atol=0)
        else:
            assert (converted - weight).norm() < 0.1 * weight.norm()


def test_transformers_computes_the_same_logits_from_the_converted_folder(gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    convert(gguf, tmp_path / "converted")
    assert AutoConfig.from_pretrained(tmp_path / "converted").dtype == torch.bfloat16
    with float64_transformers():
        transformers_model = AutoModelForCausalLM.from_pretrained(tmp_path / "converted", dtype=torch.float64)
        expected = transformers_model(random_tokens(2, 9)).logits
    model = Decoder(tiny_smollm2().architecture).double()
    load_hf_weights(model, tmp_path / "converted")
    assert_near(model(random_tokens(2, 9)), expected, FLOAT64)


def test_tokenizer_matches_the_original_and_transformers(gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    convert(gguf, tmp_path / "converted")
    tokenizer = HFTokenizer(str(tmp_path / "converted"))
    from_folder = AutoTokenizer.from_pretrained(tmp_path / "converted")
    from_gguf = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    for text in ("these words and\n\n  more", "größer 日本 🎉", "def f(x):\n\treturn x", "<|im_start|>user"):
        ids = tokenizer.encode_template(text)
        assert ids == from_gguf(text, add_special_tokens=False)["input_ids"]
        assert ids == from_folder(text, add_special_tokens=False)["input_ids"]
        assert ids == from_folder(text)["input_ids"], "the folder's tokenizer must not add tokens"
        assert tokenizer.decode(ids) == text.replace("<|im_start|>", "")
    for text in ("in 1234 and ½²", "a1b22"):
        assert tokenizer.encode(text, add_eos=False) == tiny_tokenizer().encode(text).ids
        assert from_folder(text)["input_ids"] == tiny_tokenizer().encode(text).ids
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (2, 0, None)
    assert tokenizer.stop_ids == frozenset({2})
    assert (from_folder.bos_token, from_folder.eos_token) == ("<|im_start|>", "<|im_end|>")
    messages = [{"role": "user", "content": "words"}]
    rendered = from_folder.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>user\nwords<|im_end|>\n<|im_start|>assistant\n"


def test_digits_are_split_even_if_the_vocabulary_has_longer_numbers(tmp_path: Path) -> None:
    model = json.loads(tiny_tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(pair) for pair in model["merges"]]
    ids = {}
    for pre in ("smollm", "gpt-2"):
        write_gguf(
            tmp_path / f"{pre}.gguf",
            tokenizer_pre=pre,
            token_list=[*tokens[:-1], "12"],
            token_merges=[*merges[:-1], "1 2"],
        )
        convert(tmp_path / f"{pre}.gguf", tmp_path / pre)
        ids[pre] = HFTokenizer(str(tmp_path / pre)).encode("a 12", add_eos=False)
    assert ids["smollm"] == [model["vocab"][token] for token in ("a", "Ġ", "1", "2")]
    assert ids["gpt-2"][-1] == len(tokens) - 1


def test_configs_list_the_stop_tokens(gguf: Path, tmp_path: Path) -> None:
    convert(gguf, tmp_path / "converted")
    for name in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / "converted" / name).read_text())
        assert (values["bos_token_id"], values["eos_token_id"], values["pad_token_id"]) == (1, 2, 0)
    write_gguf(tmp_path / "chat.gguf", eos_token_id=0, eot_token_id=2)
    convert(tmp_path / "chat.gguf", tmp_path / "chat")
    assert HFTokenizer(str(tmp_path / "chat")).stop_ids == frozenset({0, 2})
    # Only the chat template reveals the end-of-turn token.
    write_gguf(tmp_path / "template.gguf", eos_token_id=0)
    convert(tmp_path / "template.gguf", tmp_path / "template")
    assert HFTokenizer(str(tmp_path / "template")).stop_ids == frozenset({0, 2})


@pytest.mark.parametrize(
    ("pre", "add_bos", "has_bos"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("gpt-2", None, False), ("gpt-2", True, True)],
)
def test_bos_token_follows_the_file_or_the_llama_cpp_default(
    tmp_path: Path, *, pre: str, add_bos: bool | None, has_bos: bool
) -> None:
    from transformers import AutoTokenizer

    write_gguf(tmp_path / "tiny.gguf", tokenizer_pre=pre, add_bos_token=add_bos)
    convert(tmp_path / "tiny.gguf", tmp_path / "converted")
    assert HFTokenizer(str(tmp_path / "converted")).bos_id == (1 if has_bos else None)
    ids = AutoTokenizer.from_pretrained(tmp_path / "converted")("words")["input_ids"]
    assert ids[:1] == [1] if has_bos else 1 not in ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tokenizer_pre": "viking"},
            "the file's tokenizer has the unsupported kind 'gpt2' / 'viking'; expected",
        ),
        ({"tokenizer_model": "bert"}, "the file's tokenizer has the unsupported kind 'bert' / 'smollm'"),
        ({"tokenizer_model": "llama"}, "has no metadata key 'tokenizer.ggml.scores'"),
        ({"eos_token_id": None}, "declares no end-of-sequence token"),
        ({"eos_token_id": 300}, "its eos token has the id 300, but there are only 300 tokens"),
        ({"head_count": None}, "has no metadata key 'attention.head_count'"),
        ({"token_merges": ["a b c"]}, "has a merge that is not a pair"),
        ({"token_merges": ["Ġ nowhere"]}, "merges do not match its vocabulary"),
        ({"head_count": 3}, "num_kv_heads = 2 does not divide num_heads = 3"),
        (
            {"feed_forward_length": 128},
            r"blk.0.ffn_gate.weight has shape \[96, 64\], expected \[128, 64\]",
        ),
        ({"block_count": 3}, r"missing blk.2.attn_k.weight"),
        ({"block_count": 2**31}, "block_count is 2147483648, but there are only 20 tensors"),
        ({"embedding_length": 2**32 - 2}, "cannot be converted: "),
        ({"block_count": 1}, "unexpected blk.1.attn_k.weight, "),
        ({"rope_scaling_type": RopeScalingType.YARN}, "RoPE scaling 'yarn' is not supported"),
        ({"rope_dimension_count": 8}, "partial rotary embeddings are not supported"),
        ({"sliding_window": 8}, "sliding-window attention is not supported for architecture 'llama'"),
        ({"expert_count": 8}, "mixture-of-experts models are not supported"),
    ],
)
def test_unsupported_files_are_rejected(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_gguf(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(ValueError, match=f"tiny.gguf .*{message}"):
        convert(tmp_path / "tiny.gguf", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_sources_other_than_gguf_files_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match=r"model.gguf is not a GGUF file"):
        convert(tmp_path / "model.gguf", tmp_path / "converted")
    with pytest.raises(FileNotFoundError, match=r"missing.gguf does not exist"):
        convert(tmp_path / "missing.gguf", tmp_path / "converted")
    with pytest.raises(
        ValueError, match=r"is not a checkpoint; .*; to convert a GGUF file in it, pass the file, model.gguf"
    ):
        convert(tmp_path, tmp_path / "converted")


def test_nonempty_output_folder_is_rejected_before_any_work(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="is not empty; remove it or choose another folder"):
        convert(gguf, tmp_path, progress=lambda *_: pytest.fail("a tensor was read"))


def test_interrupted_conversion_completes_when_run_again(gguf: Path, tmp_path: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(gguf, tmp_path / "converted", progress=interrupt)
    assert not (tmp_path / "converted").exists()
    steps: list[tuple[int, int]] = []
    convert(gguf, tmp_path / "converted", progress=lambda *step: steps.append(step))
    assert steps == [(i, 20) for i in range(1, 21)]
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]


@pytest.mark.parametrize("max_file_size", [1_000, 50_000])
def test_full_disk_raises_and_leaves_no_files(gguf: Path, tmp_path: Path, max_file_size: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_size, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            convert(gguf, tmp_path / "converted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_truncated_file_raises_a_clear_error(gguf: Path, tmp_path: Path) -> None:
    contents, truncated = gguf.read_bytes(), tmp_path / "truncated.gguf"
    for length in [*range(0, 200, 3), *range(200, len(contents), 5003), len(contents) - 1]:
        truncated.write_bytes(contents[:length])
        with pytest.raises(ValueError, match=r"truncated.gguf (is not a GGUF file|is damaged or truncated)"):
            convert(truncated, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["truncated.gguf"]


def test_detected_damage_raises_a_clear_error(gguf: Path, tmp_path: Path) -> None:
    contents, broken = gguf.read_bytes(), tmp_path / "broken.gguf"
    rng, errors = random.Random(0), []
    for i in range(80):
        data = bytearray(contents)
        offset = rng.randrange(8_000)  # most metadata is at the beginning
        data[offset : offset + 8] = rng.randbytes(8)
        broken.write_bytes(data)
        try:
            convert(broken, tmp_path / f"converted-{i}")
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 30
    assert all("broken.gguf" in error for error in errors)
