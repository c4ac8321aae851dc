"""Checkpoints in Meta's format convert to equivalent Hugging Face folders."""

import base64
import io
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from tests.formats.float64 import float64_transformers
from tests.formats.tiny_meta import (
    CODE_LLAMA,
    LLAMA2,
    LLAMA2_70B,
    LLAMA3,
    LLAMA3_1,
    VOCAB,
    reference_logits,
    tiny_state,
    write_meta,
)
from tests.models.tiny import TEXT
from tests.tokenizers.texts import SPECIAL_TEXTS, TEXTS
from tests.tolerance import FLOAT64, assert_near
from torchtune.formats import convert
from torchtune.formats.meta._params import read_params
from torchtune.models import llama2, llama3
from torchtune.tokenizers import HFTokenizer, SentencePieceTokenizer, auto_tokenizer


def tokens() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(VOCAB, (2, 40))


def read_json(folder: Path, name: str = "config.json") -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / name).read_text())
    return values


@pytest.mark.quick_cases(6)
@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize(
    ("params", "embedding_split_dim"),
    [(LLAMA2, 1), (LLAMA2_70B, 1), (CODE_LLAMA, 1), (LLAMA3, 0), (LLAMA3_1, 0)],
    ids=["llama2", "llama2-70b", "code-llama", "llama3", "llama3.1"],
)
def test_converted_folder_reproduces_meta_logits_in_transformers(
    tmp_path: Path, params: dict[str, Any], embedding_split_dim: int, n: int
) -> None:
    from transformers import AutoModelForCausalLM

    state = tiny_state(params)
    meta = write_meta(tmp_path / "meta", params, state, n, embedding_split_dim=embedding_split_dim)
    convert(meta, tmp_path / "converted")
    with float64_transformers():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "converted", attn_implementation="eager")
        assert model.dtype == torch.float64
        logits = model(tokens()).logits
    assert_near(logits, reference_logits(state, params, tokens()), FLOAT64)
    assert read_json(tmp_path / "converted")["tie_word_embeddings"] is False


def test_equal_embeddings_and_head_are_tied_and_imply_the_llama_3_2_rope_factor(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    state = tiny_state(LLAMA3_1, tied=True)
    convert(write_meta(tmp_path / "meta", LLAMA3_1, state), tmp_path / "converted")
    assert "lm_head.weight" not in load_file(tmp_path / "converted/model.safetensors")
    config = read_json(tmp_path / "converted")
    assert (config["tie_word_embeddings"], config["rope_scaling"]["factor"]) == (True, 32.0)
    with float64_transformers():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "converted", attn_implementation="eager")
        logits = model(tokens()).logits
    assert_near(logits, reference_logits(state, LLAMA3_1, tokens(), 32.0), FLOAT64)
    assert (logits - reference_logits(state, LLAMA3_1, tokens(), 8.0)).abs().max() > 1e-4


def test_weights_keep_their_dtype_and_bits_unless_dtype_is_set(tmp_path: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in tiny_state(LLAMA2).items()}
    write_meta(tmp_path / "meta", LLAMA2, state, 2)
    convert(tmp_path / "meta", tmp_path / "bfloat16")
    weights = load_file(tmp_path / "bfloat16/model.safetensors")
    assert torch.equal(
        weights["model.layers.1.mlp.down_proj.weight"], state["layers.1.feed_forward.w2.weight"]
    )
    expected = state["layers.0.attention.wk.weight"].view(4, 8, 2, 64)  # [h, head_dim / 2, 2, d]
    expected = torch.cat([expected[:, :, 0], expected[:, :, 1]], dim=1).flatten(0, 1)
    assert torch.equal(weights["model.layers.0.self_attn.k_proj.weight"], expected)
    assert read_json(tmp_path / "bfloat16")["torch_dtype"] == "bfloat16"
    convert(tmp_path / "meta", tmp_path / "float32", dtype=torch.float32)
    float32_weights = load_file(tmp_path / "float32/model.safetensors")
    assert weights.keys() == float32_weights.keys()
    assert all(torch.equal(float32_weights[name], weights[name].float()) for name in weights)
    assert read_json(tmp_path / "float32")["torch_dtype"] == "float32"


