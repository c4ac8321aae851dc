"""Small tokenizers of every kind, with writers for their files."""

import base64
import functools
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen
from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken

from tests.models.tiny import TEXT, tiny_tokenizer, tokenizer_config, write
from torchtune.tokenizers import (
    BPETokenizer,
    HFTokenizer,
    SentencePieceTokenizer,
    TekkenTokenizer,
    TiktokenTokenizer,
)

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}"
)

LLAMA3_RANKS = 1000
"""Number of ranked tokens in the vocabulary; tests set `_tiktoken.N_RANKS` to this value."""

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Word pattern of the tekken.json."""


@frozen
class Kind:
    """A tokenizer class and a writer for its files."""

    load: Any
    """The tokenizer class."""
    write: Callable[[Path], Path]
    """Writes the vocabulary and its configuration files, without a chat template, to a folder."""
    content_token: str
    """A special token that answers may contain."""
    stop: str
    """A token that is not a stop token unless an option adds it."""


def set_config(folder: Path, **changes: Any) -> Path:
    """Set keys in tokenizer_config.json; None removes a key."""
    file = folder / "tokenizer_config.json"
    values = {**(json.loads(file.read_text()) if file.is_file() else {}), **changes}
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return folder


@functools.cache
def backend_with_special_tokens() -> str:
    backend = tiny_tokenizer()
    tokens = [AddedToken(text, special=True, normalized=False) for text in ("<think>", "</think>")]
    backend.add_tokens([*tokens, AddedToken("<tool>", special=False, normalized=False)])
    return backend.to_str()


def write_hf(folder: Path) -> Path:
    config = {**tokenizer_config(), "chat_template": None}
    return set_config(write(folder, tokenizer__json=backend_with_special_tokens()), **config)


def write_bpe(folder: Path) -> Path:
    """Write the same tokenizer as vocab.json and merges.txt."""
    values = json.loads(backend_with_special_tokens())
    merges = ["#version: 0.2", *(" ".join(pair) for pair in values["model"]["merges"])]
    write(folder, vocab__json=json.dumps(values["model"]["vocab"]), merges__txt="\n".join([*merges, ""]))
    added = {str(token.pop("id")): token for token in values["added_tokens"]}
    config = {**tokenizer_config(), "chat_template": None, "tokenizer_class": "GPT2Tokenizer"}
    return set_config(folder, **config, added_tokens_decoder=added)


@functools.cache
def sentencepiece_bytes() -> bytes:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 10),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        control_symbols=["<think>", "</think>"],
        user_defined_symbols=["\n"],
        minloglevel=2,
    )
    return model.getvalue()


def write_sentencepiece(folder: Path) -> Path:
    write(folder)
    (folder / "tokenizer.model").write_bytes(sentencepiece_bytes())
    return set_config(folder, bos_token="<s>", eos_token="</s>")


def tekken(special_tokens: list[str] | None = None, n: int = 30, **config: Any) -> dict[str, Any]:
    """Return the contents of a tekken.json with bytes, letter pairs, words and some unused tokens."""
    letters = [b" ", *(bytes([c]) for c in b"etaoinshrdlu<>[]|")]
    pairs = [b"".join(pair) for pair in itertools.product(letters, repeat=2)]
    # No merge produces "qzx": it is one token only because whole words are looked up before merging.
    words = [b"qzx", b"the", b" the", b"word", b"words", b"wor", b"or", b"wo", b"\xc3\xa4", b"  "]
    tokens = [*(bytes([i]) for i in range(256)), *dict.fromkeys([*words, *pairs])]
    used = len(tokens) - 20
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None}
        for i, t in enumerate(tokens)
    ]
    settings = {"pattern": PATTERN, "num_vocab_tokens": len(tokens), "version": "v3"}
    sizes = {"default_vocab_size": used + n, "default_num_special_tokens": n}
    values: dict[str, Any] = {"config": {**settings, **sizes, **config}, "vocab": vocab}
    if special_tokens is not None:
        values["special_tokens"] = [
            {"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(special_tokens)
        ]
    return values


def write_tekken(folder: Path) -> Path:
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "<think>", "</think>"]
    return write(folder, tekken__json=json.dumps(tekken(special, version="v11")))


@functools.cache
def llama3_ranks() -> bytes:
    letters = b" etaoinshrdlu,\n01\xc3\xa4\xf0\x9f"
    longer = itertools.chain.from_iterable(itertools.product(letters, repeat=n) for n in (2, 3, 4))
    tokens = itertools.islice(itertools.chain(([b] for b in range(256)), longer), LLAMA3_RANKS)
    return b"".join(b"%s %d\n" % (base64.b64encode(bytes(t)), i) for i, t in enumerate(tokens))


def write_llama3(folder: Path) -> Path:
    write(folder)
    (folder / "tokenizer.model").write_bytes(llama3_ranks())
    return folder


KINDS = {
    "hf": Kind(HFTokenizer, write_hf, "<think>", "<tool>"),
    "bpe": Kind(BPETokenizer, write_bpe, "<think>", "<tool>"),
    "sentencepiece": Kind(SentencePieceTokenizer, write_sentencepiece, "<think>", "\n"),
    "tekken": Kind(TekkenTokenizer, write_tekken, "<think>", "\n"),
    "tiktoken": Kind(TiktokenTokenizer, write_llama3, "<|python_tag|>", "\n"),
}
