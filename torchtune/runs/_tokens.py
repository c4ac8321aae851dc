"""The words of the command line as overrides: three spellings, one list."""

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from torchtune._hints import hint_for
from torchtune.config import Mistake
from torchtune.config.model import COMPONENT_KEY, Location, did_you_mean
from torchtune.runs.command_line import OVERRIDE, Suggest, suggest_run_option

OVERRIDE_FLAG: Final = OVERRIDE.text
LONGEST_SHOWN: Final = 120
"""Characters of a value that are shown as its origin."""
HYDRAS: Final = ("~", "++")
"""What keys begin with in hydra's overrides and not in ours."""
FLOW: Final = ("[", "{")
"""What a list or a mapping begins with on the command line."""


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
    def merges(self) -> bool:
        """True where it is a mapping that names no component, which changes what is there."""
        return self.text.startswith("{") and COMPONENT_KEY not in self.text

    @property
    def adds(self) -> bool:
        """True where the value is added to a list."""
        return self.key.startswith("+")

    def origin(self, layer: int) -> Location:
        """Return where it was written, in the first of the spellings, whichever was used."""
        text = self.text if len(self.text) <= LONGEST_SHOWN else f"{self.text[:LONGEST_SHOWN]}..."
        return Location(layer, self.position, f"{OVERRIDE_FLAG} {self.key}={text}", "command line")


def tokenise(
    argv: Sequence[str], suggest: Suggest = suggest_run_option, known_fields: Sequence[str] = ()
) -> tuple[list[Override], list[Mistake]]:
    """Read `--override a.b=c ...`, `a.b=c`, `--a.b c` and `--a.b=c`; the first `=` splits.

    Args:
        argv: The words.
        suggest: What a flag without a value may mean.
        known_fields: Names of the config's fields, which hints may name.

    Returns:
        The overrides, and a mistake for each word that is none.
    """
    found: list[Override] = []
    mistakes: list[Mistake] = []
    words = iter(enumerate(argv))
    pairs = dict(enumerate(argv))
    for i, typed in words:
        if typed in (OVERRIDE_FLAG, f"{OVERRIDE_FLAG}="):
            behind, after = pairs.get(i + 1, "--"), pairs.get(i + 2, "--")
            if "=" not in behind or behind.startswith("--"):
                mistakes.append(Mistake.of_word(typed, "needs key=value after it"))
                if not behind.startswith("--"):  # `--override batch_size 4` is one mistake
                    next(words)
                    if "=" not in after and not after.startswith("--"):
                        next(words)
            continue
        word = typed.removeprefix(f"{OVERRIDE_FLAG}=")
        key, equals, text = word.removeprefix("--").partition("=")
        if word.startswith("--") and not equals:
            if i + 1 not in pairs or pairs[i + 1].startswith("--"):
                mistakes.append(_without_value(word, suggest, known_fields))
                continue
            text, equals = next(words)[1], "="
        if not equals or not key or key.startswith(HYDRAS):
            mistakes.append(_no_override(word, suggest))
        elif not all(key.removeprefix("+").split(".")):
            mistakes.append(Mistake.of_word(typed, f"{key!r} is not a path: a name is empty"))
        else:
            found.append(Override(key, text, i))
    return found, mistakes


def _no_override(word: str, suggest: Suggest) -> Mistake:
    """Return the mistake of a word that is neither a flag nor an override."""
    hint = hint_for(word) if word.startswith(("-", *HYDRAS)) else None
    meant = hint or (suggest(word, "") if word.startswith("-") else "")
    return Mistake.of_word(
        word, "expected key=value", meant or "quote a value that holds spaces: 'prompt=What is it?'"
    )


def _without_value(flag: str, suggest: Suggest, known_fields: Sequence[str]) -> Mistake:
    """Return the mistake of a flag without a value, which needs one if it may be a field."""
    key = flag.removeprefix("--")
    if not known_fields or key.partition(".")[0].replace("-", "_") in known_fields:
        return Mistake.of_word(
            flag, f"needs a value: {flag} VALUE, or {key}=VALUE", hint_for(key, known_fields) or ""
        )
    near = hint_for(key, known_fields) or suggest(flag, did_you_mean(key, known_fields))
    return Mistake.of_word(flag, "is not understood", near or "--help lists options and fields")
