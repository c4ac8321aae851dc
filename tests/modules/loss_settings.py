"""The loss settings for different hardware, used on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from torchtune.modules import Hardware, _linear_cross_entropy, assume_hardware

HARDWARE = {
    "CPU": Hardware("cpu"),
    "CPU with AMX": Hardware("cpu"),
    "GPU": Hardware("cuda", (9, 0)),
}


@contextmanager
def loss_settings_of(name: str) -> Iterator[None]:
    """Compute the loss with the settings for some hardware, a key of `HARDWARE`."""
    with pytest.MonkeyPatch.context() as patch, assume_hardware(HARDWARE[name]):
        patch.setattr(_linear_cross_entropy, "_has_bfloat16_matmul", lambda: name == "CPU with AMX")
        yield
