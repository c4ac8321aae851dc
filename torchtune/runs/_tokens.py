"""Parse command-line arguments into overrides; all supported spellings yield the same list."""

import re
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from torchtune._hints import hint_for
from torchtune.config import Mistake
from torchtune.config.model import COMPONENT_KEY, Location, did_you_mean
from torchtune.runs.command_line import OVERRIDE, Suggest, suggest_run_option

OVERRIDE_FLAG: Final = OVERRIDE.text
MAX_SHOWN_LENGTH: Final = 120
"""The maximum number of characters of a value that its location shows."""
HYDRA_PREFIXES: Final = ("~", "++")
"""Prefixes of keys in Hydra overrides, which torchtune does not support."""
FLOW: Final = ("[", "{")
"""First characters of lists and mappings on the command line."""


@frozen
class Override:
    """One `key=value` of the command line."""

    key: str
    """The dotted field path, with a leading `+` if the value is added to a list."""
    text: str
    position: int
    """The index among the command-line arguments."""

    @property
    def path(self) -> tuple[str, ...]:
        """The parts of the field path, without `+` and without a trailing `_component_`."""
        parts = tuple(self.key.removeprefix("+").split("."))
        return parts[:-1] if parts[-1] == COMPONENT_KEY and len(parts) > 1 else parts

    def with_text(self, text: str) -> "Override":
        """Return the same override with different text."""
        return Override(self.key, text, self.position)

    @property
    def merges(self) -> bool:
        """Whether the value is a mapping without a component key, which is merged into the existing value."""
        return self.text.startswith("{") and COMPONENT_KEY not in self.text

    @property
    def adds(self) -> bool:
        """Whether the value is added to a list."""
        return self.key.startswith("+")

    def origin(self, layer: int) -> Location:
        """Return the override's location, always spelled as `--override key=value`."""
        text = self.text if len(self.text) <= MAX_SHOWN_LENGTH else f"{self.text[:MAX_SHOWN_LENGTH]}..."
        return Location(layer, self.position, f"{OVERRIDE_FLAG} {self.key}={text}", "command line")


def tokenize_overrides(
    argv: Sequence[str], suggest: Suggest = suggest_run_option, known_fields: Sequence[str] = ()
) -> tuple[list[Override], list[Mistake]]:
    """Parse `--override a.b=c ...`, `a.b=c`, `--a.b c` and `--a.b=c`; the first `=` ends the key.

    Args:
        argv: The arguments.
        suggest: Returns a suggestion for a flag without a value.
        known_fields: The names of the config's fields, for hints.

    Returns:
        The overrides, and a mistake for each argument that is not an override.
    """
    overrides: list[Override] = []
    mistakes: list[Mistake] = []
    arguments = iter(enumerate(argv))
    pairs = dict(enumerate(argv))
    for i, typed in arguments:
        if typed in (OVERRIDE_FLAG, f"{OVERRIDE_FLAG}="):
            following, after = pairs.get(i + 1, "--"), pairs.get(i + 2, "--")
            if "=" not in following or following.startswith("--"):
                mistakes.append(Mistake.of_argument(typed, "expected key=value after this option"))
                if not following.startswith("--"):  # `--override batch_size 4` counts as one mistake
                    next(arguments)
                    if "=" not in after and not after.startswith("--"):
                        next(arguments)
            continue
        arg = typed.removeprefix(f"{OVERRIDE_FLAG}=")
        key, equals, text = arg.removeprefix("--").partition("=")
        if arg.startswith("--") and not equals:
            has_value = i + 1 in pairs and not pairs[i + 1].startswith("--")
            text, equals = (next(arguments)[1], "=") if has_value else ("", "")
            if not has_value or _is_unknown_option(key, text, known_fields):
                mistakes.append(_without_value(arg, suggest, known_fields))
                continue
        if not equals or not key or key.startswith(HYDRA_PREFIXES):
            mistakes.append(_not_an_override(arg, suggest))
        elif not all(key.removeprefix("+").split(".")):
            mistakes.append(Mistake.of_argument(typed, f"{key!r} is not a field path: it has an empty part"))
        else:
            overrides.append(Override(key, text, i))
    return overrides, mistakes


def _is_unknown_option(key: str, following: str, known_fields: Sequence[str]) -> bool:
    """Return whether a flag is not a field and precedes an override, as in `--dry-run batch_size=2`."""
    is_override = "=" in following and _first_name(following) in known_fields
    return is_override and _first_name(key) not in known_fields


def _first_name(text: str) -> str:
    """Return the first name of the field path in a key or an override."""
    return re.split("[.=]", text, maxsplit=1)[0].replace("-", "_")


def _not_an_override(arg: str, suggest: Suggest) -> Mistake:
    """Return the mistake for an argument that is neither a flag nor an override."""
    hint = hint_for(arg) if arg.startswith(("-", *HYDRA_PREFIXES)) else None
    if arg.startswith("-"):
        return Mistake.of_argument(arg, "unknown option", hint or suggest(arg, ""))
    return Mistake.of_argument(
        arg, "expected key=value", hint or "quote values that contain spaces: 'prompt=What is it?'"
    )


def _without_value(flag: str, suggest: Suggest, known_fields: Sequence[str]) -> Mistake:
    """Return the mistake for a flag without a value: an unknown option, or a field that needs a value."""
    key = flag.removeprefix("--")
    if not known_fields or _first_name(key) in known_fields:
        return Mistake.of_argument(
            flag, f"expected a value: {flag} VALUE, or {key}=VALUE", hint_for(key, known_fields) or ""
        )
    suggestion = hint_for(key, known_fields) or suggest(flag, did_you_mean(key, known_fields))
    return Mistake.of_argument(flag, "unknown option", suggestion or "--help lists options and fields")
