"""The peaks of known devices, for the share of them that a step uses (MFU)."""

PEAKS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
    "A100": 312,
    "L40S": 362,
    "RTX 4090": 165,
}
"""TFLOP/s of dense bf16 matrix products, from NVIDIA's data sheets, by a part of the GPU's name; the first match counts."""


def known_peak(name: str, precision: str) -> float | None:
    """Return the FLOP/s of a GPU's dense matrix products by its name; None: unknown, as in fp32, for which kernels may use TF32."""
    return next((1e12 * peak for part, peak in PEAKS.items() if part in name), None) if precision == "bf16" else None
