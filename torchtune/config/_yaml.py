"""A parser and renderer for strict YAML: 1.2 scalars and merge keys, but no duplicate keys and no tags."""

import functools
import math
import re
import sys
from typing import Any, Final

import yaml

from torchtune.config._interpolation import Text
from torchtune.config._mistakes import ConfigError, Location, Mistake, Path, display_path
from torchtune.config._tree import Broken, copy_tree

# The C parser is about ten times faster, but PyYAML may be built without libyaml.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

BASE_KEY: Final = "_base_"
"""The key in a YAML file whose value is the name of its base config."""

MAX_BYTES: Final = 4 * 2**20
"""The maximum size of a config file (bytes); a larger file is not a config."""
MAX_NODES: Final = 100_000
"""The maximum number of values after expanding aliases; a larger number indicates an alias bomb."""
MAX_DEPTH: Final = 100
"""The maximum nesting depth."""
MAX_DIGITS: Final = 4000
"""The maximum number of digits of an int; Python's own limit is 4,300."""

# YAML 1.2.2, section 10.3.2, the core schema's tag resolution.
_NULL: Final = re.compile(r"|~|null|Null|NULL")
_BOOL: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]+")
_OCT_HEX: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF: Final = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN: Final = re.compile(r"\.(nan|NaN|NAN)")


