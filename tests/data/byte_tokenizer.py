"""A tokenizer whose tokens are bytes; it needs no files."""

import re
from collections.abc import Sequence

from torchtune.data import ChatTemplate

# ChatML, https://github.com/openai/openai-python/blob/v0.28.1/chatml.md.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = {"<|bos|>": 256, "<|eos|>": 257, "<|pad|>": 258, "<|im_start|>": 259, "<|im_end|>": 260}


class ByteTokenizer:
    """Implements torchtune.data.Tokenizer: ids below 256 are bytes, and higher ids are special tokens."""

    vocab_size = 261
    bos_id = SPECIAL_TOKENS["<|bos|>"]
    eos_id = SPECIAL_TOKENS["<|eos|>"]
    pad_id = SPECIAL_TOKENS["<|pad|>"]
    special_tokens = SPECIAL_TOKENS
    stop_ids = frozenset({SPECIAL_TOKENS["<|eos|>"], SPECIAL_TOKENS["<|im_end|>"]})

    content_tokens: frozenset[str] = frozenset()

    def __init__(self, template: str | None = CHATML) -> None:
        self.chat_template = None if template is None else ChatTemplate(template, "<|bos|>", "<|eos|>")

    def encode(self, text: str, *, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        return [self.bos_id] * add_bos + list(text.encode()) + [self.eos_id] * add_eos

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        ids, position = [], 0
        for match in re.finditer("|".join(map(re.escape, SPECIAL_TOKENS)), text):
            if not any(match.start() < end and start < match.end() for start, end in plain):
                ids += [*text[position : match.start()].encode(), SPECIAL_TOKENS[match[0]]]
                position = match.end()
        return ids + list(text[position:].encode())

    def decode(self, ids: Sequence[int]) -> str:
        names = {i: name.encode() for name, i in SPECIAL_TOKENS.items()}
        return b"".join(names.get(i) or bytes([i]) for i in ids).decode(errors="replace")
