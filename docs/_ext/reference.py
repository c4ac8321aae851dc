"""Sphinx directives that generate the reference from the code and from `tune --help`."""

import contextlib
import importlib
import inspect
import io
import pkgutil
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

import torchtune.models
from torchtune.cli import main
from torchtune.config.model import (
    Slot,
    describe,
    inline_yaml,
    parameters_of,
    section_of,
    slots,
    unstructured_default,
)
from torchtune.internals import PROBED_FEATURES
from torchtune.runs import load_recipe

SIZED_PARAMETERS = ["max_seq_len"]
"""The parameters of every builder for a fixed model size."""


class _GeneratedMarkdown(SphinxDirective):
    """A directive that generates MyST text."""

    required_arguments = 1

    def parse(self, lines: list[str]) -> list[nodes.Node]:
        """Parse MyST text at the directive's location."""
        container = nodes.container(classes=["generated-reference"])
        self.state.nested_parse(
            StringList(lines, source=self.get_source_info()[0]), self.content_offset, container
        )
        return [container]


class RecipeFields(_GeneratedMarkdown):
    """`{recipe-fields} NAME`: lists the fields of a recipe's config class and of its sections."""

    def run(self) -> list[nodes.Node]:
        """Return the fields as a definition list."""
        config_class = load_recipe(self.arguments[0]).config_class
        assert config_class is not None
        return self.parse(field_definitions(config_class, ""))


def field_definitions(cls: type, prefix: str) -> list[str]:
    """Return a definition list of the fields of a config class."""
    lines = []
    for name, slot in slots(cls, {}).items():
        lines += [f"`{prefix}{name}`: {describe(slot.type)}, {_default(slot)}", f":   {_line(slot.doc)}", ""]
        if section := section_of(slot.type):
            lines += field_definitions(section, f"{prefix}{name}.")
    return lines


def _default(slot: Slot) -> str:
    has_default, value = unstructured_default(slot)
    if not has_default:
        return "**required**"
    text = inline_yaml(value)
    if isinstance(value, dict) and "_component_" in value:
        path = value["_component_"]
        arguments = [f"{k}={v}" for k, v in value.items() if k != "_component_"]
        text = f"{path}({', '.join(arguments)})"
    if section_of(slot.type) and isinstance(value, dict):
        return "with the fields below"
    return f"default `{text}`"


def _line(text: str) -> str:
    """Join the lines of a docstring."""
    return " ".join(text.split())


def builders_of_sizes(family: Any) -> list[str]:
    """Return the names of a family's builders for fixed sizes."""
    values = vars(family).items()  # includes imports from other families
    functions = [n for n, f in values if inspect.isfunction(f) and f.__module__ == family.__name__]
    return [name for name in functions if list(parameters_of(getattr(family, name))) == SIZED_PARAMETERS]


class ModelSizes(_GeneratedMarkdown):
    """`{model-sizes}`: inserts a table of the builders of every family, with their parameters."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        """Build each model on the meta device and count its parameters."""
        import torch

        rows = ["| builder | parameters | longest sequence |", "|---|---|---|"]
        for entry in pkgutil.iter_modules(torchtune.models.__path__):
            if entry.name.startswith("_"):
                continue
            family = importlib.import_module(f"torchtune.models.{entry.name}")
            for name in builders_of_sizes(family):
                with torch.device("meta"):
                    model = getattr(family, name)()
                count = sum(p.numel() for p in model.parameters())
                length = model.architecture.max_seq_len
                rows.append(f"| `torchtune.models.{entry.name}.{name}` | {count:,} | {length:,} |")
        return self.parse(rows)


class Internals(_GeneratedMarkdown):
    """`{internals}`: inserts a table of the features that rely on internals of other libraries."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        """Return a table with one row per entry."""
        rows = ["| feature | tested with | benefit | fallback |", "|---|---|---|---|"]
        rows += [f"| {p.name} | {p.tested_with} | {p.benefit} | {p.fallback} |" for p in PROBED_FEATURES]
        return self.parse(rows)


class PublicNames(_GeneratedMarkdown):
    """`{public-names} PACKAGE`: documents every public name of a package or module."""

    def run(self) -> list[nodes.Node]:
        """Return an autodoc directive for each name: first classes, then functions, then values."""
        module = importlib.import_module(self.arguments[0])
        lines = ["```{eval-rst}"]
        for name in sorted(public_names(module), key=lambda name: (_kind_of(module, name), name.lower())):
            lines += [*_autodoc_lines(module, name), ""]
        return self.parse([*lines, "```"])


def public_names(module: ModuleType) -> list[str]:
    """Return the names that a package exports, or the names that a module without `__all__` defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    if hasattr(module, "__path__"):
        return dir(module)  # the package imports its names on first use
    functions = inspect.getmembers(module, inspect.isroutine)
    return [name for name, f in functions if f.__module__ == module.__name__ and not name.startswith("_")]


def _autodoc_lines(module: ModuleType, name: str) -> list[str]:
    path = f"{module.__name__}.{name}"
    match _kind_of(module, name):
        case "class":
            return [f".. autoclass:: {path}", "   :members:"]
        case "function":
            return [f".. autofunction:: {path}"]
    return [f".. py:data:: {path}", "", *(f"   {line}" for line in value_docs(module)[name])]


def _kind_of(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    if inspect.isclass(value):
        return "class"
    return "function" if inspect.isroutine(value) else "value"


def value_docs(package: ModuleType) -> dict[str, list[str]]:
    """Return the docstrings of a package's constants and type aliases, which autodoc does not find."""
    docs: dict[str, list[str]] = {}
    for entry in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(entry.name)
        attributes = ModuleAnalyzer.for_module(entry.name).find_attr_docs()
        docs |= {name: lines for (owner, name), lines in attributes.items() if not owner}
    return docs


class TuneHelp(_GeneratedMarkdown):
    """`{tune-help} COMMAND`: inserts the output of `tune COMMAND --help`, or of `tune --help` if COMMAND is `tune`."""

    def run(self) -> list[nodes.Node]:
        """Return the help text as a literal block."""
        command = self.arguments[0]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            main(["--help"] if command == "tune" else [command, "--help"])
        return [nodes.literal_block(out.getvalue().rstrip(), out.getvalue().rstrip(), language="text")]


class AttributeDocstrings:
    """Protects docstrings of fields and properties from napoleon, which reads the text before a colon as a type."""

    KINDS = ("attribute", "property")

    def __init__(self) -> None:
        self._lines: list[str] = []

    def save(self, _app: Sphinx, kind: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
        """Save a docstring before napoleon changes it."""
        if kind in self.KINDS:
            self._lines = list(lines)

    def restore(
        self, _app: Sphinx, kind: str, _name: str, _value: Any, _options: Any, lines: list[str]
    ) -> None:
        """Restore the saved docstring."""
        if kind in self.KINDS:
            lines[:] = self._lines


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("recipe-fields", RecipeFields)
    app.add_directive("tune-help", TuneHelp)
    app.add_directive("model-sizes", ModelSizes)
    app.add_directive("internals", Internals)
    app.add_directive("public-names", PublicNames)
    docstrings = AttributeDocstrings()
    app.connect("autodoc-process-docstring", docstrings.save, priority=400)  # napoleon's priority is 500
    app.connect("autodoc-process-docstring", docstrings.restore, priority=600)
    return {"version": "1", "parallel_read_safe": True}
