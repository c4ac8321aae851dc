"""The docstrings below the fields of a class."""

import ast
import functools
import inspect
import itertools
import textwrap


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a class, including inherited fields."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):  # defined interactively, without source code
            continue
        docs |= _docs_in(body)
    return docs


def _docs_in(node: ast.stmt) -> dict[str, str]:
    statements = getattr(node, "body", [])
    docs = {}
    for statement, next_statement in itertools.pairwise(statements):
        is_text = isinstance(next_statement, ast.Expr) and isinstance(next_statement.value, ast.Constant)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and is_text:
            docs[statement.target.id] = inspect.cleandoc(str(next_statement.value.value))
    return docs
