"""All that relies on the internals of other libraries, each with the version tried, its gain, a probe and a fallback.

`TUNE_PLAIN=1` in the environment switches all of it off. Names are imported when they are first used, so that what
needs one of them does not load the libraries of the others.
"""

from typing import TYPE_CHECKING

from torchtune._lazy import lazy_exports

if TYPE_CHECKING:
    from torchtune.internals._all import INTERNALS as INTERNALS
    from torchtune.internals._aten import ACTIVATION_BACKWARD as ACTIVATION_BACKWARD
    from torchtune.internals._aten import activation_backward as activation_backward
    from torchtune.internals._attrs import Call as Call
    from torchtune.internals._attrs import calling_line as calling_line
    from torchtune.internals._attrs import combined_validators as combined_validators
    from torchtune.internals._attrs import is_constructing as is_constructing
    from torchtune.internals._attrs import watch_methods as watch_methods
    from torchtune.internals._frames import calling_frame as calling_frame
    from torchtune.internals._glibc import steady_heap as steady_heap
    from torchtune.internals._internal import OUTCOMES as OUTCOMES
    from torchtune.internals._internal import Internal as Internal
    from torchtune.internals._torch_memory import LIVE_BYTES as LIVE_BYTES
    from torchtune.internals._torch_memory import LiveBytes as LiveBytes
    from torchtune.internals._torch_memory import fake_tensors as fake_tensors
    from torchtune.internals._torch_optim import lighten as lighten
    from torchtune.internals._torch_optim import skip_where as skip_where
    from torchtune.internals._torch_optim import spare_the_compiler as spare_the_compiler
    from torchtune.internals._torch_optim import takes_skips as takes_skips
else:
    __getattr__, __dir__ = lazy_exports(__name__)
