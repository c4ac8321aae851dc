"""Checker for names and phrases that are banned in this project's code and prose.

A name describes its value; a bare adverb or participle (`found`, `said`) does not. Prose uses the field's terms,
which are listed below with the phrases that they replace. `python -m tests.static.language PATH...` lists every
violation in files and folders.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

BARE_NAMES = re.compile(
    "about|again|alike|along|also|apart|asked|bare|began|beside|between|both|drawn|earlier|elsewhere|every|fits|fitted|"
    "found|given|gone|had|heard|here|how|instead|kept|known|lacking|learnt|least|listed|lost|made|meant|more|most|near|"
    "now|odd|of|only|otherwise|ours|own|passed|placed|put|rest|said|seen|sent|shown|some|sought|sure|taken|theirs|then|"
    "there|today|together|told|until|wanted|what|when|where|which|whole|why|wide|without|within|written"
)
"""Names that do not describe their value. Describe it instead (`matches`, `message`, `expected_type`)."""

NAME_WORDS = re.compile(
    "anew|apart|besides?|behind|fellows?|house|lighten|learnt|ours|said|slip|spelt|theirs|told|wanted"
)
"""Words that no name may contain."""

PHRASES = {
    r"go(es)? on\b|going on\b|went on\b|gone on\b": "continue, resume",
    r"(is|are|was|were) taken up": "resume",
    r"told\b": "reported, logged, passed",
    r"(is|are) said\b": "reported, logged",
    r"is no (loss|number|file|folder|model|tokenizer|reason|list|mapping|class|float|string|name|field)\b": "is not a",
    r"that (is|are) no\b": "that is not",
    r"(is|are|be|was) none\b": "is not one",
    r"ways? out\b": "fix, alternative",
    r"behind\b": "after",
    r"beside\b": "next to, with, in addition to, compared with",
    r"besides\b": "also, in addition",
    r"stand(s|ing)? (in|at|on|before|there|here|above|below|next|for itself)\b|stood\b": "is in, a field holds",
    r"lies? (in|at|below|beside|under|within)\b": "is in",
    r"fellows?\b": "the ranks of this run",
    r"patience (is|was) lost|lost patience": "early stopping",
    r"anew\b|afresh\b": "again",
    r"hardly\b": "almost no",
    r"learnt\b": "learned",
    r"spelt\b": "spelled",
    r"mend(s|ed|ing)?\b": "fix",
    r"at work in\b": "running in",
    r"refus(e|es|ed|al|als|ing)\b": "reject, raise, not supported",
    r"what becomes of\b|becomes of\b": "what happens to",
    r"filled? up\b": "padded",
    r"house\b|brothers?\b|guests?\b": "package, layer, part",
    r"and (its|the|their) like\b": "such as",
    r"once more\b": "again",
    r"of (its|one's|their|our) own\b": "its, your, a separate",
    r"so many\b|so much\b": "that many",
    r"what is (left|there|in it|missing)\b": "name the thing",
    r"shall\b": "should, must",
    r"upon\b": "on",
    r"thereby\b|therein\b|thereof\b|wherein\b|whereof\b": "in this way, in it",
    r"by itself alone\b|alone are\b|alone is\b": "only",
    r"(return|say|tell|see|know|and|of|with|by|from|to) what\b": "a noun in place of the clause",
    r"what (a|an|the|its|it|they|all|else|differs|was|to write)\b": "a noun in place of the clause",
    r"return (where|how)\b": "the location, the number, the way",
    r"tell(s|ing)? (whether|apart|what|which|where|how)\b": "return whether, distinguish, show",
    r"(is|are|and|than|as|by|with) those (of|that|which|in)\b|(is|are|as|than) that of\b": "repeat the noun",
    r"of those\b|among them\b|all that (is|are|a|the)\b": "name the things",
    r"whatever\b": "any, regardless of",
    r"(is|are|be|been|was|were) left out\b": "omitted, skipped, excluded",
    r"to the bit\b": "bit for bit, bitwise",
    r"of (ours|theirs|yours)\b": "a noun",
    r"none,? where\b|true where\b": "if",
    r"the whole of\b|in their order\b|as (it|they) (is|are) held\b": "all, in order",
    r"holds?\b (a|an|it|them|no|all|one|several|what)\b": "contains, stores",
    r"precision of computing\b|data sets?\b": "compute dtype, dataset",
    r"is asked for\b|are asked for\b|asked to\b": "is requested",
}
"""Regular expressions of banned phrases, which match from the start of a word, with their replacements."""

SPACE = r"(?:\s*\n\s*#)?\s+"
"""White space within a phrase, which may include a line break in a comment."""

PATTERNS = [
    (re.compile(rf"(?i)\b(?:{phrase.replace(' ', SPACE)})"), replacement)
    for phrase, replacement in PHRASES.items()
]
"""The compiled phrases, with their replacements."""

ALLOWED: dict[tuple[str, str], str] = {
    ("demo/run.py", "refused"): "part of an error message of pip",
    ("torchtune/config/__init__.py", "between"): "a public validator, as in `between(0, 1)`",
    ("torchtune/config/_validators.py", "between"): "a public validator, as in `between(0, 1)`",
}
"""Allowed uses, as (file, name or lower-case phrase), with the reason."""


class Violation(NamedTuple):
    """A banned name or phrase, with its location and replacement."""

    file: str
    line: int
    text: str
    replacement: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text!r}: {self.replacement}"


def names(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield every name that the nodes of a module define, with its line number."""
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case (
                ast.arg(arg=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield node.lineno, name
            case (
                ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
                | ast.ExceptHandler(name=str(name))
            ):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name


def is_banned(name: str) -> bool:
    """Return whether a name (snake case or camel case) or one of its words is banned."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return bool(
        BARE_NAMES.fullmatch(name.strip("_")) or any(NAME_WORDS.fullmatch(word.lower()) for word in words)
    )


def strings(nodes: Sequence[ast.AST], *, docstrings_only: bool) -> Iterator[tuple[int, str]]:
    """Yield the string literals among the nodes of a module, or only its docstrings, with their line numbers."""
    statements = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)) if not docstrings_only or id(node) in statements:
                yield node.lineno, text


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the text and first line number of each block of consecutive comment lines."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start[0] == last + 1:
            block.append(token.string)
        else:
            if block:
                yield first, "\n".join(block)
            block = [token.string]
            first = token.start[0]
        last = token.start[0]
    if block:
        yield first, "\n".join(block)


def violations_in_prose(file: str, line: int, text: str) -> Iterator[Violation]:
    """Yield the banned phrases of a text, which may contain line breaks."""
    for pattern, replacement in PATTERNS:
        for match in pattern.finditer(text):
            phrase = re.sub(SPACE, " ", match[0]).lower()
            if (file, phrase) not in ALLOWED:
                yield Violation(file, line + text[: match.start()].count("\n"), phrase, replacement)


def violations_in_python(file: str, source: str) -> Iterator[Violation]:
    """Yield the banned names and phrases of a module."""
    nodes = list(ast.walk(ast.parse(source)))
    for line, name in names(nodes):
        if is_banned(name) and (file, name) not in ALLOWED:
            yield Violation(file, line, name, "a name that describes the value")
    for line, text in strings(nodes, docstrings_only=file.startswith("tests/")):
        yield from violations_in_prose(file, line, text)
    for line, text in comments(source):
        yield from violations_in_prose(file, line, text)


def violations_in_markdown(file: str, text: str) -> Iterator[Violation]:
    """Yield the banned phrases of a page, except in code."""
    without_code = re.sub(r"(?ms)^```.*?^```", lambda block: "\n" * block[0].count("\n"), text)
    prose = re.sub(r"`[^`\n]*`", lambda code: " " * len(code[0]), without_code)
    yield from violations_in_prose(file, 1, prose)


def violations(path: Path) -> list[Violation]:
    """List the banned names and phrases of a file."""
    file = path.resolve().relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return list(violations_in_python(file, text))
    return list(violations_in_markdown(file, text))


def files(path: Path) -> list[Path]:
    """List the Python and Markdown files of a folder, or the file itself."""
    if path.is_file():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix in (".py", ".md")
        and not any(part.startswith(".") or part == "build" for part in file.relative_to(path).parts)
    )


if __name__ == "__main__":
    paths = [file for argument in sys.argv[1:] for file in files(Path(argument))]
    all_violations = [violation for file in paths for violation in violations(file)]
    print(*all_violations, f"{len(all_violations)} violations", sep="\n")
