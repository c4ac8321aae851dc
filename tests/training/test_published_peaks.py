"""Published peaks are looked up by the whole name of a GPU."""

import pytest
import torch

from torchtune.modules import Hardware, assume_hardware
from torchtune.training import peak_flops
from torchtune.training._published_peaks import PEAKS, published_peak

BF16_PEAKS = {
    "NVIDIA GB300": 2500,
    "NVIDIA GB200": 2500,
    "NVIDIA B300 SXM6 AC": 2250,
    "NVIDIA B200": 2250,
    "NVIDIA GH200 480GB": 989,
    "NVIDIA GH200 144G HBM3e": 989,
    "NVIDIA H200": 989,
    "NVIDIA H200 NVL": 835,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 835,
    "NVIDIA H800": 989,
    "NVIDIA H20": 148,
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "A100-SXM4-40GB": 312,
    "NVIDIA A800-SXM4-80GB": 312,
    "NVIDIA A40": 149.7,
    "NVIDIA A30": 165,
    "NVIDIA A10": 125,
    "NVIDIA A10G": 70,
    "NVIDIA L40S": 362,
    "NVIDIA L40": 181,
    "NVIDIA L20": 119.5,
    "NVIDIA L4": 121,
    "NVIDIA GeForce RTX 5090": 209.5,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 3090": 71,
    "NVIDIA RTX 6000 Ada Generation": 364.2,
    "NVIDIA RTX A6000": 154.8,
    "AMD Instinct MI300X": 1307.4,
    "AMD Instinct MI300X OAM": 1307.4,
    "AMD Instinct MI325X": 1307.4,
    "AMD Instinct MI355X": 2516.6,
    "AMD Instinct MI300A": 980.6,
}
"""TFLOP/s by the names that CUDA and ROCm report."""

UNKNOWN = [
    "",
    "NVIDIA",
    "NVIDIA RTX A4000",  # not an A40
    "NVIDIA RTX A3000 Laptop GPU",  # not an A30
    "NVIDIA RTX A1000",  # not an A100, nor an A10
    "NVIDIA RTX A400",
    "NVIDIA RTX 4000 Ada Generation",
    "NVIDIA RTX 4500 Ada Generation",
    "Quadro RTX 6000",  # not the Ada generation
    "NVIDIA A100X",
    "NVIDIA A16",
    "NVIDIA A2",
    "NVIDIA L400",
    "NVIDIA H1000",
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA GeForce RTX 5090 Laptop GPU",
    "NVIDIA GeForce RTX 3090 Ti",
    "NVIDIA GeForce RTX 4080 SUPER",
    "NVIDIA GeForce GTX 1080",
    "NVIDIA TITAN V",
    "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    "NVIDIA A40-48Q",
    "NVIDIA GB10",
    "NVIDIA Graphics Device",
    "AMD Instinct MI300X VF",
    "AMD Radeon RX 7900 XTX",
]


@pytest.mark.parametrize("name", BF16_PEAKS)
def test_names_of_gpus_have_their_published_peak(name: str) -> None:
    assert published_peak(name, "bf16") == published_peak(name, "fp16") == BF16_PEAKS[name] * 1e12
    single = published_peak(name, "fp32")
    assert single is not None
    assert single < BF16_PEAKS[name] * 1e12
    assert published_peak(name, "fp64") is None


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_gpus_have_no_peak(name: str) -> None:
    assert published_peak(name, "bf16") is published_peak(name, "fp32") is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("Tesla V100-SXM2-32GB", 125e12),
        ("Tesla V100-PCIE-16GB", 112e12),
        ("Tesla V100S-PCIE-32GB", 130e12),
        ("Tesla T4", 65e12),
    ],
)
def test_gpus_before_ampere_have_no_peak_in_bf16(name: str, peak: float) -> None:
    assert published_peak(name, "fp16") == peak
    assert published_peak(name, "bf16") is None


def test_every_row_of_the_table_is_found_under_its_own_name() -> None:
    for name, peak in PEAKS.items():
        assert published_peak(f"NVIDIA {name}", "fp32") == peak.single * 1e12, name


def test_the_peak_of_a_device_depends_on_its_name_and_precision() -> None:
    cpu = torch.device("cpu")
    assert peak_flops(cpu, "fp32") is None
    with assume_hardware(Hardware("cuda", (9, 0), name="NVIDIA H100 80GB HBM3")):
        assert (peak_flops(cpu, "bf16"), peak_flops(cpu, "fp32")) == (989e12, 67e12)
