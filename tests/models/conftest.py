"""Recorded tensors, and the backends that must reproduce them."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import stgt._torchvision  # noqa: F401  (for the tests that import open_clip)
from stgt_kernels import dispatch

ASSETS = Path(__file__).parents[1] / "assets"

# (backend, device); interpreted Triton runs in a process of its own, GPU backends where there is a GPU.
BACKENDS = [("reference", "cpu"), ("cpu", "cpu"), pytest.param(("triton", "cpu"), marks=pytest.mark.triton_interpret)]
if torch.cuda.is_available():
    BACKENDS += [(name, "cuda") for name in ("triton", "cuda") if dispatch.why_not(name, "cuda") is None]


@pytest.fixture(params=BACKENDS, ids=lambda backend: "-".join(backend))
def backend(request):
    return request.param


@pytest.fixture
def golden():
    """golden(name) -> (tensors, metadata) of a recorded file."""

    def load(name):
        with safe_open(ASSETS / f"{name}.safetensors", "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118

    return load


@pytest.fixture
def assert_near():
    """Compare with recorded float32 values, whose distance from float64 was measured.

    Outputs: 1e-5 of the largest value (the recorded ones are up to 4e-6 off). Gradients: 5e-5 (up to 4.3e-5 off). Both:
    2e-7 for sums that cancel, such as the gradient of a key's bias, which is 0 but for rounding.
    """

    def check(actual, expected, name, gradient=False):
        error = (actual.detach().cpu() - expected).abs().max().item()
        limit = (5e-5 if gradient else 1e-5) * expected.abs().max().item() + 2e-7
        assert error <= limit, f"{name}: largest error {error:.2e}, limit {limit:.2e}"

    return check
