"""Pairs of answers, of which one is preferred."""

import itertools
from typing import Any, ClassVar

from attrs import define, field, frozen

from torchtune.data import Item, Message, Pair, Unlearnable, chat_example, check_chat
from torchtune.datasets._columns import check_characters, checked_columns, columns_of, required
from torchtune.datasets._conversations import COLUMNS, read_row_tools, turns_of, with_system
from torchtune.datasets._messages import does_something
from torchtune.datasets._row_dataset import RowDataset, Truncate
from torchtune.datasets._tables import Row


@frozen
class Comparison:
    """A prompt and two answers, as turns."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: list[dict[str, Any]] | None = None


@define(eq=False, repr=False, slots=False)
class PreferenceDataset(RowDataset[Comparison, Pair]):
    """Pairs of answers to one prompt, the better one `chosen` and the other `rejected`.

    The two columns hold texts, turns, or whole conversations that begin alike. The prompt stands in a column `prompt`
    (text or turns), or in `messages` or `conversations`; whole conversations need none. Texts become a user's turn and
    an assistant's. A column `tools` may hold the tools that can be called, `system` the system's turn.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, or the tokenizer has no chat template or it does not end answers.
    """

    item_type: ClassVar[type[Item]] = Pair

    columns: dict[str, str] | None = None
    """The columns' names there, where they are others: `{prompt: question}`."""
    system: str | None = None
    """A system's turn for conversations that have none."""
    max_seq_len: int | None = field(default=None, kw_only=True)
    """Longest of the two in tokens; a longer one is cut at its right end. Null: any length."""
    truncate: Truncate = field(default="right", init=False)
    _names: dict[str, str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        check_chat(self.tokenizer)
        check_characters("system", self.system)
        self._names = checked_columns(
            self.columns, ("prompt", "chosen", "rejected"), required=("chosen", "rejected")
        )
        super().__attrs_post_init__()

    def _parse(self, row: Row) -> Comparison | Unlearnable:
        names = self._names
        both = [
            turns_of(required(row, names[key], key), names[key], "assistant")
            for key in ("chosen", "rejected")
        ]
        chosen, rejected = (turns.messages for turns in both)
        places = (*((names["prompt"],) if "prompt" in names else ()), *COLUMNS)
        place = next((name for name in places if row.get(name) is not None), None)
        if place is None:
            shared = _shared(chosen, rejected)
            prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
            if not prompt:
                empty = [name for name in places if name in row]
                if empty:
                    raise ValueError(f"{empty[0]!r}: expected text or turns, got null")
                raise ValueError(
                    f"no column {places[0]!r}, and what is chosen and rejected do not begin alike; {columns_of(row)}"
                )
        else:
            prompt = turns_of(row[place], place, "user").messages
        prompt = with_system(prompt, row, self.system)
        for turns, name in ((chosen, names["chosen"]), (rejected, names["rejected"])):
            if not turns or turns[-1]["role"] != "assistant":
                raise ValueError(f"{name!r}: expected to end with a turn of the assistant's")
        if chosen == rejected:
            return Unlearnable("have two answers that are the same")
        if not does_something(chosen[-1]) or not does_something(rejected[-1]):
            return Unlearnable("have an empty answer")
        for answer, key in zip(both, ("chosen", "rejected"), strict=True):
            if not answer.learnt[-1]:
                raise ValueError(
                    f"{names[key]!r}: its answer has a weight of 0 or is not to be trained on, and a pair needs both"
                )
        return Comparison(prompt, chosen, rejected, read_row_tools(row, "tools"))

    def _encode(self, parsed: Comparison, /) -> Pair | Unlearnable:
        chosen, rejected = (
            chat_example(
                self.tokenizer, [*parsed.prompt, *answer], parsed.tools, train_on_input=False, turns="last"
            )
            for answer in (parsed.chosen, parsed.rejected)
        )
        if chosen.tokens == rejected.tokens:
            return Unlearnable("have two answers that the chat template writes alike")
        return self._fitted(Pair(chosen, rejected, notes=(*chosen.notes, *rejected.notes)))


def _shared(one: list[Message], other: list[Message]) -> int:
    """Count the turns with which two conversations begin alike."""
    alike = itertools.takewhile(lambda turns: turns[0] == turns[1], zip(one, other, strict=False))
    return len(list(alike))
