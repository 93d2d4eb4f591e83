"""Makes torchvision importable beside a torch that it was not compiled for.

Import this module before torchvision, timm or open_clip: `import stgt._torchvision  # noqa: F401`.

PyPI's torchvision holds a library of CUDA operators. This library cannot be loaded beside a CPU-only torch. Torchvision
then goes on without the library, but its import fails (`operator torchvision::nms does not exist`): it registers shape
functions for two operators that are not defined. We need only its transforms, so it is enough to define the two
schemas. If the library can be loaded, nothing is defined.
"""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _loads_its_operators() -> bool:
    """Whether torchvision's compiled library can be loaded. Torchvision itself tries the same first.

    The library is `_C.so` up to torchvision 0.28, and `_C_stable.so` since 0.29.
    """
    package = importlib.util.find_spec("torchvision")
    if package is None:
        return True  # `import torchvision` will say that it is not installed
    for folder in package.submodule_search_locations or ():
        for library in sorted(Path(folder).glob("_C*")):
            if library.name.endswith(tuple(EXTENSION_SUFFIXES)):
                try:
                    torch.ops.load_library(library)
                except OSError:
                    continue
                if hasattr(torch.ops.torchvision, "nms"):
                    return True
    return False


if "torchvision" not in sys.modules and not _loads_its_operators():
    _definitions = torch.library.Library("torchvision", "DEF")  # the schemas exist as long as this object
    for _schema in SCHEMAS:
        _definitions.define(_schema)
