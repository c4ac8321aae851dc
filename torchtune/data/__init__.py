"""From text to batches: messages, chat templates, masked examples, collation and their order."""

from torchtune.data._batch import Batch, collate
from torchtune.data._batches import Batches
from torchtune.data._chat import chat_example, chat_prompt, chat_tokens, check_chat
from torchtune.data._example import IGNORE_INDEX, Example, LeftOut, Preference, cut, plain_example
from torchtune.data._notes import Note, Tally, shortened
from torchtune.data._order import Order
from torchtune.data._packing import pack
from torchtune.data._prompt import alpaca_prompt
from torchtune.data._report import Piece, Report, pieces, report
from torchtune.data._special_text import text_notes
from torchtune.data._subset import split_off
from torchtune.data._template import ChatTemplate, Message, unused_mark
from torchtune.data._tokenizer import Tokenizer
from torchtune.data._windows import Encoded, Examples, place_of, reported_of, spread, use_cache

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "Batches",
    "ChatTemplate",
    "Encoded",
    "Example",
    "Examples",
    "LeftOut",
    "Message",
    "Note",
    "Order",
    "Piece",
    "Preference",
    "Report",
    "Tally",
    "Tokenizer",
    "alpaca_prompt",
    "chat_example",
    "chat_prompt",
    "chat_tokens",
    "check_chat",
    "collate",
    "cut",
    "pack",
    "pieces",
    "place_of",
    "plain_example",
    "report",
    "reported_of",
    "shortened",
    "split_off",
    "spread",
    "text_notes",
    "unused_mark",
    "use_cache",
]

COMPONENT_KINDS = (Tokenizer,)
"""Classes whose subclasses a config may name where no type is declared."""
