"""Overrides from the command line: three spellings, one token list, read by the types of the fields they name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import define, field, frozen

from torchtune.config._classes import REQUIRED
from torchtune.config._component import COMPONENT_KEY
from torchtune.config._layers import Layers, Origin
from torchtune.config._mistakes import Mistake, Path, RejectedError, did_you_mean, dotted
from torchtune.config._schema import component_type_of, section_of, slots
from torchtune.config._structure import unstructure
from torchtune.config._tree import at, is_component_tree
from torchtune.config._types import is_anything, is_collection_type, members, strip, takes_none, takes_text
from torchtune.config._yaml import parse_yaml, plain_scalar

OVERRIDE_FLAG: Final = "--override"


@frozen
class Override:
    """One `key=value` of the command line."""

    key: str
    """The dotted path; it begins with `+` where the value is added to a list."""
    text: str
    position: int
    """Its place on the command line."""

    @property
    def path(self) -> tuple[str, ...]:
        """The path that it names, without `+` and without a trailing `_component_`."""
        parts = tuple(self.key.removeprefix("+").split("."))
        return parts[:-1] if parts[-1] == COMPONENT_KEY and len(parts) > 1 else parts

    def with_text(self, text: str) -> "Override":
        """Return the same override with a value as tyro parsed it."""
        return Override(self.key, text, self.position)

    @property
    def adds(self) -> bool:
        """True where the value is added to a list."""
        return self.key.startswith("+")

    def origin(self, layer: int) -> Origin:
        """Return where it was written, in the first of the spellings, whichever was used."""
        return Origin(layer, self.position, f"{OVERRIDE_FLAG} {self.key}={self.text}")


def tokenise(argv: Sequence[str]) -> tuple[list[Override], list[Mistake]]:
    """Read `--override a.b=c ...`, `a.b=c`, `--a.b c` and `--a.b=c`; the first `=` splits.

    Returns:
        The overrides, and a mistake for each word that is none.
    """
    found: list[Override] = []
    mistakes: list[Mistake] = []
    words = iter(enumerate(argv))
    pairs = dict(enumerate(argv))
    for i, word in words:
        if word == OVERRIDE_FLAG:
            if "=" not in pairs.get(i + 1, "") or pairs[i + 1].startswith("--"):
                mistakes.append(Mistake(word, "", "needs key=value behind it"))
            continue
        key, equals, text = word.removeprefix("--").partition("=")
        key = key.replace("-", "_") if word.startswith("--") else key
        if word.startswith("--") and not equals:
            if i + 1 not in pairs or pairs[i + 1].startswith("--"):
                mistakes.append(Mistake(word, "", f"needs a value: {word} VALUE, or {key}=VALUE"))
                continue
            text, equals = next(words)[1], "="
        if not equals or not key:
            mistakes.append(
                Mistake(word, "", "expected key=value; quote a value that holds spaces: 'prompt=What is it?'")
            )
        else:
            found.append(Override(key, text, i))
    return found, mistakes


@define
class Overriding:
    """Applies overrides to layers: first what swaps or adds components, outermost first, then the rest."""

    layers: Layers
    layer: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.layers.depth += 1
        self.layer = self.layers.depth

    def apply(self, overrides: Sequence[Override]) -> list[Override]:
        """Apply the overrides that shape the config; return the others, which set values in that shape."""
        ordered = sorted(overrides, key=lambda o: (len(o.path), o.position))
        rest = [override for override in ordered if not self._shapes(override)]
        return sorted(rest, key=lambda o: o.position)

    def set_values(self, overrides: Sequence[Override]) -> None:
        """Apply overrides that set values, the outermost first, so that their order does not matter."""
        for override in sorted(overrides, key=lambda o: len(o.path)):
            self._set(override)

    def _shapes(self, override: Override) -> bool:
        """Apply an override that swaps or adds a component; return whether it was one."""
        origin = override.origin(self.layer)
        try:
            t, path = self._find(override.path)
        except RejectedError as rejected:
            unknown = override.adds or override.key.endswith(f".{COMPONENT_KEY}")
            if unknown:
                self._reject(override, rejected)
            return unknown
        if override.adds:
            self._add(path, t, override)
            return True
        if not self._names_component(t, path, override):
            return False
        if not is_component_tree(old := self._now(path)) or old[COMPONENT_KEY] != override.text:
            self._put(path, {COMPONENT_KEY: override.text}, origin)
        return True

    def _names_component(self, t: Any, path: Path, override: Override) -> bool:
        """Tell whether an override's text is the dotpath of a component."""
        if override.key.endswith(f".{COMPONENT_KEY}"):
            return True
        if override.text == "default" or "${" in override.text:
            return False
        component = component_type_of(t)
        if is_component_tree(self._now(path)):
            return plain_scalar(override.text) is not None and override.text[:1] not in "{["
        looks_like_dotpath = "." in override.text and all(p.isidentifier() for p in override.text.split("."))
        return component is not None and not is_anything(component) and looks_like_dotpath

    def _add(self, path: Path, t: Any, override: Override) -> None:
        now = self._now(path)
        if not isinstance(now, list):
            self._wrong(override, path, "+ adds to a list, and this is none")
            return
        item = next((strip_item(m) for m in members(strip(t)) if is_collection_type(m)), Any)
        dotpath_given = (
            component_type_of(item) is not None and "." in override.text and override.text[:1] not in "{["
        )
        value = {COMPONENT_KEY: override.text} if dotpath_given else self._read(override, item)
        here = (*path, len(now))
        now.append(None)
        self._put(here, value, override.origin(self.layer))

    def _set(self, override: Override) -> None:
        try:
            t, path = self._find(override.path)
            if override.text == "default" and not takes_text(t):
                self._reset(path, override)
                return
            value = self._read(override, t)
        except RejectedError as rejected:
            self._reject(override, rejected)
            return
        self._put(path, value, override.origin(self.layer))

    def _read(self, override: Override, t: Any) -> Any:
        """Read a value by the type of its field: text verbatim for text, YAML otherwise."""
        text = override.text
        if text.startswith("${") and text.count("{") == 1 and text.endswith("}"):
            return text
        if text in ("null", "~") and takes_none(t):
            return None
        if takes_text(t):
            return text
        try:
            document = parse_yaml(text, "value")
        except ValueError:
            return text
        if document.mistakes or (isinstance(document.value, Mapping) and text[:1] != "{"):
            return text  # `12:30` and `a: b` are text, not mappings
        return document.value

    def _reset(self, path: Path, override: Override) -> None:
        """Take a field or an argument back to its default."""
        holder = at(self.layers.tree, path[:-1])
        slot = slots(self._type_of(path[:-1]), holder)[path[-1]]
        if slot.default is REQUIRED:
            self._wrong(override, path, "has no default")
        elif is_component_tree(holder):
            holder.pop(path[-1], None)
            self.layers.forget(path)
        else:
            self._put(path, unstructure(slot.default), override.origin(self.layer))

    # Finding places. Naming a field of an optional section that is None switches the section on.

    def _type_of(self, path: Path) -> Any:
        return self._find(tuple(map(str, path)))[0] if path else self.layers.wanted or Any

    def _find(self, parts: tuple[str, ...]) -> tuple[Any, Path]:
        """Return the type and the path of what dotted parts name.

        Raises:
            RejectedError: They name nothing; the message has a suggestion.
        """
        t: Any = self.layers.wanted or Any
        tree: Any = self.layers.tree
        path: Path = ()
        for part in parts:
            known = slots(t, tree)
            key: str | int = (
                int(part) if isinstance(tree, list) and part.isascii() and part.isdecimal() else part
            )
            if key not in known:
                raise self._unknown(path, part, tree, known)
            t, path = known[key].type, (*path, key)
            tree = self._below(tree, key)
        return t, path

    def _below(self, tree: Any, key: str | int) -> Any:
        if isinstance(tree, list) and isinstance(key, int):
            return tree[key]
        return tree.get(key) if isinstance(tree, Mapping) else None

    def _unknown(self, path: Path, part: str, tree: Any, known: Mapping[Any, Any]) -> RejectedError:
        from torchtune.config._mistakes import Problem

        where = (*path, part)
        if is_component_tree(tree):
            return RejectedError(
                Problem(where, f"{tree[COMPONENT_KEY]} takes no {part!r}{did_you_mean(part, known)}")
            )
        if isinstance(tree, list):
            return RejectedError(Problem(where, f"the list has {len(tree)} items, counted from 0"))
        if path and not known:
            return RejectedError(Problem(where, f"{dotted(path)} is a single value; it has no {part!r}"))
        return RejectedError(Problem(where, f"no {part!r}{did_you_mean(part, known)}"))

    def _now(self, path: Path) -> Any:
        try:
            return at(self.layers.tree, path)
        except LookupError:
            return None

    def _put(self, path: Path, value: Any, origin: Origin) -> None:
        """Put a value, switching on the sections above it."""
        for length in range(1, len(path)):
            if self._now(path[:length]) is None and section_of(self._type_of(path[:length])):
                self.layers.put(path[:length], {}, lambda _: origin)
        if isinstance(self._now(path[:-1]), (dict, list)):
            self.layers.put(path, value, lambda _: origin)

    def _wrong(self, override: Override, path: Path, message: str) -> None:
        self.layers.mistake(override.origin(self.layer), path, message)

    def _reject(self, override: Override, rejected: RejectedError) -> None:
        for problem in rejected.problems:
            self._wrong(override, problem.path, problem.message)


def override(layers: Layers, pairs: Iterable[tuple[str, str]]) -> None:
    """Apply overrides given as path and text; what is wrong with them is noted in the layers."""
    overriding = Overriding(layers)
    overriding.set_values(overriding.apply([Override(path, text, i) for i, (path, text) in enumerate(pairs)]))


def strip_item(t: Any) -> Any:
    """Return the type of a collection's items; `Any` where it says none."""
    from typing import get_args

    args = [a for a in get_args(t) if a is not Ellipsis]
    return args[0] if args else Any
