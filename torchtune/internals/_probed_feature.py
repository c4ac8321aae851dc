"""Declare a feature that relies on another library's internals, and disable it if its probe fails."""

import os
from collections.abc import Callable
from typing import NamedTuple

OUTCOMES: dict[str, bool] = {}
"""Probe outcomes by feature name: True if the probe passed. Tests and benchmarks may set them in advance."""


class ProbedFeature(NamedTuple):
    """A feature that relies on a library's internals, which may change in any release."""

    name: str
    tested_with: str
    """The library (the name of its distribution, `glibc` or `Python`) and the tested version."""
    benefit: str
    """The benefit, and a command that demonstrates it."""
    fallback: str
    """The behaviour if the feature is disabled; results are the same up to rounding."""
    probe: Callable[[], bool]
    """A test of a tiny case; it returns False or raises an exception if the library behaves differently."""

    def is_enabled(self) -> bool:
        """Return whether TUNE_PLAIN=1 is not set and the probe, which runs once per process, has passed."""
        if os.environ.get("TUNE_PLAIN", "0") not in ("", "0"):
            return False
        if self.name not in OUTCOMES:
            OUTCOMES[self.name] = self._passes()
        return OUTCOMES[self.name]

    def _passes(self) -> bool:
        reason = "different result"
        try:
            if self.probe():
                return True
        except Exception as error:  # a changed library may raise any exception
            reason = f"{type(error).__name__}: {error}"
        import logging

        message = "%s: %s %s behaves differently from the tested version %s (%s); %s"
        library, tested_version = self.tested_with.split()
        versions = library, _installed_version(library), tested_version
        logging.getLogger(__name__).warning(message, self.name, *versions, reason, self.fallback)
        return False


def _installed_version(library: str) -> str:
    import platform
    from importlib.metadata import version

    versions = {"glibc": lambda: platform.libc_ver()[1], "Python": platform.python_version}
    return versions.get(library, lambda: version(library))()
