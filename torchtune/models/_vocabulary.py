"""Check that a model's embedding has a row for every token id."""

from torchtune.data import Message, Tokenizer, chat_prompt
from torchtune.modules import Decoder


def check_vocabulary(tokenizer: Tokenizer, model: Decoder) -> None:
    """Check that the model has an embedding for every id that a tokenizer may return.

    Special tokens that neither texts nor the chat template use may exceed the embedding, such as the image tokens of
    Gemma 3 in the text-only models.

    Raises:
        ValueError: A token has no embedding; the message names the first such token.
    """
    n = model.architecture.vocab_size
    if tokenizer.vocab_size <= n:
        return
    names = {i: text for text, i in tokenizer.special_tokens.items()}
    used_ids = _used_ids(tokenizer)
    first_missing = next((i for i in range(n, tokenizer.vocab_size) if i in used_ids or i not in names), None)
    if first_missing is not None:
        token = names.get(first_missing) or tokenizer.decode([first_missing])
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids, but the model's embedding has {n} rows, with no row for"
            f" {token!r} ({first_missing}); use the tokenizer that belongs to the model, or weights with a larger"
            " embedding"
        )


def _used_ids(tokenizer: Tokenizer) -> set[int | None]:
    """Return the ids of the special tokens that are added to texts or that the chat template contains or composes."""
    used_ids = {tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id, *tokenizer.stop_ids}
    if tokenizer.chat_template is None:
        return used_ids
    source = tokenizer.chat_template.source
    used_ids |= {i for text, i in tokenizer.special_tokens.items() if text in source}
    try:
        return used_ids | {*chat_prompt(tokenizer, [Message(role="user", content="Hello")])}
    except ValueError:  # the template does not support this conversation
        return used_ids
