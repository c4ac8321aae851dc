"""Sphinx directives that write the reference from the classes and from `tune` itself."""

import contextlib
import io
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from torchtune.cli import load_recipe, main
from torchtune.config import Slot, describe, render_yaml, section_of, slots, unstructured_default


class _Written(SphinxDirective):
    """A directive whose content is MyST text that it writes."""

    required_arguments = 1

    def parsed(self, lines: list[str]) -> list[nodes.Node]:
        """Parse MyST text in the place of the directive."""
        container = nodes.container(classes=["field-table"])
        self.state.nested_parse(
            StringList(lines, source=self.get_source_info()[0]), self.content_offset, container
        )
        return list(container.children)


class RecipeFields(_Written):
    """`{recipe-fields} NAME`: a table of the fields of a recipe's config class, and one for each section."""

    def run(self) -> list[nodes.Node]:
        """Write the tables."""
        config_class = load_recipe(self.arguments[0]).config_class
        assert config_class is not None
        return self.parsed(table(config_class, ""))


def table(cls: type, prefix: str) -> list[str]:
    """Return a table of the fields of a config class, its sections' fields among them."""
    rows = ["| field | type | default | what it is |", "|---|---|---|---|", *_rows(cls, prefix)]
    return [*rows, ""]


def _rows(cls: type, prefix: str) -> list[str]:
    rows = []
    for name, slot in slots(cls, {}).items():
        rows.append(
            f"| `{prefix}{name}` | {_cell(describe(slot.type))} | {_default(slot)} | {_cell(slot.doc)} |"
        )
        if section := section_of(slot.type):
            rows += _rows(section, f"{prefix}{name}.")
    return rows


def _default(slot: Slot) -> str:
    found, value = unstructured_default(slot)
    if not found:
        return "required"
    text = " ".join(render_yaml(value).removesuffix("\n...\n").split())
    if isinstance(value, dict) and "_component_" in value:
        path = value["_component_"]
        given = [f"{k}={v}" for k, v in value.items() if k != "_component_"]
        text = f"{path}({', '.join(given)})"
    return f"`{text}`" if text and "\n" not in text else "a section of its own"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


class TuneHelp(_Written):
    """`{tune-help} VERB`: what `tune VERB --help` prints; `tune --help` for the word `tune`."""

    def run(self) -> list[nodes.Node]:
        """Print it."""
        verb = self.arguments[0]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            main(["--help"] if verb == "tune" else [verb, "--help"])
        return [nodes.literal_block(out.getvalue().rstrip(), out.getvalue().rstrip(), language="text")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("recipe-fields", RecipeFields)
    app.add_directive("tune-help", TuneHelp)
    return {"version": "1", "parallel_read_safe": True}
