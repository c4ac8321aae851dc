"""Sphinx extension that links the first use of each glossary term on a page to its definition."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

GLOSSARY = "glossary"
UNLINKED_NODES = (nodes.title, nodes.rubric, nodes.reference, nodes.literal, nodes.literal_block, nodes.raw)
"""Nodes whose text is not linked."""


def link_terms(app: Sphinx, page: nodes.document, name: str) -> None:
    """Link the first use of each term in a page's text, except in the reference and in the glossary."""
    if name == GLOSSARY or name.startswith("reference/"):
        return
    objects = app.env.get_domain("std").get_objects()
    anchors = {term.lower(): anchor for term, _, kind, _, anchor, _ in objects if kind == "term"}
    # Longer terms come first, so that a term is not matched as a part of a longer one.
    alternatives = "|".join(re.escape(term) for term in sorted(anchors, key=len, reverse=True))
    pattern = re.compile(rf"\b({alternatives})(?:s|es)?\b", re.IGNORECASE)
    address = app.builder.get_relative_uri(name, GLOSSARY)
    for text in list(page.findall(nodes.Text)):
        if not any(isinstance(parent, UNLINKED_NODES) for parent in ancestors(text)):
            text.parent.replace(text, link_text(str(text), pattern, anchors, address))


def ancestors(node: nodes.Node) -> list[nodes.Node]:
    """Return the nodes that contain a node, innermost first."""
    parents = []
    while (node := node.parent) is not None:
        parents.append(node)
    return parents


def link_text(text: str, pattern: re.Pattern[str], anchors: dict[str, str], address: str) -> list[nodes.Node]:
    """Split text into plain parts and links to the glossary, and remove the linked terms from `anchors`."""
    parts: list[nodes.Node] = []
    end = 0
    for match in pattern.finditer(text):
        if (anchor := anchors.pop(match[1].lower(), None)) is not None:
            parts.append(nodes.Text(text[end : match.start()]))
            link = nodes.reference("", match[0], refuri=f"{address}#{anchor}", internal=True)
            link["classes"].append("term")
            parts.append(link)
            end = match.end()
    return [*parts, nodes.Text(text[end:])]


def setup(app: Sphinx) -> dict[str, Any]:
    """Link terms once references are resolved."""
    app.connect("doctree-resolved", link_terms)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
