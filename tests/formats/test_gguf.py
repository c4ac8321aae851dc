"""GGUF files become Hugging Face folders that mean the same."""

import json
import random
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import RopeScalingType
from safetensors.torch import load_file

from tests.formats.exact import lifted
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
def test_weights_equal_those_transformers_reads_rounded_to_bfloat16(
    tmp_path: Path, *, tied_embeddings: bool
) -> None:
    from transformers import AutoModelForCausalLM

    write_gguf(tmp_path / "tiny.gguf", tied_embeddings=tied_embeddings)
    convert(tmp_path / "tiny.gguf", tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    expected = {name: weight.bfloat16() for name, weight in theirs.state_dict().items()}
    if tied_embeddings:
        del expected["lm_head.weight"]
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_what_was_not_quantised_comes_back_rounded_to_bfloat16(gguf: Path, tmp_path: Path) -> None:
    convert(gguf, tmp_path / "ours")
    original = tiny_smollm2()
    model = Decoder(original.architecture)
    load_hf_weights(model, tmp_path / "ours")
    for name, weight in original.state_dict().items():
        found = model.state_dict()[name].double()
        exact = not name.endswith(("q_proj.weight", "up_proj.weight", "embed_tokens.weight"))
        if exact:  # rounded once, or to float16 before, which may turn the last of bfloat16's 8 bits
            torch.testing.assert_close(found, weight.float().bfloat16().double(), rtol=2**-7, atol=0)
        else:
            assert (found - weight).norm() < 0.1 * weight.norm()


def test_transformers_loads_the_folder_with_our_logits(gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    convert(gguf, tmp_path / "ours")
    assert AutoConfig.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16
    with lifted():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float64)
        expected = theirs(random_tokens(2, 9)).logits
    model = Decoder(tiny_smollm2().architecture).double()
    load_hf_weights(model, tmp_path / "ours")
    assert_near(model(random_tokens(2, 9)), expected, FLOAT64)


def test_the_tokenizer_equals_transformers_reading_and_the_original(gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    convert(gguf, tmp_path / "ours")
    ours = HFTokenizer(str(tmp_path / "ours"))
    from_folder = AutoTokenizer.from_pretrained(tmp_path / "ours")
    from_gguf = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    for text in ("these words and\n\n  more", "größer 日本 🎉", "def f(x):\n\treturn x", "<|im_start|>user"):
        ids = ours.encode_template(text)
        assert ids == from_gguf(text, add_special_tokens=False)["input_ids"]
        assert ids == from_folder(text, add_special_tokens=False)["input_ids"]
        assert ids == from_folder(text)["input_ids"], "the folder's tokenizer adds nothing"
        assert ours.decode(ids) == text.replace("<|im_start|>", "")
    for text in ("in 1234 and ½²", "a1b22"):
        assert ours.encode(text, add_eos=False) == tiny_tokenizer().encode(text).ids
        assert from_folder(text)["input_ids"] == tiny_tokenizer().encode(text).ids
    assert (ours.eos_id, ours.pad_id, ours.bos_id, ours.stop_ids) == (2, 0, None, frozenset({2}))
    assert (from_folder.bos_token, from_folder.eos_token) == ("<|im_start|>", "<|im_end|>")
    messages = [{"role": "user", "content": "words"}]
    rendered = from_folder.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>user\nwords<|im_end|>\n<|im_start|>assistant\n"


def test_digits_are_split_singly_even_where_the_vocabulary_has_longer_numbers(tmp_path: Path) -> None:
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


def test_configs_name_what_the_model_stops_at(gguf: Path, tmp_path: Path) -> None:
    convert(gguf, tmp_path / "ours")
    for name in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / "ours" / name).read_text())
        assert (values["bos_token_id"], values["eos_token_id"], values["pad_token_id"]) == (1, 2, 0)
    write_gguf(tmp_path / "chat.gguf", eos_token_id=0, eot_token_id=2)
    convert(tmp_path / "chat.gguf", tmp_path / "chat")
    assert HFTokenizer(str(tmp_path / "chat")).stop_ids == frozenset({0, 2})
    write_gguf(tmp_path / "unsaid.gguf", eos_token_id=0)  # the template alone tells what ends a turn
    convert(tmp_path / "unsaid.gguf", tmp_path / "unsaid")
    assert HFTokenizer(str(tmp_path / "unsaid")).stop_ids == frozenset({0, 2})


