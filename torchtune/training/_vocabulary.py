"""A tokenizer's ids and the model's embedding."""

from torchtune.data import Tokenizer
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
    template = "" if tokenizer.chat_template is None else tokenizer.chat_template.source
    used = {tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id, *tokenizer.stop_ids}
    idle = {i for text, i in tokenizer.special_tokens.items() if i not in used and text not in template}
    beyond = [i for i in range(n, tokenizer.vocab_size) if i not in idle]
    if beyond:
        names = {i: text for text, i in tokenizer.special_tokens.items()}
        token = names.get(beyond[0]) or tokenizer.decode(beyond[:1])
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model's embedding {n}, so that there is none for"
            f" {token!r} ({beyond[0]}); use the tokenizer that belongs to the model, or weights with a larger embedding"
        )
