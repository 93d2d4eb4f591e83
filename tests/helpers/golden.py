"""Reads recorded tensors without the package that wrote them."""

import json
from pathlib import Path

import torch
from torch import Tensor

ASSETS = Path(__file__).parents[1] / "assets"
DTYPES = {"F32": torch.float32, "I32": torch.int32, "I64": torch.int64}


def recorded(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file: the length of a header, the header, and the data."""
    raw = bytearray((ASSETS / f"{name}.safetensors").read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    metadata, tensors = header.pop("__metadata__"), {}
    for key, entry in header.items():
        first, last = entry["data_offsets"]
        data = torch.frombuffer(raw[start + first : start + last], dtype=DTYPES[entry["dtype"]])
        tensors[key] = data.view(entry["shape"])
    return tensors, metadata