@pytest.mark.parametrize(
    ("pre", "said", "begins"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("gpt-2", None, False), ("gpt-2", True, True)],
)
def test_texts_begin_as_the_file_says_or_as_llama_cpp_takes_it(
    tmp_path: Path, *, pre: str, said: bool | None, begins: bool
) -> None:
    from transformers import AutoTokenizer

    write_gguf(tmp_path / "tiny.gguf", tokenizer_pre=pre, add_bos_token=said)
    convert(tmp_path / "tiny.gguf", tmp_path / "ours")
    assert HFTokenizer(str(tmp_path / "ours")).bos_id == (1 if begins else None)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")("words")["input_ids"]
    assert theirs[:1] == [1] if begins else 1 not in theirs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tokenizer_pre": "viking"},
            "its tokenizer has the unsupported kind 'gpt2' / 'viking'; supported are",
        ),
        ({"tokenizer_model": "bert"}, "its tokenizer has the unsupported kind 'bert' / 'smollm'"),
        ({"tokenizer_model": "llama"}, "has no 'tokenizer.ggml.scores' in its metadata"),
        ({"eos_token_id": None}, "declares no end-of-sequence token"),
        ({"eos_token_id": 300}, "its eos token has the id 300, but there are only 300 tokens"),
        ({"head_count": None}, "has no 'attention.head_count' in its metadata"),
        ({"token_merges": ["a b c"]}, "has a merge that is not a pair"),
        ({"token_merges": ["Ġ nowhere"]}, "merges do not fit its tokens"),
        ({"head_count": 3}, "num_kv_heads = 2 does not divide num_heads = 3"),
        (
            {"feed_forward_length": 128},
            r"blk.0.ffn_gate.weight is \[96, 64\] there, \[128, 64\] in the model",
        ),
        ({"block_count": 3}, r"without blk.2.attn_k.weight"),
        ({"block_count": 2**31}, "speaks of 2147483648 layers and has 20 tensors"),
        ({"embedding_length": 2**32 - 2}, "cannot be converted: "),
        ({"block_count": 1}, "with blk.1.attn_k.weight, .* unknown to the model"),
        ({"rope_scaling_type": RopeScalingType.YARN}, "rotary embeddings scaled by 'yarn' are not supported"),
        ({"rope_dimension_count": 8}, "rotary embeddings of a part of each head are not supported"),
        ({"sliding_window": 8}, "sliding windows are not supported in the architecture 'llama'"),
        ({"expert_count": 8}, "mixtures of experts are not supported"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_gguf(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(ValueError, match=f"tiny.gguf .*{message}"):
        convert(tmp_path / "tiny.gguf", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_other_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match=r"model.gguf is not a GGUF file"):
        convert(tmp_path / "model.gguf", tmp_path / "ours")
    with pytest.raises(FileNotFoundError, match=r"no file .*missing.gguf"):
        convert(tmp_path / "missing.gguf", tmp_path / "ours")
    with pytest.raises(ValueError, match=r"is no checkpoint: .*; name a file in it, model.gguf"):
        convert(tmp_path, tmp_path / "ours")


def test_a_folder_in_use_is_refused_before_any_work(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="is not empty; remove it or choose another folder"):
        convert(gguf, tmp_path, progress=lambda *_: pytest.fail("a tensor was read"))


def test_an_interrupted_conversion_completes_when_run_again(gguf: Path, tmp_path: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(gguf, tmp_path / "ours", progress=interrupt)
    assert not (tmp_path / "ours").exists()
    steps: list[tuple[int, int]] = []
    convert(gguf, tmp_path / "ours", progress=lambda *step: steps.append(step))
    assert steps == [(i, 20) for i in range(1, 21)]
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize("room", [1_000, 50_000])
def test_too_little_room_is_an_error_that_leaves_nothing_behind(
    gguf: Path, tmp_path: Path, room: int
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            convert(gguf, tmp_path / "ours")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_anywhere_is_one_clear_error(gguf: Path, tmp_path: Path) -> None:
    whole, cut = gguf.read_bytes(), tmp_path / "cut.gguf"
    for length in [*range(0, 200, 3), *range(200, len(whole), 5003), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut.gguf (is not a GGUF file|is damaged or cut short)"):
            convert(cut, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]


def test_a_damaged_file_is_a_clear_error_if_it_is_found_out(gguf: Path, tmp_path: Path) -> None:
    whole, broken = gguf.read_bytes(), tmp_path / "broken.gguf"
    draw, errors = random.Random(0), []
    for i in range(80):
        data = bytearray(whole)
        at = draw.randrange(8_000)  # Most of what could confuse stands in the beginning.
        data[at : at + 8] = draw.randbytes(8)
        broken.write_bytes(data)
        try:
            convert(broken, tmp_path / f"ours-{i}")
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 30
    assert all("broken.gguf" in error for error in errors)