LLAMA2_7B = """{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-05, "vocab_size": -1}"""
LLAMA2_13B = """{"dim": 5120, "multiple_of": 256, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-05, "vocab_size": -1}"""
LLAMA2_70B_JSON = """{"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8,
    "n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1}"""
CODE_LLAMA_7B = """{"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256, "ffn_dim_multiplier": 1.0,
    "norm_eps": 1e-5, "rope_theta": 1000000}"""
LLAMA3_8B = """{"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024,
    "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0}"""
LLAMA3_70B = """{"dim": 8192, "ffn_dim_multiplier": 1.3, "multiple_of": 4096, "n_heads": 64, "n_kv_heads": 8,
    "n_layers": 80, "norm_eps": 1e-05, "vocab_size": 128256, "rope_theta": 500000.0}"""
LLAMA3_1_405B = """{"dim": 16384, "n_layers": 126, "n_heads": 128, "n_kv_heads": 8, "vocab_size": 128256,
    "ffn_dim_multiplier": 1.2, "multiple_of": 4096, "norm_eps": 1e-05, "rope_theta": 500000.0,
    "use_scaled_rope": true}"""
LLAMA3_2_1B = """{"dim": 2048, "ffn_dim_multiplier": 1.5, "multiple_of": 256, "n_heads": 32, "n_kv_heads": 8,
    "n_layers": 16, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": true, "vocab_size": 128256}"""
LLAMA3_2_3B = """{"dim": 3072, "ffn_dim_multiplier": 1.0, "multiple_of": 256, "n_heads": 24, "n_kv_heads": 8,
    "n_layers": 28, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": true, "vocab_size": 128256}"""


@pytest.mark.parametrize(
    ("builder", "text"),
    [
        (llama2.llama2_7b, LLAMA2_7B),
        (llama2.llama2_13b, LLAMA2_13B),
        (llama2.llama2_70b, LLAMA2_70B_JSON),
        (llama2.code_llama_7b, CODE_LLAMA_7B),
        (llama3.llama3_8b, LLAMA3_8B),
        (llama3.llama3_70b, LLAMA3_70B),
        (llama3.llama3_1_405b, LLAMA3_1_405B),
        (llama3.llama3_2_1b, LLAMA3_2_1B),
        (llama3.llama3_2_3b, LLAMA3_2_3B),
    ],
)
def test_published_params_match_model_builders(tmp_path: Path, builder: Any, text: str) -> None:
    with torch.device("meta"):
        expected = builder().architecture
    (tmp_path / "params.json").write_text(text)
    params = read_params(tmp_path)
    vocab_size = params.vocab_size or expected.vocab_size
    assert params.architecture(vocab_size, tied_embeddings=expected.tied_embeddings) == expected


def test_llama_2_tokenizer_converts_for_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    convert(write_meta(tmp_path / "meta", LLAMA2), tmp_path / "converted")
    backend = SentencePieceProcessor(model_file=str(tmp_path / "meta/tokenizer.model"))
    reference = AutoTokenizer.from_pretrained(tmp_path / "converted")
    tokenizer = auto_tokenizer(str(tmp_path / "converted"))
    assert isinstance(tokenizer, HFTokenizer)
    for text in TEXTS:
        assert reference(text)["input_ids"] == [1, *backend.encode(text)]
        assert tokenizer.encode(text, add_eos=False) == [1, *backend.encode(text)]
    source_tokenizer = SentencePieceTokenizer(str(tmp_path / "meta"))
    for text in ("<s>these words</s><s>of them", "</s> these", *SPECIAL_TEXTS):
        assert tokenizer.encode(text) == source_tokenizer.encode(text)
    for text in ("<s>these words</s><s>of them</s>", *SPECIAL_TEXTS):
        assert reference.encode(text, add_special_tokens=False) == source_tokenizer.encode_template(text)
        assert tokenizer.encode_template(text) == source_tokenizer.encode_template(text)
    assert (reference.bos_token, reference.eos_token, reference.unk_token) == ("<s>", "</s>", "<unk>")
    for name in ("config.json", "generation_config.json"):
        values = read_json(tmp_path / "converted", name)
        assert (values["bos_token_id"], values["eos_token_id"]) == (1, 2)


