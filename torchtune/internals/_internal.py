"""How a reliance on another library's internals is declared, and when it is switched off."""

import os
from collections.abc import Callable
from typing import NamedTuple

OUTCOMES: dict[str, bool] = {}
"""Whether the probe of an internal passed, by its name; a test or a benchmark may say so before it is asked."""


class Internal(NamedTuple):
    """A reliance on how a library works inside, which no release of it promises to keep."""

    name: str
    written_for: str
    """The library, by the name of its distribution, or `glibc` or `Python`; and the version that it was tried with."""
    gain: str
    """What it is good for, and the command that shows it."""
    fallback: str
    """What happens without it; results are the same but for rounding."""
    probe: Callable[[], bool]
    """Try it on a tiny case; False, or any error, where it no longer behaves as it did."""

    def is_enabled(self) -> bool:
        """Tell whether to rely on it: unless TUNE_PLAIN=1, if its probe passes, which is tried once a process."""
        if os.environ.get("TUNE_PLAIN", "0") not in ("", "0"):
            return False
        if self.name not in OUTCOMES:
            OUTCOMES[self.name] = self._passes()
        return OUTCOMES[self.name]

    def _passes(self) -> bool:
        reason = "another result"
        try:
            if self.probe():
                return True
        except Exception as error:  # whatever a changed library raises
            reason = f"{type(error).__name__}: {error}"
        import logging

        message = "%s: %s %s behaves differently from %s, which this was written for (%s); %s"
        library, version_tried = self.written_for.split()
        versions = library, _installed_version(library), version_tried
        logging.getLogger(__name__).warning(message, self.name, *versions, reason, self.fallback)
        return False


def _installed_version(library: str) -> str:
    import platform
    from importlib.metadata import version

    versions = {"glibc": lambda: platform.libc_ver()[1], "Python": platform.python_version}
    return versions.get(library, lambda: version(library))()
