"""What is likely to be a mistake in rows is said, and nothing of rows that are well."""

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import IGNORE_INDEX, Encoded, Example, LeftOut, pieces, plain_example, report


class Knowing(ByteTokenizer):
    unknown_id = 63
    """A question mark."""


def example(text: str, answer: str = "A.") -> Example:
    return plain_example(Knowing(), text, answer, train_on_input=False)


def test_rows_that_are_well_are_counted() -> None:
    rows: list[Encoded[Example]] = [
        example("a"),
        example("b"),
        LeftOut("have no answer", "line 3"),
        [example("c"), example("d")],
    ]
    found = report(rows, Knowing(), range(4), longest=4)
    assert (found.n_rows, found.n_read, found.lengths) == (4, 4, [5, 5, 5, 5])
    assert (found.n_tokens, found.n_targets, found.n_cut, found.n_doubled) == (20, 12, 0, 0)
    assert found.left_out == {"have no answer": ["line 3"]}
    assert found.warnings == ["1 of 4 rows has no answer and is left out; the first: line 3"]
    assert report(rows, Knowing(), [0], longest=3).n_cut == 1


def test_every_kind_of_mistake_is_said() -> None:
    twice, endless = example("a"), example("b")
    rows = [
        Example([256, *twice.tokens], [IGNORE_INDEX, *twice.labels]),
        Example(endless.tokens[:-1], endless.labels[:-1]),
        example("???????"),
        example("c"),
        example("c"),
    ]
    warnings = report(rows, Knowing(), range(5)).warnings
    for said in (
        "1 of 5 examples begins with BOS twice",
        "1 of 5 examples does not end with a token that ends an answer",
        "of all tokens are unknown to the tokenizer",
        "1 of 5 examples stands there twice or more",
    ):
        assert any(said in warning for warning in warnings), said
    whole = [Example(e.tokens, list(e.tokens)) for e in (twice, endless)]
    assert report(whole, Knowing(), range(2)).warnings == [
        "every token is a target: what is given, the prompts, is learnt too"
    ]
    nothing = report([LeftOut("are empty", "line 1")], Knowing(), [0])
    assert nothing.warnings == ["no row gives anything to learn"]


def test_tokens_are_shown_as_a_reader_sees_them() -> None:
    shown = pieces(Knowing(), example("a"))
    assert [piece.text for piece in shown] == ["<|bos|>", "a", "A", ".", "<|eos|>"]
    assert [piece.is_target for piece in shown] == [False, False, True, True, True]
    assert [piece.is_special for piece in shown] == [True, False, False, False, True]


def test_held_out_rows_among_those_trained_on_are_told() -> None:
    rows: list[Encoded[Example]] = [example("a"), example("b"), [example("c"), example("d")], example("e")]
    held_out: list[Encoded[Example]] = [
        example("a"),
        example("b", "Another."),
        example("f"),
        LeftOut("have no answer", "line 4"),
        [example("f"), example("d")],
    ]
    found = report(rows, Knowing(), range(4), held_out=held_out)
    assert (found.n_held_out, found.held_out_seen, found.held_out_asked) == (4, ["row 1", "row 5"], ["row 2"])
    assert found.warnings == [
        "2 of 4 held-out rows stand among the rows that are trained on; the first: row 1",
        "1 of 4 held-out rows has a prompt that is trained on, with another answer; the first: row 2",
    ]
    assert not report(rows, Knowing(), range(4), held_out=[example("f")]).warnings


def test_texts_without_a_prompt_are_compared_as_a_whole() -> None:
    rows = [plain_example(Knowing(), "", text, train_on_input=True) for text in ("a", "b")]
    found = report(
        rows, Knowing(), range(2), held_out=[rows[1], plain_example(Knowing(), "", "c", train_on_input=True)]
    )
    assert (found.held_out_seen, found.held_out_asked) == (["row 1"], [])
