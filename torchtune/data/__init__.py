"""From text to batches: messages, chat templates, masked examples, collation and their order."""

from torchtune.data._batch import IGNORE_INDEX, Batch, Span
from torchtune.data._batches import Batches
from torchtune.data._chat import chat_example, chat_prompt, chat_tokens, check_chat
from torchtune.data._collate import Prefix, collate, join_sequences
from torchtune.data._example import Example, plain_example
from torchtune.data._item import (
    Encoded,
    Item,
    ItemT,
    LeftOut,
    LengthLimit,
    Side,
    Unlearnable,
    items_of,
    total_counts,
    truncate,
)
from torchtune.data._notes import Note, Tally, shortened
from torchtune.data._order import Order
from torchtune.data._packing import pack
from torchtune.data._pair import Pair
from torchtune.data._prompt import alpaca_prompt
from torchtune.data._report import Piece, Report, pieces, report
from torchtune.data._rows import (
    Examples,
    Rows,
    is_plain_text,
    place_of,
    reported_of,
    spread,
    stream_of,
    use_cache,
)
from torchtune.data._special_text import text_notes
from torchtune.data._subset import split_off
from torchtune.data._template import ChatTemplate, Message, unused_mark
from torchtune.data._tokenizer import Tokenizer

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "Batches",
    "ChatTemplate",
    "Encoded",
    "Example",
    "Examples",
    "Item",
    "ItemT",
    "LeftOut",
    "LengthLimit",
    "Message",
    "Note",
    "Order",
    "Pair",
    "Piece",
    "Prefix",
    "Report",
    "Rows",
    "Side",
    "Span",
    "Tally",
    "Tokenizer",
    "Unlearnable",
    "alpaca_prompt",
    "chat_example",
    "chat_prompt",
    "chat_tokens",
    "check_chat",
    "collate",
    "is_plain_text",
    "items_of",
    "join_sequences",
    "pack",
    "pieces",
    "place_of",
    "plain_example",
    "report",
    "reported_of",
    "shortened",
    "split_off",
    "spread",
    "stream_of",
    "text_notes",
    "total_counts",
    "truncate",
    "unused_mark",
    "use_cache",
]

COMPONENT_KINDS = (Tokenizer,)
"""Classes whose subclasses a config may name where no type is declared."""
