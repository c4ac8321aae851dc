"""Offloading of layer inputs, on a fake device whose streams detect races."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.placement.fake_streams import FakeDevice, FakeStream, live
from tests.training.tiny import SINGLE_RANK, VOCAB, examples, make_batch, place, step_loss
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder, LinearCrossEntropy
from torchtune.placement import ActivationCheckpointing, checkpoint_activations
from torchtune.placement._offload import InputOffload, copy_stream

BATCHES = [make_batch(examples()), make_batch(examples()[:4])]
OFFLOAD = ActivationCheckpointing(offload=True)


def build_model(num_layers: int) -> Decoder:
    with torch.device("meta"):
        model = smollm2(VOCAB, num_layers, embed_dim=16, num_heads=4, num_kv_heads=2, ffn_dim=24)
    place(model, SINGLE_RANK, dtype="fp32")
    return model


def offloaded_model(
    device: FakeDevice, num_layers: int, section: ActivationCheckpointing = OFFLOAD
) -> Decoder:
    """Build a model whose layers record when they run, in the forward pass and in recomputation."""
    model = build_model(num_layers)
    for i, layer in enumerate(model.layers):

        def record(_module: nn.Module, _args: object, event: str = f"layer {i}") -> None:
            device.events.append(event)

        layer.self_attn.register_forward_pre_hook(record)  # type: ignore[union-attr]  # submodules are untyped
    checkpoint_activations(model, section, InputOffload(lambda _: device.copies))
    return model


def compute_loss(model: Decoder, i: int = 0) -> Tensor:
    return step_loss(LinearCrossEntropy(), "fp32")(model, BATCHES[i])


def accumulate_gradients(model: Decoder) -> dict[str, Tensor]:
    """Return the gradients of two micro-batches."""
    for i in range(2):
        torch.autograd.backward(compute_loss(model, i))
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("every_n_layers", [1, 2])
@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_gradients_are_bitwise_identical_without_races(num_layers: int, every_n_layers: int) -> None:
    expected = accumulate_gradients(build_model(num_layers))
    section = ActivationCheckpointing(offload=True, every_n_layers=every_n_layers)
    with FakeDevice() as device:
        actual = accumulate_gradients(offloaded_model(device, num_layers, section))
    n_copied = -(-num_layers // every_n_layers) - 1
    assert len(device.copies.on_device) == 2 * 2 * n_copied, "two passes, to the CPU and back"
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], gradient) for name, gradient in expected.items())
    assert device.races == []


@pytest.mark.parametrize("method", ["wait_stream", "wait_event"])
def test_without_either_wait_there_are_races(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeStream, method, lambda *_: None)
    with FakeDevice() as device:
        accumulate_gradients(offloaded_model(device, 3))
    races = "\n".join(device.races)
    expected = {
        "wait_stream": ["copy_.default read too early on copies", "copy_.default wrote too early on copies"],
        "wait_event": ["read too early on compute", "memory was freed too early on compute"],
    }
    assert all(race in races for race in expected[method])


def test_copies_overlap_with_layers() -> None:
    with FakeDevice() as device:
        loss = compute_loss(offloaded_model(device, 4))
        forward = device.events.copy()
        device.events.clear()
        torch.autograd.backward(loss)
    # A copy that is started before a layer, and waited for after the layer, runs while the layer computes.
    assert forward == [
        *("copy x0 to CPU", "layer 0", "wait for x0"),
        *("copy x1 to CPU", "layer 1", "wait for x1"),
        *("copy x2 to CPU", "layer 2", "wait for x2"),
        "layer 3",  # whose input stays on the device
    ]
    assert device.events == [
        *("copy x2 to device", "layer 3", "wait for x2"),
        *("copy x1 to device", "layer 2", "wait for x1"),
        *("copy x0 to device", "layer 1", "wait for x0"),
        "layer 0",
    ]


def test_two_offloaded_inputs_are_on_the_device_at_a_time() -> None:
    counts: list[int] = []

    class CountingDevice(FakeDevice):  # type: ignore[no-untyped-call]  # torch leaves __init_subclass__ untyped
        def __torch_dispatch__(self, *args: Any, **kwargs: Any) -> Any:
            counts.append(len(live(self.copies.on_device)))
            return super().__torch_dispatch__(*args, **kwargs)

    with CountingDevice() as device:
        loss = compute_loss(offloaded_model(device, 6))
        assert max(counts) == 1
        assert live(device.copies.on_device) == []
        counts.clear()
        torch.autograd.backward(loss)
    assert max(counts) == 2
    assert len(device.copies.on_device) == 10


def test_only_layer_inputs_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []
    store = InputOffload._store

    def recorded_store(self: InputOffload, x: Tensor, *, is_last: bool) -> Any:
        shapes.append(x.shape)
        return store(self, x, is_last=is_last)

    monkeypatch.setattr(InputOffload, "_store", recorded_store)
    with FakeDevice() as device:
        accumulate_gradients(offloaded_model(device, 3))
    assert shapes == [torch.Size([*batch.tokens.shape, 16]) for batch in BATCHES for _ in range(3)]


def test_memory_of_inputs_is_freed_after_the_backward_pass() -> None:
    with FakeDevice() as device:
        model = offloaded_model(device, 4)
        for i in range(2):
            loss = compute_loss(model, i)
            assert len(live(device.copies.on_cpu)) == 3
            torch.autograd.backward(loss)
            assert live(device.copies.on_cpu) == live(device.copies.on_device) == []


def test_a_forward_pass_without_backward_pass_leaves_nothing() -> None:
    with FakeDevice() as device:
        model = offloaded_model(device, 4)
        for i in range(2):
            loss = compute_loss(model, i)
            del loss
            assert live(device.copies.on_cpu) == live(device.copies.on_device) == []
        with torch.no_grad():
            compute_loss(model)
        assert len(device.copies.on_cpu) == 6
    assert device.races == []


def test_a_failed_forward_pass_leaves_nothing_after_the_next_pass() -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    with FakeDevice() as device:
        model = offloaded_model(device, 4)
        failure = model.layers[2].register_forward_pre_hook(fail)
        with pytest.raises(MemoryError):
            compute_loss(model)
        failure.remove()
        failed = [*device.copies.on_cpu, *device.copies.on_device]
        assert len(failed) == 4
        torch.autograd.backward(compute_loss(model))
    assert live(failed) == live(device.copies.on_cpu) == []
    assert device.races == []


def test_a_backward_pass_of_only_the_last_layers_has_no_race() -> None:
    with FakeDevice() as device:
        model = offloaded_model(device, 4)
        loss = compute_loss(model)
        torch.autograd.grad(loss, list(model.layers[3].parameters()))
        prefetched = device.copies.on_device[-1]
        assert prefetched() is not None
        del loss
        assert prefetched() is None
    assert device.races == []


def test_the_loss_of_several_passes_has_the_same_gradients() -> None:
    # The backward pass of the second pass is followed by that of the first, as in preference tuning.
    plain = build_model(3)
    torch.autograd.backward(compute_loss(plain, 0) + compute_loss(plain, 1))
    with FakeDevice() as device:
        model = offloaded_model(device, 3)
        torch.autograd.backward(compute_loss(model, 0) + compute_loss(model, 1))
    for p, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert p.grad is not None
        assert expected.grad is not None
        assert torch.equal(p.grad, expected.grad)
    assert device.races == []
    assert live(device.copies.on_cpu) == []


def test_inputs_are_not_copied_on_a_cpu() -> None:
    assert copy_stream(torch.device("cpu")) is None
    offload, x = InputOffload(), torch.ones(3, requires_grad=True)
    with offload.hooks(is_last=False):
        y = x * 1 * x
    saved: Any = y.grad_fn
    assert saved._saved_other.data_ptr() == x.data_ptr()
