"""From text to batches: messages, chat templates, masked examples, collation and their order."""

from torchtune.data._batch import Batch, collate
from torchtune.data._batches import Batches, Examples
from torchtune.data._chat import ChatTokens, chat_example, chat_prompt, chat_tokens, check_chat
from torchtune.data._example import IGNORE_INDEX, Example, plain_example
from torchtune.data._prompt import alpaca_prompt
from torchtune.data._template import ChatTemplate, Message, Rendered
from torchtune.data._tokenizer import Tokenizer

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "Batches",
    "ChatTemplate",
    "ChatTokens",
    "Example",
    "Examples",
    "Message",
    "Rendered",
    "Tokenizer",
    "alpaca_prompt",
    "chat_example",
    "chat_prompt",
    "chat_tokens",
    "check_chat",
    "collate",
    "plain_example",
]
