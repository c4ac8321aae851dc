"""Initial values do not depend on the device."""

import torch
from torch import Tensor, nn

from torchtune.modules import Hardware, assume_hardware, initialize


def test_a_gpu_receives_the_numbers_that_a_cpu_draws() -> None:
    initialized: list[Tensor] = []

    def init(tensor: Tensor) -> Tensor:
        initialized.append(tensor)
        return nn.init.normal_(tensor)

    on_cpu, on_gpu = torch.empty(3, 4), torch.empty(3, 4)
    torch.manual_seed(0)
    initialize(on_cpu, init)
    torch.manual_seed(0)
    with assume_hardware(Hardware("cuda", (9, 0))):
        initialize(on_gpu, init)
    assert initialized[0] is on_cpu
    assert initialized[1] is not on_gpu, "the GPU's generator would draw other numbers"
    assert torch.equal(on_gpu, on_cpu)
