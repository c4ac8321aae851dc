"""Faults in the library's code: an arithmetic operation of a function is replaced by another one."""

import ast
import inspect
import random
import textwrap
from collections.abc import Callable
from typing import Any

_REPLACEMENTS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}


_METHODS = {"mul_": "div_", "sub_": "add_", "add_": "sub_"}


def mutated(function: Callable[..., Any], seed: int) -> tuple[Callable[..., Any], str]:
    """Return a copy of a function with a randomly chosen operation replaced, and the changed expression."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    node = random.Random(seed).choice([node for node in ast.walk(tree) if _is_mutable(node)])
    before = ast.unparse(node)
    match node:
        case ast.BinOp():
            node.op = _REPLACEMENTS[type(node.op)]()
        case ast.UnaryOp():
            node.op = ast.UAdd()
        case ast.Attribute():
            node.attr = _METHODS[node.attr]
    scope: dict[str, Any] = {}
    exec(compile(tree, "<mutated>", "exec"), function.__globals__, scope)
    return scope[function.__name__], f"{before} became {ast.unparse(node)}"


def _is_mutable(node: ast.AST) -> bool:
    match node:
        case ast.BinOp():
            return type(node.op) in _REPLACEMENTS
        case ast.UnaryOp():
            return isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant)
        case ast.Attribute():
            return node.attr in _METHODS
    return False
