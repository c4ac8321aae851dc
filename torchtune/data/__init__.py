"""From text to batches: chat templates, masked examples, packing, collation and shuffling."""

from torchtune.data._batch import IGNORE_INDEX, Batch, Span
from torchtune.data._batches import Batches
from torchtune.data._chat import chat_example, chat_prompt, chat_tokens, check_chat
from torchtune.data._collate import Prefix, collate, join_sequences
from torchtune.data._example import Example, plain_example
from torchtune.data._item import (
    Encoded,
    Item,
    ItemT,
    LengthLimit,
    Side,
    SkippedRow,
    SkipReason,
    as_items,
    total_counts,
    truncate,
)
from torchtune.data._notes import Note, NoteCounts, quote_excerpt
from torchtune.data._order import Order
from torchtune.data._packing import pack
from torchtune.data._pair import Pair
from torchtune.data._prompt import alpaca_prompt
from torchtune.data._report import DecodedToken, Report, decode_tokens, report
from torchtune.data._rows import (
    Examples,
    Rows,
    as_stream,
    is_plain_text,
    location_of,
    logged_notes,
    sample_indices,
    use_cache,
)
from torchtune.data._special_text import text_notes
from torchtune.data._subset import split_off
from torchtune.data._template import ChatTemplate, Message, unused_character
from torchtune.data._tokenizer import Tokenizer
from torchtune.data._widths import FixedWidths

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "Batches",
    "ChatTemplate",
    "DecodedToken",
    "Encoded",
    "Example",
    "Examples",
    "FixedWidths",
    "Item",
    "ItemT",
    "LengthLimit",
    "Message",
    "Note",
    "NoteCounts",
    "Order",
    "Pair",
    "Prefix",
    "Report",
    "Rows",
    "Side",
    "SkipReason",
    "SkippedRow",
    "Span",
    "Tokenizer",
    "alpaca_prompt",
    "as_items",
    "as_stream",
    "chat_example",
    "chat_prompt",
    "chat_tokens",
    "check_chat",
    "collate",
    "decode_tokens",
    "is_plain_text",
    "join_sequences",
    "location_of",
    "logged_notes",
    "pack",
    "plain_example",
    "quote_excerpt",
    "report",
    "sample_indices",
    "split_off",
    "text_notes",
    "total_counts",
    "truncate",
    "unused_character",
    "use_cache",
]

COMPONENT_KINDS = (Tokenizer,)
"""Base classes whose subclasses a config may name in a field without a declared type."""
