"""Tokenizers loaded from vocab.json and merges.txt are compared with transformers' classes."""

import importlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from tests.models.tiny import TEXT, write
from tests.tokenizers.kinds import set_config, write_bpe, write_hf
from tests.tokenizers.texts import SPECIAL_TEXTS, TEXTS
from torchtune.data import Tokenizer
from torchtune.models.gpt2 import gpt2_tokenizer
from torchtune.models.olmo2 import olmo2_tokenizer
from torchtune.models.phi3 import phi3_tokenizer
from torchtune.models.qwen2 import qwen2_tokenizer
from torchtune.models.qwen3 import qwen3_tokenizer
from torchtune.models.smollm2 import smollm2_tokenizer
from torchtune.tokenizers import BPETokenizer, HFTokenizer, auto_tokenizer
from torchtune.tokenizers._bpe import CLASSES, MODEL_TYPES

END = "<|endoftext|>"
RARE = "e\u0301le\u0300ve \u212b \uff46\uff55\uff4c\uff4c I'LL he'll THEY'VE 1234567 a1b2 \u00a0x /to//x\r\n\r\n  \n y"
ALL = [*TEXTS, *SPECIAL_TEXTS, RARE, TEXT, f"a{END}b {END} c"]


@pytest.fixture(scope="module")
def two_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a vocabulary on all texts, so that different splits produce different tokens."""
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator(
        ALL * 3, vocab_size=900, min_frequency=1, special_tokens=[], show_progress=False
    )
    folder = tmp_path_factory.mktemp("two")
    backend.save_model(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary |= {END: len(vocabulary), "<|padding|>": len(vocabulary) + 1}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


def copy(source: Path, target: Path, **config: Any) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(source / name, target / name)
    return set_config(target, **config) if config else target


def reference_tokenizer(name: str, folder: Path) -> Any:
    return getattr(importlib.import_module("transformers"), name).from_pretrained(folder)


@pytest.mark.parametrize("name", CLASSES)
def test_ids_match_the_transformers_class(name: str, two_files: Path, tmp_path: Path) -> None:
    folder = copy(two_files, tmp_path, tokenizer_class=name)
    tokenizer, reference = auto_tokenizer(str(folder)), reference_tokenizer(name, folder)
    assert isinstance(tokenizer, BPETokenizer)
    assert isinstance(tokenizer, Tokenizer)
    for text in ALL:
        assert tokenizer.encode_template(text) == reference(text, add_special_tokens=False)["input_ids"], text
        reference._tokenizer.encode_special_tokens = True
        assert tokenizer.encode(text, add_bos=False, add_eos=False) == reference._tokenizer.encode(text).ids
        reference._tokenizer.encode_special_tokens = False
        assert tokenizer.decode(tokenizer.encode(text)) == reference.decode(
            tokenizer.encode(text), skip_special_tokens=True
        )
    assert tokenizer.eos_id == reference.eos_token_id
    assert tokenizer.pad_id == (
        reference.eos_token_id if reference.pad_token_id is None else reference.pad_token_id
    )
    assert tokenizer.bos_id is tokenizer.unknown_id is None
    assert {*tokenizer.special_tokens} == {*reference.all_special_tokens}


def test_the_classes_encode_the_test_texts_differently(two_files: Path, tmp_path: Path) -> None:
    by_name = {
        name: auto_tokenizer(str(copy(two_files, tmp_path / name, tokenizer_class=name))) for name in CLASSES
    }
    ids = {name: tuple(map(tuple, map(t.encode_template, ALL))) for name, t in by_name.items()}
    assert len({*ids.values()}) == 3, "all classes differ except CodeGen and GPT-2"
    assert ids["CodeGenTokenizer"] == ids["GPT2Tokenizer"]


@pytest.mark.parametrize(
    ("builder", "name"),
    [
        (gpt2_tokenizer, "GPT2TokenizerFast"),
        (gpt2_tokenizer, None),
        (qwen2_tokenizer, "Qwen2TokenizerFast"),
        (qwen3_tokenizer, "Qwen2Tokenizer"),
    ],
)
def test_family_builders_read_vocab_and_merges(
    builder: Any, name: str | None, two_files: Path, tmp_path: Path
) -> None:
    named: dict[str, Any] = {"tokenizer_class": name} if name else {"model_max_length": 1024}
    folder = copy(two_files, tmp_path, eos_token=END, **named)
    reference = reference_tokenizer(name or "GPT2Tokenizer", folder)
    for path in (folder, folder / "vocab.json", folder / "merges.txt"):
        tokenizer = builder(str(path))
        assert isinstance(tokenizer, BPETokenizer)
        for text in ALL:
            assert tokenizer.encode_template(text) == reference(text, add_special_tokens=False)["input_ids"]


def test_family_builders_set_the_split_if_no_tokenizer_class_is_set(tmp_path: Path) -> None:
    tokenizer, hf_tokenizer = (
        smollm2_tokenizer(str(write_bpe(tmp_path / "a"))),
        HFTokenizer(str(write_hf(tmp_path / "b"))),
    )
    for text in [*ALL, "<think>1234<tool>"]:
        assert tokenizer.encode(text) == hf_tokenizer.encode(text)
        assert tokenizer.encode_template(text) == hf_tokenizer.encode_template(text)
    for name in ("eos_id", "pad_id", "bos_id", "stop_ids", "vocab_size", "special_tokens"):
        assert getattr(tokenizer, name) == getattr(hf_tokenizer, name)
    assert pickle.loads(pickle.dumps(tokenizer)).encode("1234") == tokenizer.encode("1234")
    assert olmo2_tokenizer(str(tmp_path / "a")).encode("12345") == phi3_tokenizer(str(tmp_path / "a")).encode(
        "12345"
    )


def test_added_tokens_are_encoded_as_in_transformers(two_files: Path, tmp_path: Path) -> None:
    n = len(json.loads((two_files / "vocab.json").read_text()))
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    texts = {"<|im_start|>": True, "<|im_end|>": True, "<tool>": False}
    added = {str(n + i): {"content": t, **flags, "special": s} for i, (t, s) in enumerate(texts.items())}
    added[str(n + 3)] = {**added[str(n)], "content": "<strip>", "lstrip": True, "rstrip": True}
    added[str(n + 4)] = {**added[str(n)], "content": "whole", "single_word": True, "special": False}
    folder = copy(
        two_files,
        tmp_path,
        tokenizer_class="Qwen2Tokenizer",
        eos_token="<|im_end|>",
        added_tokens_decoder=added,
    )
    tokenizer, reference = qwen2_tokenizer(str(folder)), reference_tokenizer("Qwen2Tokenizer", folder)
    for text in ("<|im_start|>user\nhi<|im_end|>\n", "a <strip> b<tool>c", "wholesome whole <|im_end|>"):
        assert tokenizer.encode_template(text) == reference(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode("<tool><|im_end|>", add_eos=False)[0] == n + 2
    assert n + 1 not in tokenizer.encode("<tool><|im_end|>", add_eos=False)
    assert tokenizer.vocab_size == len(reference) == n + 5
    assert tokenizer.eos_id == reference.eos_token_id == n + 1


def test_legacy_added_and_special_token_files_are_read(two_files: Path, tmp_path: Path) -> None:
    n = len(json.loads((two_files / "vocab.json").read_text()))
    folder = copy(two_files, tmp_path, tokenizer_class="GPT2Tokenizer")
    write(
        folder,
        added_tokens__json=json.dumps({"[SEP]": n + 1, "[PAD]": n}),
        special_tokens_map__json=json.dumps({"pad_token": "[PAD]", "sep_token": {"content": "[SEP]"}}),
    )
    tokenizer, reference = gpt2_tokenizer(str(folder)), reference_tokenizer("GPT2Tokenizer", folder)
    for text in ("a[SEP]b[PAD]c", *ALL):
        assert tokenizer.encode_template(text) == reference(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.pad_id == reference.pad_token_id == n


@pytest.mark.parametrize("config", [{"add_bos_token": True}, {"add_prefix_space": True}])
def test_settings_have_the_same_effect_as_in_transformers(
    config: dict[str, Any], two_files: Path, tmp_path: Path
) -> None:
    folder = copy(two_files, tmp_path, tokenizer_class="GPT2Tokenizer", **config)
    tokenizer, reference = gpt2_tokenizer(str(folder)), reference_tokenizer("GPT2Tokenizer", folder)
    for text in [text for text in ALL if text]:
        assert (
            tokenizer.encode(text, add_eos=False) == reference(text, split_special_tokens=True)["input_ids"]
        )


def test_the_model_type_is_used_if_no_tokenizer_class_is_set(two_files: Path, tmp_path: Path) -> None:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    for model_type, name in MODEL_TYPES.items():
        assert TOKENIZER_MAPPING_NAMES[model_type] == name
        folder = copy(two_files, tmp_path / model_type)
        write(folder, config__json=json.dumps({"model_type": model_type}))
        named = copy(two_files, tmp_path / f"{model_type}_named", tokenizer_class=name)
        ids = [auto_tokenizer(str(path)).encode(RARE) for path in (folder, named)]
        assert ids[0] == ids[1]


def test_an_unknown_tokenizer_class_is_rejected(two_files: Path, tmp_path: Path) -> None:
    for name in ("RobertaTokenizer", "PreTrainedTokenizerFast", 5):
        folder = copy(two_files, tmp_path, tokenizer_class=name, eos_token=END)
        with pytest.raises(
            ValueError,
            match=rf"tokenizer_class {name!r} is not supported; expected one of CodeGen.*; set `split`",
        ):
            auto_tokenizer(str(folder))
    assert BPETokenizer(str(folder), split="gpt-2").encode("a1") == gpt2_tokenizer(str(folder)).encode("a1")
    with pytest.raises(ValueError, match=r"split: expected one of gpt-2, smollm, .*, got 'gpt2'"):
        BPETokenizer(str(folder), split="gpt2")
    unnamed = copy(two_files, tmp_path / "bare")
    with pytest.raises(ValueError, match=r"tokenizer_class None is not supported"):
        auto_tokenizer(str(unnamed))
    write(unnamed, config__json='{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config.json: tokenizer_class None"):
        auto_tokenizer(str(unnamed))


def test_a_split_changes_the_fingerprint_and_survives_pickling(two_files: Path, tmp_path: Path) -> None:
    folder = copy(two_files, tmp_path, tokenizer_class="GPT2Tokenizer")
    plain, split = BPETokenizer(str(folder)), BPETokenizer(str(folder), split="qwen2")
    assert plain.fingerprint() != split.fingerprint() == pickle.loads(pickle.dumps(split)).fingerprint()
    fingerprint = plain.fingerprint()
    merges = folder / "merges.txt"
    merges.write_text(merges.read_text().rstrip("\n").rpartition("\n")[0] + "\n")
    assert BPETokenizer(str(folder)).fingerprint() != fingerprint


def test_line_endings_and_headers_do_not_change_the_tokens(two_files: Path, tmp_path: Path) -> None:
    folder = copy(two_files, tmp_path / "a", tokenizer_class="GPT2Tokenizer")
    expected = gpt2_tokenizer(str(folder)).encode(TEXT)
    merges = folder / "merges.txt"
    lines = merges.read_text().splitlines()
    assert lines[0].startswith("#version")
    for text in ("\r\n".join(lines), "\n".join(lines[1:]), "\n".join([*lines, "", ""])):
        merges.write_bytes(text.encode())
        assert gpt2_tokenizer(str(folder)).encode(TEXT) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("vocab.json", "[]", r"vocab.json does not contain a JSON object; download it again"),
        ("vocab.json", "{", r"vocab.json is not valid JSON"),
        ("vocab.json", '{"a": "b"}', r"vocab.json: 'a' is 'b'; expected a non-negative integer"),
        ("vocab.json", '{"a": 0, "b": 0}', r"vocab.json: two tokens have the same id"),
        ("vocab.json", "{}", r"eos_token is None|merges do not match"),
        (
            "merges.txt",
            "a\n",
            r"merges.txt, line 1, is not a pair of tokens: 'a'; download vocab.json and merges",
        ),
        ("merges.txt", "#version: 0.2\na b c\n", r"merges.txt, line 2, is not a pair of tokens: 'a b c'"),
        (
            "merges.txt",
            "qqq xxx\n",
            r"the tokenizer's merges do not match its vocabulary: .*; download vocab.json and",
        ),
    ],
)
def test_errors_name_the_damaged_file(
    name: str, text: str, expected: str, two_files: Path, tmp_path: Path
) -> None:
    folder = copy(two_files, tmp_path, tokenizer_class="GPT2Tokenizer")
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=expected):
        auto_tokenizer(str(folder))


def test_special_tokens_outside_the_vocabulary_are_rejected(two_files: Path, tmp_path: Path) -> None:
    folder = copy(two_files, tmp_path, tokenizer_class="GPT2Tokenizer", pad_token="[PAD]")
    with pytest.raises(
        ValueError, match=r"pad_token is '\[PAD\]', which is not in the vocabulary of vocab.json"
    ):
        auto_tokenizer(str(folder))
    added = {"2000": {"content": "[PAD]", "special": True}}
    set_config(folder, added_tokens_decoder=added)
    with pytest.raises(
        ValueError, match=r"'\[PAD\]' is added to the vocabulary with id 2000, but the next free id"
    ):
        auto_tokenizer(str(folder))


def test_both_files_are_required(two_files: Path, tmp_path: Path) -> None:
    for name, other in (("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(two_files / name, folder / name)
        with pytest.raises(FileNotFoundError, match=rf"no {other} in "):
            BPETokenizer(str(folder / name))
        write(folder, config__json="{}")
        with pytest.raises(FileNotFoundError, match=r"no tokenizer in .* or vocab.json with merges.txt"):
            auto_tokenizer(str(folder))