def plain_scalar(text: str) -> Any:
    """Return the value of an unquoted scalar under YAML 1.2's core schema.

    `1e-4` is a float; `no`, `12:30` and `1_000` are text. See section 10.3.2 of https://yaml.org/spec/1.2.2/.

    Raises:
        ValueError: The scalar is an int with more digits than Python can parse, or a finite float that is too large.
    """
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"the number has {len(text):,} digits; the maximum is {MAX_DIGITS:,}")
        return int(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if math.isinf(value):
            raise ValueError(
                f"{text} is larger than the largest float, {sys.float_info.max}; write infinity as .inf"
            )
        return value
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _OCT_HEX.fullmatch(text):
        if len(text) > MAX_DIGITS // 2:
            raise ValueError(
                f"the number has {len(text):,} digits; the maximum is {MAX_DIGITS // 2:,} in this base"
            )
        return int(text, 0)
    if _INF.fullmatch(text):
        return float(text.replace(".", "", 1))
    return float("nan") if _NAN.fullmatch(text) else text


_TAG: Final = "tag:yaml.org,2002:"
_STR: Final = f"{_TAG}str"
_PLAIN: Final = f"{_TAG}plain"
_SCALARS: Final = {
    f"{_TAG}{kind}": types for kind, types in (("int", int), ("float", (int, float)), ("bool", bool))
}

MERGE_KEY: Final = "<<"
"""The key whose value is merged into the containing mapping: https://yaml.org/type/merge.html (YAML 1.1)."""


class _Loader(_Parser):  # type: ignore[misc]  # one of two parser classes, chosen above
    """PyYAML's parser without YAML 1.1 scalars; `plain_scalar` reads plain scalars instead."""

    def resolve(self, kind: Any, _value: Any, implicit: Any) -> str:
        """Return the tag of an untagged node; unquoted scalars have a separate tag."""
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _STR
        return f"{_TAG}map" if kind is yaml.MappingNode else f"{_TAG}seq"


class Document:
    """A parsed YAML file.

    Attributes:
        name: The file name in messages.
        value: Mappings, lists and scalars.
        lines: The line of every key and list item, counted from 1.
        mistakes: Duplicate keys and tags.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.value: Any = None
        self.lines: dict[Path, int] = {}
        self.mistakes: list[Mistake] = []

    def location(self, path: Path, layer: int = 0) -> Location:
        """Return the location of a path, or of its nearest ancestor with a known line."""
        ancestors = (path[:length] for length in range(len(path), 0, -1))
        line = next((self.lines[p] for p in ancestors if p in self.lines), 0)
        return Location(layer, line, self.name, "file")


class _Reader:
    """A converter from PyYAML nodes to values, which records lines and mistakes."""

    def __init__(self, out: Document) -> None:
        self.out = out
        self.nodes = 0
        self.merging: list[Any] = []
        """The mappings whose entries are being collected; each one is being merged into the previous one."""
        self.recorded: set[tuple[int, str]] = set()
        """The mistakes that are already recorded, because an anchored node is read once per alias."""

    def read(self, node: Any, path: Path) -> Any:
        """Return a node's value.

        Raises:
            ConfigError: Aliases expand to more than `MAX_NODES` values.
        """
        self._count()
        if len(path) > MAX_DEPTH:
            raise RecursionError
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            self._reject_tag(node, path)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return [self._item(item, (*path, i)) for i, item in enumerate(node.value)]

    def _count(self) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _error(self.out.name, f"expands to more than {MAX_NODES:,} values", "use fewer aliases")

    def _item(self, node: Any, path: Path) -> Any:
        self.out.lines.setdefault(path, _line(node))
        return self.read(node, path)

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, (key_node, value_node) in self._entries(node, path).items():
            self.out.lines[(*path, key)] = _line(key_node)
            values[key] = self.read(value_node, (*path, key))
        return values

    def _entries(self, node: Any, path: Path) -> dict[str, tuple[Any, Any]]:
        """Return the key and value nodes of a mapping, including merged nodes."""
        entries: dict[str, tuple[Any, Any]] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._record(key_node, path, "a key must be text")
                continue
            if key_node.tag not in (_PLAIN, _STR):
                self._reject_tag(key_node, path)
            key = key_node.value
            if key in entries:
                message = f"duplicate key {key!r}, first on line {_line(entries[key][0])}"
                advice = "merge a list: <<: [*a, *b]" if key == MERGE_KEY else "keep one of them"
                self._record(key_node, (*path, key), message, advice)
            else:
                entries[key] = key_node, value_node
        if MERGE_KEY not in entries or entries[MERGE_KEY][0].tag != _PLAIN:
            return entries
        self.merging.append(node)
        merged = self._merged(*entries.pop(MERGE_KEY), (*path, MERGE_KEY))
        self.merging.pop()
        return entries | {key: entry for key, entry in merged.items() if key not in entries}

    def _merged(self, key_node: Any, value_node: Any, path: Path) -> dict[str, tuple[Any, Any]]:
        """Return the entries of the mapping or list of mappings to merge; earlier mappings take precedence."""
        merged: dict[str, tuple[Any, Any]] = {}
        sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
        for source in sources:
            self._count()
            if not isinstance(source, yaml.MappingNode):
                got = f"{source.value!r}" if isinstance(source, yaml.ScalarNode) else "a list"
                advice = "use *name, or [*name, *other]"
                self._record(key_node, path, f"expected mappings to merge, got {got}", advice)
            elif source in self.merging:
                self._record(key_node, path, "a mapping cannot be merged into itself")
            else:
                if source.tag != f"{_TAG}map":
                    self._reject_tag(source, path)
                for key, entry in self._entries(source, path).items():
                    self._count()
                    merged.setdefault(key, entry)
        return merged

    def _scalar(self, node: Any, path: Path) -> Any:
        if node.tag == _STR:
            return node.value
        try:
            value = plain_scalar(node.value)
        except ValueError as error:
            self._record(node, path, str(error))
            return None
        if node.tag == _PLAIN:
            return value
        if isinstance(value, _SCALARS.get(node.tag, ())):
            return float(str(value)) if node.tag == f"{_TAG}float" else value
        self._reject_tag(node, path)
        return None

    def _reject_tag(self, node: Any, path: Path) -> None:
        message = f"the tag {node.tag!r} is not supported"
        self._record(node, path, message, "use plain values and _component_")

    def _record(self, node: Any, path: Path, message: str, suggestion: str = "") -> None:
        if (id(node), message) not in self.recorded:
            self.recorded.add((id(node), message))
            mistake = Mistake.of_file(self.out.name, message, suggestion, _line(node))
            self.out.mistakes.append(mistake._replace(path=path))


def _line(node: Any) -> int:
    line: int = node.start_mark.line
    return line + 1


def _error(name: str, message: str, suggestion: str = "", line: int = 0) -> ConfigError:
    return ConfigError([Mistake.of_file(name, message, suggestion, line)], name)


def parse_yaml(text: str, name: str) -> Document:
    """Parse YAML text, and record the line of every value.

    Args:
        text: The file's text.
        name: The file name in messages.

    Raises:
        ConfigError: The text cannot be parsed. Duplicate keys and tags are instead recorded in `Document.mistakes`, so
            that they are reported together with other mistakes.
    """
    parsed = _parsed(text, name)
    document = Document(name)
    document.value, document.lines = copy_tree(parsed.value), parsed.lines
    document.mistakes = [*parsed.mistakes]
    return document


@functools.lru_cache(maxsize=64)
def _parsed(text: str, name: str) -> Document:
    """Parse text once, even if its file is read multiple times, because parsing is slower than reading."""
    if len(text) > MAX_BYTES:
        raise _error(name, f"the file contains {len(text):,} characters; the maximum is {MAX_BYTES:,}")
    try:
        node = yaml.compose(text.removeprefix("\ufeff"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        lines = text.splitlines()
        broken = lines[mark.line] if mark and mark.line < len(lines) else ""
        has_tab = "\t" in broken[: len(broken) - len(broken.lstrip())]
        hint = "indent with spaces, not with a tab" if has_tab else ""
        last_line = max(1, text.rstrip("\n").count("\n") + 1)  # the parser may point past the end
        line = min(mark.line + 1, last_line) if mark else 0
        raise _error(name, f"not valid YAML: {error.problem or error.context}", hint, line) from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _error(name, f"not valid YAML: {reason}") from error
    document = Document(name)
    if node is not None:
        try:
            document.value = _Reader(document).read(node, ())
        except RecursionError as error:
            raise _error(name, "nested too deeply, or contains an alias to itself") from error
    return document


def read_yaml(file: str) -> Document:
    """Parse a YAML file.

    Raises:
        ConfigError: The file is missing, not readable, or not YAML.
    """
    name = display_path(file)
    try:
        with open(file, encoding="utf-8-sig") as stream:  # noqa: PTH123 -- pathlib takes 10% of the start-up time
            text = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _error(name, "no such file") from error
    except UnicodeDecodeError as error:
        raise _error(name, f"not UTF-8 text: byte {error.start} cannot be decoded") from error
    except OSError as error:
        raise _error(name, f"the file cannot be read: {error.strerror}") from error
    return parse_yaml(text, name)


class _Renderer(_Dumper):  # type: ignore[misc]  # one of two dumper classes, chosen above
    """PyYAML's dumper, extended to quote strings that are numbers only in YAML 1.2."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 -- PyYAML's signature
        """Write repeated values in full instead of as aliases."""
        return True


_Renderer.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Renderer.add_implicit_resolver("tag:yaml.org,2002:int", _OCT_HEX, ["0"])


def _represent_float(dumper: Any, value: float) -> Any:
    text = repr(value)
    if not math.isfinite(value):
        text = {"inf": ".inf", "-inf": "-.inf"}.get(text, ".nan")
    if "e" in text and "." not in text.partition("e")[0]:
        text = text.replace("e", ".0e", 1)  # YAML 1.1 requires the decimal point
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Renderer.add_representer(float, _represent_float)
_Renderer.add_representer(Broken, lambda dumper, value: dumper.represent_str(repr(value)))
_Renderer.add_representer(Text, lambda dumper, value: dumper.represent_str(value.replace("${", "$${")))
_Renderer.add_multi_representer(str, lambda dumper, value: dumper.represent_str(str(value)))


_UNLIMITED = 2**31 - 1
"""A line width that disables folding."""


def inline_yaml(tree: Any) -> str:
    """Return a value as one line of YAML that can follow a key: `[q_proj, v_proj]`, `1.0e-05`."""
    text: str = yaml.dump(
        tree, Dumper=_Renderer, sort_keys=False, allow_unicode=True, width=_UNLIMITED, default_flow_style=True
    )
    line = text.removesuffix("...\n").strip()
    if "\n" not in line:
        return line
    import json  # JSON puts multi-line text on one line, and is valid YAML

    return json.dumps(tree, ensure_ascii=False)


def render_yaml(tree: Any) -> str:
    """Return mappings, lists and scalars as YAML that `parse_yaml` reads back unchanged; key order is preserved.

    Text without line breaks is never folded, so that `grep` finds a path that contains spaces.
    """
    text: str = yaml.dump(tree, Dumper=_Renderer, sort_keys=False, allow_unicode=True, width=_UNLIMITED)
    return text
