"""The backends that must reproduce recorded tensors."""

import pytest
import torch

import stgt._torchvision  # noqa: F401  (for the tests that import open_clip)
from stgt_kernels import dispatch

# (backend, device)
BACKENDS = [("reference", "cpu"), ("cpu", "cpu")]
if torch.cuda.is_available():
    BACKENDS += [(name, "cuda") for name in ("triton", "cuda") if dispatch.why_not(name, "cuda") is None]


@pytest.fixture(params=BACKENDS, ids=lambda backend: "-".join(backend))
def backend(request):
    return request.param
