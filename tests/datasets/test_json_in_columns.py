"""JSON text in a column is parsed as strictly as a JSON Lines file, but may contain any white space."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.expected_examples import AGENT, answer_target, assistant, example, question_text, user
from tests.tokenizers.kinds import KINDS, LLAMA3_RANKS, TEMPLATE
from torchtune.data import Pair, SkippedRow
from torchtune.datasets import ChatDataset, PreferenceDataset, RowError
from torchtune.generation import encode_prompt, read_prompts
from torchtune.tokenizers import _tiktoken

TOKENIZER = ByteTokenizer(AGENT)
GOOD: dict[str, Any] = {"messages": [user(), assistant()]}
UNPAIRED = "x\ud83d"


def calling(arguments: str) -> list[dict[str, Any]]:
    return [user(), assistant(None, tool_calls=[{"name": "f", "arguments": arguments}])]


DAMAGED = [
    ({"messages": json.dumps([user(UNPAIRED), assistant()])}, "an unpaired surrogate"),
    (
        {"prompt": json.dumps([user()]), "completion": json.dumps([assistant(UNPAIRED)])},
        "an unpaired surrogate",
    ),
    ({**GOOD, "tools": json.dumps([{"name": UNPAIRED}])}, "an unpaired surrogate"),
    ({**GOOD, "tools": [json.dumps({"name": UNPAIRED})]}, "an unpaired surrogate"),
    ({"messages": calling(json.dumps({"a": UNPAIRED}))}, "an unpaired surrogate"),
    (
        {"messages": [user(), {"from": "function_call", "value": json.dumps({"name": UNPAIRED})}]},
        "an unpaired surrogate",
    ),
    ({"messages": '[{"role": "user", "content": "a", "content": "b"}]'}, "has the key 'content' twice"),
    ({"messages": calling('{"a": 1, "a": 2}')}, "has the key 'a' twice"),
    ({**GOOD, "tools": '[{"name": "f", "name": "g"}]'}, "has the key 'name' twice"),
    ({"messages": calling('{"a": NaN}')}, "NaN is not a JSON value"),
    ({**GOOD, "tools": '[{"name": "f", "most": Infinity}]'}, "Infinity is not a JSON value"),
    ({"messages": calling('{"a": 1e999}')}, "too large for a float"),
    ({"messages": "[" * 100_000}, "nested too deeply"),
    ({"messages": calling('{"a": ' + "9" * 5000 + "}")}, "a number cannot be read"),
]


@pytest.mark.parametrize(("row", "message"), DAMAGED, ids=[str(i) for i in range(len(DAMAGED))])
def test_damaged_json_in_a_column_raises_an_error_that_names_the_row(
    row: dict[str, Any], message: str
) -> None:
    with pytest.raises(RowError, match="source: row 2: ") as raised:
        ChatDataset(TOKENIZER, [GOOD, row])
    assert message in str(raised.value)
    dataset = ChatDataset(TOKENIZER, [GOOD, row, GOOD], on_error="skip")
    skipped = dataset[1]
    assert isinstance(skipped, SkippedRow)
    assert message in skipped.location
    assert dataset[2] == dataset[0] == example(question_text(), answer_target())


@pytest.mark.parametrize("kind", KINDS)
def test_an_unpaired_surrogate_in_json_text_raises_an_error_that_names_the_row(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tiktoken, "N_RANKS", LLAMA3_RANKS)
    folder = KINDS[kind].write(tmp_path / "tokenizer")
    (tmp_path / "mine.jinja").write_text(TEMPLATE)
    tokenizer = KINDS[kind].load(str(folder), chat_template=str(tmp_path / "mine.jinja"))
    rows = [GOOD, {"messages": json.dumps([user(UNPAIRED), assistant()])}]
    assert isinstance(ChatDataset(tokenizer, rows, on_error="skip")[1], SkippedRow)
    with pytest.raises(RowError, match=r"source: row 2: .*an unpaired surrogate"):
        ChatDataset(tokenizer, rows)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"rows\.jsonl: line 2: .*an unpaired surrogate"):
        [encode_prompt(tokenizer, prompt, "chat") for prompt in read_prompts(tmp_path / "rows.jsonl")]
    with pytest.raises(ValueError, match="an unpaired surrogate"):
        ChatDataset(tokenizer, [GOOD], system=UNPAIRED)


def spaced(value: Any) -> str:
    return json.dumps(value).replace("[", "[ ", 1)


def indented(value: Any) -> str:
    return json.dumps(value, indent=2)


@pytest.mark.parametrize("layout", [indented, spaced, lambda value: f"\n\t{indented(value)} \n"])
def test_turns_as_json_text_may_contain_any_white_space(layout: Any, tmp_path: Path) -> None:
    row = {"prompt": layout([user()]), "completion": layout([assistant()])}
    assert ChatDataset(TOKENIZER, [row])[0] == example(question_text(), answer_target())
    pair = Pair(example(question_text(), answer_target()), example(question_text(), answer_target("B")))
    conversations = {"chosen": layout([user(), assistant()]), "rejected": layout([user(), assistant("B")])}
    assert PreferenceDataset(TOKENIZER, [conversations])[0] == pair
    split = {"prompt": layout([user()]), "chosen": layout([assistant()]), "rejected": "B"}
    assert PreferenceDataset(TOKENIZER, [split])[0] == pair
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    (prompt,) = read_prompts(tmp_path / "rows.json")
    assert encode_prompt(TOKENIZER, prompt, "chat") == example(question_text()).tokens
