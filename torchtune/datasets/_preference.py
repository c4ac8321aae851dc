"""Preference pairs: a preferred and a rejected answer to one prompt."""

import itertools
from typing import Any, ClassVar

from attrs import define, field, frozen

from torchtune.data import Item, Message, Pair, SkipReason, chat_example, check_chat
from torchtune.datasets._columns import check_characters, checked_columns, columns_of, required_column
from torchtune.datasets._conversations import COLUMNS, read_row_tools, turns_of, with_system
from torchtune.datasets._messages import has_output
from torchtune.datasets._row_dataset import RowDataset, Truncate
from torchtune.datasets._tables import Row


@frozen
class Comparison:
    """A prompt and two answers, as lists of turns."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: list[dict[str, Any]] | None = None


@define(eq=False, repr=False, slots=False)
class PreferenceDataset(RowDataset[Comparison, Pair]):
    """Pairs of answers to one prompt: the preferred answer is `chosen`, the other answer is `rejected`.

    The two columns contain texts, turns, or whole conversations that begin with the same turns. The prompt is in a
    column `prompt` (text or turns), `messages` or `conversations`; whole conversations need no prompt. Texts become a
    user turn and an assistant turn. A column `tools` may list the tools that can be called, and a column `system` may
    contain the system turn.

    Raises:
        FileNotFoundError: The file or dataset does not exist.
        ConnectionError: The hub cannot be reached.
        ValueError: The rows are not in this format, or the tokenizer's chat template is missing or does not end the
            assistant's turns.
    """

    item_type: ClassVar[type[Item]] = Pair

    columns: dict[str, str] | None = None
    """The source's column names, if they differ from the defaults: `{prompt: question}`."""
    system: str | None = None
    """A system turn for conversations without one."""
    max_seq_len: int | None = field(default=None, kw_only=True)
    """Maximum length of a prompt with one answer (tokens); a longer one is truncated on the right. Null: no limit."""
    truncate: Truncate = field(default="right", init=False)
    _names: dict[str, str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        check_chat(self.tokenizer)
        check_characters("system", self.system)
        self._names = checked_columns(
            self.columns, ("prompt", "chosen", "rejected"), required=("chosen", "rejected")
        )
        super().__attrs_post_init__()

    def _parse(self, row: Row) -> Comparison | SkipReason:
        names = self._names
        answers = [
            turns_of(required_column(row, names[key], key), names[key], "assistant")
            for key in ("chosen", "rejected")
        ]
        chosen, rejected = (turns.messages for turns in answers)
        prompt_columns = (*((names["prompt"],) if "prompt" in names else ()), *COLUMNS)
        prompt_column = next((name for name in prompt_columns if row.get(name) is not None), None)
        if prompt_column is None:
            n_shared = _count_shared_turns(chosen, rejected)
            prompt, chosen, rejected = chosen[:n_shared], chosen[n_shared:], rejected[n_shared:]
            if not prompt:
                empty = [name for name in prompt_columns if name in row]
                if empty:
                    raise ValueError(f"{empty[0]!r}: expected text or turns, got null")
                raise ValueError(
                    f"no column {prompt_columns[0]!r}, and the chosen and rejected conversations do not begin with the"
                    f" same turns; {columns_of(row)}"
                )
        else:
            prompt = turns_of(row[prompt_column], prompt_column, "user").messages
        prompt = with_system(prompt, row, self.system)
        for turns, name in ((chosen, names["chosen"]), (rejected, names["rejected"])):
            if not turns or turns[-1]["role"] != "assistant":
                raise ValueError(f"{name!r}: expected the last turn to be the assistant's")
        if chosen == rejected:
            return SkipReason("have two identical answers")
        if not has_output(chosen[-1]) or not has_output(rejected[-1]):
            return SkipReason("have an empty answer")
        for answer, key in zip(answers, ("chosen", "rejected"), strict=True):
            if not answer.target_flags[-1]:
                raise ValueError(
                    f"{names[key]!r}: the answer is excluded from training (weight 0 or train false), but a pair needs"
                    " both answers; remove the row, or the flag"
                )
        return Comparison(prompt, chosen, rejected, read_row_tools(row, "tools"))

    def _encode(self, parsed: Comparison, /) -> Pair | SkipReason:
        chosen, rejected = (
            chat_example(
                self.tokenizer, [*parsed.prompt, *answer], parsed.tools, train_on_input=False, turns="last"
            )
            for answer in (parsed.chosen, parsed.rejected)
        )
        if chosen.tokens == rejected.tokens:
            return SkipReason("have two answers that the chat template renders identically")
        return self._truncate(Pair(chosen, rejected, notes=(*chosen.notes, *rejected.notes)))


def _count_shared_turns(one: list[Message], other: list[Message]) -> int:
    """Count the turns that two conversations have in common at their start."""
    common = itertools.takewhile(lambda turns: turns[0] == turns[1], zip(one, other, strict=False))
    return len(list(common))
