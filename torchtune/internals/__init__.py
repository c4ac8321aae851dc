"""Features that rely on internals of other libraries, each with a tested version, a probe and a fallback.

The environment variable `TUNE_PLAIN=1` disables all of these features. Names are imported on first use, so that
importing a name loads only the libraries that it needs.
"""

from typing import TYPE_CHECKING

from torchtune._lazy import lazy_exports

if TYPE_CHECKING:
    from torchtune.internals._all import PROBED_FEATURES as PROBED_FEATURES
    from torchtune.internals._allocators import configure_allocators as configure_allocators
    from torchtune.internals._aten import ACTIVATION_BACKWARD as ACTIVATION_BACKWARD
    from torchtune.internals._aten import activation_backward as activation_backward
    from torchtune.internals._attrs import Call as Call
    from torchtune.internals._attrs import calling_line as calling_line
    from torchtune.internals._attrs import combined_validators as combined_validators
    from torchtune.internals._attrs import is_constructing as is_constructing
    from torchtune.internals._attrs import watch_methods as watch_methods
    from torchtune.internals._frames import calling_frame as calling_frame
    from torchtune.internals._glibc import limit_heap_growth as limit_heap_growth
    from torchtune.internals._probed_feature import OUTCOMES as OUTCOMES
    from torchtune.internals._probed_feature import ProbedFeature as ProbedFeature
    from torchtune.internals._torch_compile import compiler_errors as compiler_errors
    from torchtune.internals._torch_memory import LIVE_BYTES as LIVE_BYTES
    from torchtune.internals._torch_memory import LiveBytes as LiveBytes
    from torchtune.internals._torch_memory import fake_tensors as fake_tensors
    from torchtune.internals._torch_optim import avoid_dynamo_import as avoid_dynamo_import
    from torchtune.internals._torch_optim import avoid_dynamo_import_in_step as avoid_dynamo_import_in_step
    from torchtune.internals._torch_optim import skip_step_if as skip_step_if
    from torchtune.internals._torch_optim import supports_skipping as supports_skipping
else:
    __getattr__, __dir__ = lazy_exports(__name__)