def test_normalizing_tokenizer_is_copied_without_a_tokenizer_json(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "meta", LLAMA2)
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 10), model_writer=model, vocab_size=35, minloglevel=2
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    convert(folder, tmp_path / "converted")
    assert not (tmp_path / "converted/tokenizer.json").exists()
    assert read_json(tmp_path / "converted", "tokenizer_config.json")["tokenizer_class"] == "LlamaTokenizer"
    assert isinstance(auto_tokenizer(str(tmp_path / "converted")), SentencePieceTokenizer)


def test_tokenizer_may_be_in_a_different_folder(tmp_path: Path) -> None:
    write_meta(tmp_path / "meta", LLAMA2)
    moved = tmp_path / "tokenizer.model"
    (tmp_path / "meta/tokenizer.model").rename(moved)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.model in .*meta; pass the model's"):
        convert(tmp_path / "meta", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
    convert(tmp_path / "meta", tmp_path / "by_file", tokenizer=moved)
    convert(tmp_path / "meta", tmp_path / "by_folder", tokenizer=tmp_path)
    for name in ("by_file", "by_folder"):
        assert (tmp_path / name / "tokenizer.model").read_bytes() == moved.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moe": {"num_experts": 8}}, "moe is not supported; expected an unquantized text model of Llama 2"),
        ({"quantization_args": {"scheme": "int4"}, "lora_args": {}}, "lora_args, quantization_args are not"),
        ({"vision_chunk_size": 448}, "vision_chunk_size is not supported"),
        ({"n_heads": None}, "has no n_heads; download it again"),
        ({"dim": None, "norm_eps": None}, "has no dim, norm_eps"),
        ({"dim": "64"}, "dim is '64'; expected a whole number above 0 and below"),
        ({"n_layers": 0}, "n_layers is 0; expected a whole number above 0"),
        ({"norm_eps": True}, "norm_eps is True; expected a number above 0"),
        ({"use_scaled_rope": "yes"}, "use_scaled_rope is 'yes'; expected true or false"),
        ({"n_heads": 6}, "dim = 64 is not a multiple of n_heads = 6"),
        ({"n_heads": 64}, "head_dim = 1 is odd"),
        ({"n_kv_heads": 3}, "num_kv_heads = 3 does not divide num_heads = 4"),
        (
            {"multiple_of": 10**30},
            r"multiple_of is 10+; expected a whole number above 0 and below 2\*\*31",
        ),
        (
            {"ffn_dim_multiplier": 1e300},
            r"ffn_dim_multiplier is 1e\+300; expected a number above 0 and below",
        ),
        (
            {"ffn_dim_multiplier": 2.0**30},
            "result in a feed-forward width of 182,536,110,080, which is too large; the file is damaged",
        ),
        ({"dim": 2**30, "multiple_of": 2**30, "n_heads": 2}, ""),
        ({"norm_eps": float("inf")}, "norm_eps is inf; expected a number above 0 and below"),
        ({"norm_eps": float("nan")}, "norm_eps is nan; expected a number above 0"),
        (
            {"rope_theta": float("inf"), "use_scaled_rope": True},
            "rope_theta is inf; expected a number above 0",
        ),
        (
            {"rope_theta": 123.0},
            "rope_theta is 123.0, for which .* is unknown; expected one of 10,000, 500,000, 1,000,000",
        ),
    ],
)
def test_invalid_and_unsupported_params_are_rejected(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_meta(tmp_path / "meta", {**LLAMA2, **change}, tiny_state(LLAMA2), 1)
    with pytest.raises(ValueError, match=rf"meta/params.json:? .*{message}|meta/params.json: {message}"):
        convert(tmp_path / "meta", tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["meta"]


def _edit_shard(folder: Path, i: int, change: Any) -> None:
    path = folder / f"consolidated.{i:02}.pth"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def _remove(name: str) -> Any:
    return lambda state: state.pop(name)


def _set(name: str, *shape: int) -> Any:
    return lambda state: state.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("i", "change", "message"),
    [
        (
            1,
            _remove("norm.weight"),
            r"consolidated.01.pth has no norm.weight, which the other files contain",
        ),
        (0, _remove("output.weight"), r"consolidated.00.pth has no output.weight, which the other files"),
        (
            1,
            _set("layers.0.attention.wo.weight", 64, 31),
            r"wo.weight has shape \[64, 31\] in .*01.pth and \[64, 32\] in",
        ),
        (
            0,
            _set("tok_embeddings.weight", 320, 30),
            r"tok_embeddings.weight has shape \[320, 30\] in .*00.pth; expected 64 columns",
        ),
        (
            0,
            _set("layers.0.attention.wq.weight", 16, 64),
            r"no consolidated.02.pth in .*: .*00.pth is 1 of 4 files, but",
        ),
        (
            0,
            _set("layers.0.attention.wq.weight", 64, 64),
            r"has 2 files, but .* shows that consolidated.00.pth is 1 of 1;",
        ),
    ],
)
def test_inconsistent_shards_are_rejected(tmp_path: Path, i: int, change: Any, message: str) -> None:
    folder = write_meta(tmp_path / "meta", LLAMA2, n=2)
    _edit_shard(folder, i, change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert(folder, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["meta"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove("layers.1.ffn_norm.weight"), "missing layers.1.ffn_norm.weight"),
        (_remove("output.weight"), "missing output.weight"),
        (_remove("tok_embeddings.weight"), "contains tok_embeddings.weight; download the checkpoint again"),
        (_set("layers.1.attention.bq.bias", 64), "unexpected layers.1.attention.bq.bias"),
        (_set("layers.2.ffn_norm.weight", 64), "unexpected layers.2.ffn_norm.weight"),
        (
            _set("layers.0.feed_forward.w1.weight", 200, 64),
            r"w1.weight has shape \[200, 64\], expected \[192, 64\]",
        ),
        (
            _set("layers.0.attention.wq.weight", 96, 64),
            r"wq.weight has shape \[96, 64\], expected \[64, 64\]",
        ),
        (_set("layers.0.attention.wq.weight"), r"wq.weight has shape \[\], expected \[64, 64\]"),
        (_set("layers.0.attention.wv.weight"), r"wv.weight has shape \[\], expected \[64, 64\]"),
        (_set("layers.0.attention.wo.weight", 64), r"wo.weight has shape \[64\], expected \[64, 64\]"),
        (_set("norm.weight", 65), r"norm.weight has shape \[65\], expected \[64\]"),
        (
            _set("layers.0.attention.wk.weight", 32, 64),
            r"wk.weight has shape \[32, 64\], expected \[64, 64\]",
        ),
        (
            lambda state: state.update({"norm.weight": torch.ones(64).int()}),
            "quantized model, according to the dtype of norm.weight",
        ),
    ],
)
def test_missing_unexpected_and_wrongly_shaped_tensors_are_rejected(
    tmp_path: Path, change: Any, message: str
) -> None:
    folder = write_meta(tmp_path / "meta", LLAMA2)
    _edit_shard(folder, 0, change)
    with pytest.raises(ValueError, match=f"meta.*{message}"):
        convert(folder, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["meta"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("params.json", "no params.json in .*meta; expected it next to"),
        ("consolidated.00.pth", "no consolidated.00.pth in .*meta; download it"),
        ("consolidated.02.pth", "no consolidated.02.pth in .*meta; download it"),
        (
            "consolidated.03.pth",
            "no consolidated.03.pth in .*meta: .* is 1 of 4 files, but the folder has 3; download the missing",
        ),
        ("tokenizer.model", "no tokenizer.model in .*meta"),
    ],
)
def test_missing_files_are_reported(tmp_path: Path, name: str, message: str) -> None:
    folder = write_meta(tmp_path / "meta", LLAMA2, n=4)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        convert(folder, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["meta"]


def test_meta_weights_are_recognized_without_params(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "meta", LLAMA2)
    (folder / "params.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no params.json in .*meta; expected it next to"):
        convert(folder, tmp_path / "converted")


class HostilePickle:
    """An object that creates a folder when it is unpickled, as a hostile checkpoint could."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.trace,)


def test_damaged_files_and_pickled_code_are_rejected(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "meta", LLAMA2)
    path = folder / "consolidated.00.pth"
    contents = path.read_bytes()
    torch.save({"norm.weight": HostilePickle(str(tmp_path / "trace"))}, path)
    with pytest.raises(ValueError, match=r"consolidated.00.pth also contains posix.mkdir, which may be code"):
        convert(folder, tmp_path / "converted")
    assert not (tmp_path / "trace").exists()
    for length in (0, 100, len(contents) // 2, len(contents) - 1):
        path.write_bytes(contents[:length])
        with pytest.raises(ValueError, match=r"consolidated.00.pth is damaged, or contains objects"):
            convert(folder, tmp_path / "converted")
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="is not a checkpoint; expected a dict of tensors by name"):
        convert(folder, tmp_path / "converted")
    path.write_bytes(contents)
    (folder / "params.json").write_text("{")
    with pytest.raises(ValueError, match=r"params.json is not valid JSON"):
        convert(folder, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["meta"]


def test_shards_with_conflicting_key_value_heads_are_rejected(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "meta", LLAMA2_70B, n=4)
    _edit_shard(folder, 3, lambda state: state["layers.1.attention.wk.weight"].zero_())
    with pytest.raises(
        ValueError, match=r"layers.1.attention.wk.weight in .*consolidated.03.pth differs from"
    ):
        convert(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_excessive_layer_count_is_rejected_immediately(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "meta", LLAMA2)
    (folder / "params.json").write_text(json.dumps({**LLAMA2, "n_layers": 2**30}))
    with pytest.raises(
        ValueError, match=r"n_layers is 1073741824, which does not match the 21 tensors of the weight files"
    ):
        convert(folder, tmp_path / "converted")


def test_damaged_or_oversized_tokenizer_is_rejected(tmp_path: Path) -> None:
    state = tiny_state(LLAMA2)
    state |= {name: state[name][:290] for name in ("tok_embeddings.weight", "output.weight")}
    folder = write_meta(tmp_path / "meta", LLAMA2, state)
    with pytest.raises(
        ValueError,
        match=r"tokenizer of .*meta cannot be used: .* has 3\d\d ids, but the model's embedding has 290",
    ):
        convert(folder, tmp_path / "converted")
    (folder / "tokenizer.model").write_bytes(b"\x0adamaged")
    with pytest.raises(ValueError, match="is not a SentencePiece model, or is damaged; download it again"):
        convert(folder, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["meta"]


@pytest.mark.slow
def test_llama_3_tokenizer_converts_to_a_tokenizer_json(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    params = {**LLAMA3_1, "vocab_size": 128_256, "dim": 16, "n_heads": 2, "n_kv_heads": 1, "n_layers": 1}
    state = tiny_state({**params}, vocab_size=128_256)
    folder = write_meta(tmp_path / "meta", params, {k: v.bfloat16() for k, v in state.items()})
    longer_tokens = itertools.chain.from_iterable(
        itertools.product(range(97, 123), repeat=n) for n in (2, 3, 4)
    )
    vocabulary = itertools.islice(itertools.chain(([b] for b in range(256)), longer_tokens), 128_000)
    lines = [b"%s %d\n" % (base64.b64encode(bytes(token)), i) for i, token in enumerate(vocabulary)]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))
    convert(folder, tmp_path / "converted")
    reference = AutoTokenizer.from_pretrained(tmp_path / "converted")
    tokenizer = auto_tokenizer(str(tmp_path / "converted"))
    assert reference("hello 12")["input_ids"] == tokenizer.encode("hello 12", add_eos=False)
    config = read_json(tmp_path / "converted")
    assert (config["bos_token_id"], config["eos_token_id"]) == (128_000, [128_001, 128_008, 128_009])
    (folder / "tokenizer.model").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(ValueError, match="has 127,999 tokens, but Llama 3's has 128,000"):
        convert(folder, tmp_path / "truncated")
