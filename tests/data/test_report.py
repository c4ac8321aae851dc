"""The data report warns about likely problems in rows and about nothing else."""

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import IGNORE_INDEX, Encoded, Example, SkippedRow, decode_tokens, plain_example, report


class UnknownTokenizer(ByteTokenizer):
    """A tokenizer whose unknown token is the question mark."""

    unknown_id = 63


def example(text: str, answer: str = "A.") -> Example:
    return plain_example(UnknownTokenizer(), text, answer, train_on_input=False)


def test_rows_are_counted() -> None:
    rows: list[Encoded[Example]] = [
        example("a"),
        example("b"),
        SkippedRow("have no answer", "line 3"),
        [example("c"), example("d")],
    ]
    counts = report(rows, UnknownTokenizer(), range(4), longest=4)
    assert (counts.n_rows, counts.n_read, counts.lengths) == (4, 4, [5, 5, 5, 5])
    assert (counts.n_tokens, counts.n_targets, counts.n_truncated, counts.n_duplicates) == (20, 12, 0, 0)
    assert counts.skipped == {"have no answer": ["line 3"]}
    assert counts.warnings == ["1 of 4 rows has no answer and is skipped; first occurrence: line 3"]
    assert report(rows, UnknownTokenizer(), [0], longest=3).n_truncated == 1


def test_every_likely_problem_is_reported() -> None:
    double_bos, unterminated = example("a"), example("b")
    rows = [
        Example([256, *double_bos.tokens], [IGNORE_INDEX, *double_bos.labels]),
        Example(unterminated.tokens[:-1], unterminated.labels[:-1]),
        example("???????"),
        example("c"),
        example("c"),
    ]
    warnings = report(rows, UnknownTokenizer(), range(5)).warnings
    for text in (
        "1 of 5 examples begins with BOS twice",
        "1 of 5 examples does not end with a stop token",
        "of all tokens are unknown to the tokenizer",
        "1 of 5 examples repeats an earlier example",
    ):
        assert any(text in warning for warning in warnings), text
    without_masks = [Example(e.tokens, list(e.tokens)) for e in (double_bos, unterminated)]
    assert report(without_masks, UnknownTokenizer(), range(2)).warnings == [
        "every token is a target: the model is trained on the prompts too"
    ]
    skipped = report([SkippedRow("are empty", "line 1")], UnknownTokenizer(), [0])
    assert skipped.warnings == ["no row has a target"]


def test_examples_are_decoded_token_by_token() -> None:
    tokens = decode_tokens(UnknownTokenizer(), example("a"))
    assert [token.text for token in tokens] == ["<|bos|>", "a", "A", ".", "<|eos|>"]
    assert [token.is_target for token in tokens] == [False, False, True, True, True]
    assert [token.is_special for token in tokens] == [True, False, False, False, True]


def test_held_out_rows_in_the_training_data_are_reported() -> None:
    rows: list[Encoded[Example]] = [example("a"), example("b"), [example("c"), example("d")], example("e")]
    held_out: list[Encoded[Example]] = [
        example("a"),
        example("b", "Another."),
        example("f"),
        SkippedRow("have no answer", "line 4"),
        [example("f"), example("d")],
    ]
    counts = report(rows, UnknownTokenizer(), range(4), held_out=held_out)
    assert (counts.n_held_out, counts.leaked_rows, counts.leaked_prompts) == (
        4,
        ["row 1", "row 5"],
        ["row 2"],
    )
    assert counts.warnings == [
        "2 of 4 held-out rows are also in the training data; first occurrence: row 1",
        "1 of 4 held-out rows has the prompt of a training example, but a different answer; first occurrence: row 2",
    ]
    assert not report(rows, UnknownTokenizer(), range(4), held_out=[example("f")]).warnings


def test_held_out_text_without_a_prompt_is_compared_token_for_token() -> None:
    rows = [plain_example(UnknownTokenizer(), "", text, train_on_input=True) for text in ("a", "b")]
    counts = report(
        rows,
        UnknownTokenizer(),
        range(2),
        held_out=[rows[1], plain_example(UnknownTokenizer(), "", "c", train_on_input=True)],
    )
    assert (counts.leaked_rows, counts.leaked_prompts) == (["row 1"], [])
