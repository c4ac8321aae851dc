"""Test the code-line counter on hand-counted snippets."""

import pytest

from scripts.code_lines import count_code, count_packages, table

TEXT = '''\
"""A module's docstring.

It has three lines, of which one is blank.
"""

import os  # 1: a trailing comment does not change the count

# A comment alone.
LIMIT = 3  # 2
"""A docstring of a constant."""

TEXT = """\\
two lines of text, and

a blank line, and the closing quotes: 3 to 7; every line of a string that is a value is counted
"""  # 7


class Empty:  # 8
    """A class with a docstring only."""


def one_line(): "é: code and a docstring on a line"; return LIMIT  # 9


def join(  # 10
    *parts: str,  # 11

    end: str = "# no comment",  # 12

    # A comment in parentheses; like the blank lines around it, it is not counted.
) -> str:  # 13
    ("a docstring in two parts, "
     "in brackets")
    joined = "".join(parts) + \\
        end  # 14, 15
    return f"""{
        joined
    }"""  # 16 to 18


"é"; one_line()  # 19
'''


def test_docstrings_comments_and_blank_lines_are_not_counted() -> None:
    assert count_code(TEXT) == 19


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", '"""Only a docstring."""\n', "'a' 'b'"])
def test_files_without_code_have_no_code_lines(text: str) -> None:
    assert count_code(text) == 0


def test_table_shows_totals_per_package_and_differences() -> None:
    totals = count_packages(
        [
            ("torchtune/__init__.py", "x = 1\n"),
            ("torchtune/data/_a.py", "# a\nx = 1\n"),
            ("torchtune/data/deep/_b.py", "x = 1\ny = 2\n"),
            ("recipes/a.py", "x = 1\n\n"),
        ]
    )
    assert totals == {"torchtune": (1, 1), "torchtune/data": (3, 4), "recipes": (1, 2)}
    rows = table(totals, {"torchtune/data": (5, 5), "torchtune/old": (2, 2)})
    assert [row.split() for row in rows] == [
        ["code", "lines", "code", "lines"],
        ["torchtune", "1", "1", "+1", "+1"],
        ["torchtune/data", "3", "4", "-2", "-1"],
        ["torchtune/old", "0", "0", "-2", "-2"],
        ["recipes", "1", "2", "+1", "+2"],
        ["torchtune,", "total", "4", "5", "-3", "-2"],
        ["total", "5", "7", "-2", "+0"],
    ]
