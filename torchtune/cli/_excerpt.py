"""Extract one function and its dependencies into a new Python file, with formatting and comments intact."""

import ast
from collections.abc import Iterator, Sequence

WIDTH = 110


def excerpt(text: str, function: str) -> str:
    """Return the source of a new Python file that contains one function of an existing file and its dependencies.

    Args:
        text: The source of the existing file.
        function: The name of a top-level function in the existing file.
    """
    body = ast.parse(text).body
    pieces = _pieces(body, text.splitlines())
    needed = _needed(pieces, function)
    imports = list(_imports(pieces, needed))
    statements = [piece for piece in pieces if not piece.is_import and piece.names & needed]
    parts = ["\n".join(imports).strip("\n")] if imports else []
    for previous, piece in zip([None, *statements], statements, strict=False):
        is_adjacent = not piece.is_definition and (previous is None or not previous.is_definition)
        parts.append(("" if is_adjacent or not parts else "\n") + piece.source)
    return "\n\n".join(parts) + "\n"


class _Piece:
    """A top-level statement, with the comments directly above it and the docstring directly below it."""

    def __init__(self, node: ast.stmt, source: str, gap: bool) -> None:
        self.node, self.source = node, source
        self.gap = gap
        """True if the line above is empty."""
        self.is_import = isinstance(node, (ast.Import, ast.ImportFrom))
        self.is_definition = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        self.names = set(_bound_names(node))
        self.uses = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | set(_annotation_names(node))


def _imports(pieces: Sequence[_Piece], needed: set[str]) -> Iterator[str]:
    """Yield the needed imports, reduced to the needed names, with the empty lines between groups of imports."""
    gap = False
    for piece in [piece for piece in pieces if piece.is_import]:
        gap |= piece.gap
        is_future = isinstance(piece.node, ast.ImportFrom) and piece.node.module == "__future__"
        if not (piece.names & needed or is_future):
            continue
        if gap:
            yield ""
        gap = False
        yield piece.source if is_future or piece.names <= needed else _reduced_import(piece.node, needed)


def _pieces(body: Sequence[ast.stmt], lines: list[str]) -> list[_Piece]:
    pieces: list[_Piece] = []
    for i, node in enumerate(body):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # the docstring of the file, or of an assignment, which is part of the assignment's piece
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        while first > 1 and lines[first - 2].startswith("#") and not lines[first - 2].startswith("#!"):
            first -= 1
        after = body[i + 1] if i + 1 < len(body) else None
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        has_docstring = is_text and isinstance(node, (ast.Assign, ast.AnnAssign))
        last = after.end_lineno if after is not None and has_docstring else node.end_lineno
        gap = first > 1 and not lines[first - 2].strip()
        pieces.append(_Piece(node, "\n".join(lines[first - 1 : last]), gap))
    return pieces


def _needed(pieces: Sequence[_Piece], function: str) -> set[str]:
    """Return the names that a function needs, directly or indirectly."""
    needed, added = set[str](), {function}
    while added:
        needed |= added
        added = {name for p in pieces if p.names & needed and not p.is_import for name in p.uses} - needed
    return needed


def _bound_names(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement binds."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    else:
        yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _annotation_names(node: ast.stmt) -> Iterator[str]:
    """Yield the names in string annotations."""
    for inner in ast.walk(node):
        for hint in (getattr(inner, "annotation", None), getattr(inner, "returns", None)):
            if isinstance(hint, ast.Constant) and isinstance(hint.value, str):
                yield from (n.id for n in ast.walk(ast.parse(hint.value)) if isinstance(n, ast.Name))


def _reduced_import(node: ast.stmt, needed: set[str]) -> str:
    """Return the source of an import reduced to the needed names."""
    assert isinstance(node, (ast.Import, ast.ImportFrom))
    aliases = [a for a in node.names if (a.asname or a.name.partition(".")[0]) in needed]
    if isinstance(node, ast.Import):
        return ast.unparse(ast.Import(aliases))
    line = ast.unparse(ast.ImportFrom(node.module, aliases, node.level))
    if len(line) <= WIDTH:
        return line
    head = line.partition(" import ")[0]
    return "\n".join([f"{head} import (", *(f"    {ast.unparse(a)}," for a in aliases), ")"])
