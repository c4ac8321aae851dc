"""All that relies on the internals of other libraries, each with the version tried, its gain, a probe and a fallback.

`TUNE_PLAIN=1` in the environment switches all of it off. Names are imported when they are first used, so that what
needs one of them does not load the libraries of the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchtune.internals._all import INTERNALS
    from torchtune.internals._aten import ACTIVATION_BACKWARD, activation_backward
    from torchtune.internals._attrs import (
        Call,
        calling_line,
        combined_validators,
        is_constructing,
        watch_methods,
    )
    from torchtune.internals._frames import calling_frame
    from torchtune.internals._glibc import steady_heap
    from torchtune.internals._internal import OUTCOMES, Internal
    from torchtune.internals._torch_memory import LIVE_BYTES, LiveBytes, fake_tensors
    from torchtune.internals._torch_optim import lighten, spare_the_compiler

_HOMES = {
    "_all": ("INTERNALS",),
    "_aten": ("ACTIVATION_BACKWARD", "activation_backward"),
    "_attrs": ("Call", "calling_line", "combined_validators", "is_constructing", "watch_methods"),
    "_frames": ("calling_frame",),
    "_glibc": ("steady_heap",),
    "_internal": ("OUTCOMES", "Internal"),
    "_torch_memory": ("LIVE_BYTES", "LiveBytes", "fake_tensors"),
    "_torch_optim": ("lighten", "spare_the_compiler"),
}

__all__ = [
    "ACTIVATION_BACKWARD",
    "INTERNALS",
    "LIVE_BYTES",
    "OUTCOMES",
    "Call",
    "Internal",
    "LiveBytes",
    "activation_backward",
    "calling_frame",
    "calling_line",
    "combined_validators",
    "fake_tensors",
    "is_constructing",
    "lighten",
    "spare_the_compiler",
    "steady_heap",
    "watch_methods",
]


def __getattr__(name: str) -> Any:
    """Import a name from its private module when it is first used (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"torchtune.internals.{module}"), name)
    raise AttributeError(f"module 'torchtune.internals' has no attribute {name!r}")
