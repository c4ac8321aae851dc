"""SentencePiece models from mistral-common are compared with the SentencePiece library and mistral-common."""

import json
from pathlib import Path

import mistral_common
import pytest
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from sentencepiece import SentencePieceProcessor

from tests.tokenizers.texts import SPECIAL_TEXTS, TEXTS
from torchtune.data import Message, chat_prompt, chat_tokens
from torchtune.models.mistral import mistral_tokenizer
from torchtune.tokenizers import SentencePieceTokenizer
from torchtune.tokenizers._meta import sentencepiece_backend

FOLDER = Path(mistral_common.__file__).parent / "data"
FILES = {path.name.rpartition(".")[2]: path for path in sorted(FOLDER.glob("*.model.v*"))}

# Chat formats (docs.mistral.ai/guides/tokenization): white space varies by version, and v7 has a system prompt.
_TURNS = (
    "{{ bos_token }}{%% for m in messages %%}{%% if m.role == 'user' %%}{{ '%s' + m.content + '%s' }}"
    "{%% elif m.role == 'system' %%}{{ '[SYSTEM_PROMPT] ' + m.content + '[/SYSTEM_PROMPT]' }}"
    "{%% else %%}{{ ' ' + m.content + eos_token }}{%% endif %%}{%% endfor %%}"
)
TEMPLATES = {
    "v1": _TURNS % (" [INST] ", " [/INST]"),
    **dict.fromkeys(("v2", "v3", "v7", "v7m1"), _TURNS % ("[INST] ", "[/INST]")),
}
TRICKY = [
    "Größe, 東京 🎉?",
    "I say </s> and [INST] and [/INST] myself.",
    "def f():\n\treturn '<s>'\n",
    *(text for text in TEXTS if text.strip() == text and text),
    *SPECIAL_TEXTS[:2],
]


@pytest.fixture(params=FILES)
def version(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


def test_all_versions_are_available() -> None:
    assert FILES.keys() == {"v1", "v2", "v3", "v7", "v7m1"} == TEMPLATES.keys()


def load(version: str, folder: Path) -> SentencePieceTokenizer:
    """Load a model file with a chat template and configured BOS and EOS tokens."""
    (folder / "tokenizer.model").symlink_to(FILES[version])
    (folder / "chat_template.jinja").write_text(TEMPLATES[version])
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = mistral_tokenizer(str(folder))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


@pytest.mark.quick_cases(1)
def test_plain_text_is_encoded_as_in_the_sentencepiece_library(version: str) -> None:
    tokenizer = mistral_tokenizer(str(FILES[version]))
    reference = SentencePieceProcessor(model_file=str(FILES[version]))
    for text in [*TEXTS, *SPECIAL_TEXTS]:
        ids = reference.encode(text)
        assert tokenizer.encode(text) == [1, *ids, 2]
        assert tokenizer.decode([1, *ids, 2]) == reference.decode(ids)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    assert tokenizer.vocab_size == reference.vocab_size()
    assert ("[INST]" in tokenizer.special_tokens) == (version != "v1")


@pytest.mark.slow
def test_conversations_match_mistral_common(version: str, tmp_path: Path) -> None:
    tokenizer, reference = load(version, tmp_path), MistralTokenizer.from_file(str(FILES[version]))
    for text in TRICKY:
        conversation = [
            *([Message(role="system", content="Be kind.")] if version.startswith("v7") else []),
            Message(role="user", content=text),
            Message(role="assistant", content=text),
            Message(role="user", content="And then?"),
        ]
        request = ChatCompletionRequest(
            messages=[
                {"user": UserMessage, "assistant": AssistantMessage, "system": SystemMessage}[m["role"]](
                    content=m["content"]
                )
                for m in conversation
            ]
        )
        expected = reference.encode_chat_completion(request).tokens
        assert chat_prompt(tokenizer, conversation) == expected, text
        chat = chat_tokens(tokenizer, conversation)
        ((start, end),) = chat.answers
        assert chat.tokens == expected
        assert chat.tokens[start:end] == [
            *SentencePieceProcessor(model_file=str(FILES[version])).encode(text),
            2,
        ]


@pytest.mark.quick_cases(1)
def test_converted_tokenizers_match_the_original(version: str) -> None:
    model = SentencePieceProcessor(model_file=str(FILES[version]))
    backend = sentencepiece_backend(model, {"bos": "<s>", "eos": "</s>", "unk": "<unk>"})
    for text in TEXTS:
        assert backend.encode(text).ids == [1, *model.encode(text)]
        assert backend.decode(model.encode(text)) == model.decode(model.encode(text))
