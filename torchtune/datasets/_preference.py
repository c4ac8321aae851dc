"""Pairs of answers, of which one is preferred."""

from attrs import frozen

from torchtune.data import Example, Message, Preference, Tokenizer, chat_example, check_chat
from torchtune.datasets._conversations import COLUMNS
from torchtune.datasets._hub import LoadOptions
from torchtune.datasets._messages import read_message, read_messages
from torchtune.datasets._row_dataset import Nothing, OnError, RowDataset, checked_columns, found, required
from torchtune.datasets._source import Source, open_source
from torchtune.datasets._tables import Row


@frozen
class Pair:
    """A prompt and two answers, as turns."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


class PreferenceDataset(RowDataset[Pair, Preference]):
    """Pairs of answers to one prompt, the better one `chosen` and the other `rejected`.

    The two columns hold texts, turns, or whole conversations that begin alike. The prompt stands in a column `prompt`
    (text or turns), or in `messages` or `conversations`; whole conversations need none. Texts become a user's turn and
    an assistant's.

    Args:
        tokenizer: Its chat template writes the conversations out.
        source: The rows: a local file (.json, .jsonl, .csv, .tsv, .parquet, .arrow), a folder or a pattern of such
            files, the name of a data set on the Hugging Face hub, or a list of rows.
        columns: The columns' names there, where they are others: `{prompt: question}`.
        system: A system's turn for conversations that have none.
        split: Which split of a data set on the hub.
        load_options: What else a data set on the hub needs: name, revision, data_dir, data_files,
            cache_dir (as `datasets.load_dataset` takes them). `streaming: true` reads it, or local Parquet files, as
            the run goes, with no copy on the disk; `rows` says how many rows of it make an epoch.
        max_seq_len: Longest of the two in tokens; a longer one is cut at its right end. Null: any length.
        on_error: What becomes of a row that cannot be used: "raise" an error, or "skip" it, counted.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, or the tokenizer has no chat template or it does not end answers.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - these are settings of a config, given by name.
        self,
        tokenizer: Tokenizer,
        source: Source,
        columns: dict[str, str] | None = None,
        system: str | None = None,
        split: str = "train",
        load_options: LoadOptions | None = None,
        max_seq_len: int | None = None,
        on_error: OnError = "raise",
    ) -> None:
        check_chat(tokenizer)
        self._tokenizer, self._system = tokenizer, system
        self._columns = checked_columns(columns, ("prompt", "chosen", "rejected"))
        super().__init__(open_source(source, split, load_options), max_seq_len, "right", on_error)

    def _parse(self, row: Row) -> Pair | Nothing:
        names = self._columns
        chosen, rejected = (
            _turns(required(row, names[key], key), names[key], "assistant") for key in ("chosen", "rejected")
        )
        place = next((name for name in (names["prompt"], *COLUMNS) if row.get(name) is not None), None)
        if place is None:
            shared = _shared(chosen, rejected)
            prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
            if not prompt:
                raise ValueError(
                    f"no column {names['prompt']!r}, and what is chosen and rejected do not begin alike; {found(row)}"
                )
        else:
            prompt = _turns(row[place], place, "user")
        if self._system is not None and prompt[0]["role"] != "system":
            prompt = [Message(role="system", content=self._system), *prompt]
        for turns, name in ((chosen, names["chosen"]), (rejected, names["rejected"])):
            if not turns or turns[-1]["role"] != "assistant":
                raise ValueError(f"{name!r}: expected to end with a turn of the assistant's")
        if chosen == rejected:
            return Nothing("have two answers that are the same")
        return Pair(prompt, chosen, rejected)

    def _encode(self, parsed: Pair, /) -> Preference | Nothing:
        both = []
        for answer in (parsed.chosen, parsed.rejected):
            turns = [*parsed.prompt, *answer]
            fitted = self._fitted(chat_example(self._tokenizer, turns, train_on_input=False, turns="last"))
            if isinstance(fitted, Nothing):
                return fitted
            both.append(fitted)
        return Preference(*both)

    def _apart(self, encoded: Preference) -> list[Example]:
        return [encoded.chosen, encoded.rejected]

    def _joined(self, examples: list[Example]) -> Preference:
        return Preference(*examples)


def _turns(value: object, name: str, role: str) -> list[Message]:
    """Read text, one turn or several."""
    if isinstance(value, str):
        return [Message(role=role, content=value)]
    return [read_message(value, name)] if isinstance(value, dict) else read_messages(value, name)


def _shared(one: list[Message], other: list[Message]) -> int:
    """Count the turns with which two conversations begin alike."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
