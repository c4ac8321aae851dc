"""A tokenizer's ids and the model's embedding."""

from torchtune.data import Message, Tokenizer, chat_prompt
from torchtune.modules import Decoder


def check_vocabulary(tokenizer: Tokenizer, model: Decoder) -> None:
    """Refuse a tokenizer that may give ids for which the model has no embedding.

    Special tokens that neither a text nor the chat template ever uses may lie behind its end, as Gemma 3's for images
    do in the models for text alone.

    Raises:
        ValueError: The message has the first such token.
    """
    n = model.architecture.vocab_size
    if tokenizer.vocab_size <= n:
        return
    names = {i: text for text, i in tokenizer.special_tokens.items()}
    used = _used(tokenizer)
    beyond = next((i for i in range(n, tokenizer.vocab_size) if i in used or i not in names), None)
    if beyond is not None:
        token = names.get(beyond) or tokenizer.decode([beyond])
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model's embedding {n}, so that there is none for"
            f" {token!r} ({beyond}); use the tokenizer that belongs to the model, or weights with a larger embedding"
        )


def _used(tokenizer: Tokenizer) -> set[int | None]:
    """Find the special tokens that are put around texts: those in the chat template, spelt out or put together."""
    used = {tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id, *tokenizer.stop_ids}
    if tokenizer.chat_template is None:
        return used
    source = tokenizer.chat_template.source
    used |= {i for text, i in tokenizer.special_tokens.items() if text in source}
    try:
        return used | {*chat_prompt(tokenizer, [Message(role="user", content="Hello")])}
    except ValueError:  # The template is made for other conversations.
        return used
