"""Conversations to token ids through a chat template.

What people write never turns into special tokens: text such as "<|im_end|>" inside a message is encoded
as the plain text it is, so that no message can end its own turn or open another.
"""

from attrs import frozen

from torchtune.data._example import Example, masked_example
from torchtune.data._template import ChatTemplate, Message
from torchtune.data._tokenizer import Tokenizer


@frozen
class _Piece:
    """A part of a rendered conversation: the template's, or plain text that looks like special tokens."""

    text: str
    is_plain: bool


def chat_prompt(tokenizer: Tokenizer, messages: list[Message]) -> list[int]:
    """Encode a conversation up to where the assistant answers, through the tokenizer's chat template.

    Raises:
        ValueError: the tokenizer has no chat template, or the template refuses the messages.
    """
    return _encode(tokenizer, _pieces(tokenizer, messages, add_generation_prompt=True))


def chat_example(tokenizer: Tokenizer, messages: list[Message], *, train_on_input: bool) -> Example:
    """Encode a conversation whose last turn, the assistant's, is to be learnt with the token that ends it.

    What the template writes after the end of that turn is left out: nobody reads or predicts it.

    Args:
        tokenizer: Its chat template writes the conversation out.
        messages: The turns; the last is the assistant's.
        train_on_input: Train on everything, not on the last answer alone.

    Raises:
        ValueError: the tokenizer has no chat template, the template refuses the messages, or what it
            writes cannot be split into what is given and an answer that ends with a stop id.
    """
    prompt = _pieces(tokenizer, messages[:-1], add_generation_prompt=True)
    conversation = _pieces(tokenizer, messages, add_generation_prompt=False)
    given, tokens = _encode(tokenizer, prompt), _encode(tokenizer, conversation)
    if tokens[: len(given)] != given:
        # The border was merged into one token. Generation starts from `given`, so training does too.
        tokens = given + _encode(tokenizer, _after(conversation, _text(prompt)))
    end = _end_of_turn(tokens, len(given), tokenizer.stop_ids)
    return masked_example(tokens[:end], len(given), train_on_input=train_on_input)


def _pieces(tokenizer: Tokenizer, messages: list[Message], *, add_generation_prompt: bool) -> list[_Piece]:
    """Render a conversation, keeping apart what must not be read as special tokens."""
    template = _template(tokenizer)
    rendered = template.render(messages, add_generation_prompt)
    risky = {i: m["content"] for i, m in enumerate(messages) if _spells_special(tokenizer, m["content"])}
    if not risky:
        return [_Piece(rendered, is_plain=False)]
    marked = [Message(role=m["role"], content=_mark(i)) if i in risky else m for i, m in enumerate(messages)]
    pieces, rest = [], template.render(marked, add_generation_prompt)
    for i, content in risky.items():
        before, _, rest = rest.partition(_mark(i))
        pieces += [_Piece(before, is_plain=False), _Piece(content, is_plain=True)]
    pieces.append(_Piece(rest, is_plain=False))
    if _text(pieces) != rendered:
        raise ValueError(
            "a message holds the text of a special token, and the chat template rewrites messages, so that"
            f" the two cannot be kept apart; take it out of {next(iter(risky.values()))!r}"
        )
    return pieces


def _encode(tokenizer: Tokenizer, pieces: list[_Piece]) -> list[int]:
    """Encode pieces one by one; special tokens are found in the template's only."""
    ids = []
    for piece in pieces:
        if piece.is_plain:
            ids += tokenizer.encode(piece.text, add_bos=False, add_eos=False)
        elif piece.text:
            ids += tokenizer.encode_template(piece.text)
    return ids


def _after(pieces: list[_Piece], given: str) -> list[_Piece]:
    """Cut a text off the front of a conversation.

    Raises:
        ValueError: the conversation begins otherwise.
    """
    if not _text(pieces).startswith(given):
        raise ValueError(
            "the chat template writes a conversation otherwise once it is answered, so that no prompt can be"
            f" told from its answer; before the answer it wrote {given!r}, with it {_text(pieces)!r}"
        )
    rest, n = [], len(given)
    for piece in pieces:
        rest.append(_Piece(piece.text[n:], piece.is_plain))
        n = max(0, n - len(piece.text))
    return rest


def _end_of_turn(tokens: list[int], n_given: int, stop_ids: frozenset[int]) -> int:
    """Find where the last turn is over: behind its last stop id."""
    for i in reversed(range(n_given, len(tokens))):
        if tokens[i] in stop_ids:
            return i + 1
    raise ValueError(
        f"the chat template ends an answer with none of the stop ids {sorted(stop_ids)}, so that the model"
        " would never learn to stop; use the tokenizer and the template of one model"
    )


def _template(tokenizer: Tokenizer) -> ChatTemplate:
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template; use a plain prompt (torchtune.datasets.AlpacaDataset), or a"
            " tokenizer folder whose tokenizer_config.json holds one"
        )
    return tokenizer.chat_template


def _spells_special(tokenizer: Tokenizer, text: str) -> bool:
    """Tell whether a template's reading of this text would find special tokens in it."""
    return tokenizer.encode_template(text) != tokenizer.encode(text, add_bos=False, add_eos=False)


def _mark(i: int) -> str:
    """Stand in for a message's text. Characters of the private use area occur in no template."""
    return f"\ue000{i}\uf8ff"


def _text(pieces: list[_Piece]) -> str:
    return "".join(piece.text for piece in pieces)
