"""All features that rely on internals of other libraries, for the documentation and tests."""

from torchtune.internals._aten import ACTIVATION_BACKWARD
from torchtune.internals._attrs import RECORDING, VALIDATORS
from torchtune.internals._frames import CALLS
from torchtune.internals._glibc import HEAP, KERNEL_CACHES
from torchtune.internals._torch_memory import LIVE_BYTES
from torchtune.internals._torch_optim import OPTIMIZER_STEP, SKIPPED_STEP

PROBED_FEATURES = (
    HEAP,
    KERNEL_CACHES,
    OPTIMIZER_STEP,
    SKIPPED_STEP,
    ACTIVATION_BACKWARD,
    LIVE_BYTES,
    CALLS,
    RECORDING,
    VALIDATORS,
)
