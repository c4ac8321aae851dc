"""From text to batches: messages, chat templates, masked examples, collation and their order."""

from torchtune.data._batch import Batch, collate
from torchtune.data._batches import Batches, Examples
from torchtune.data._chat import chat_example, chat_prompt
from torchtune.data._example import IGNORE_INDEX, Example, plain_example
from torchtune.data._prompt import alpaca_prompt
from torchtune.data._template import ChatTemplate, Message
from torchtune.data._tokenizer import Tokenizer

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "Batches",
    "ChatTemplate",
    "Example",
    "Examples",
    "Message",
    "Tokenizer",
    "alpaca_prompt",
    "chat_example",
    "chat_prompt",
    "collate",
    "plain_example",
]
