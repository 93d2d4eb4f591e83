"""Makes torchvision importable beside a torch it was not compiled for: import this before torchvision, timm, open_clip.

PyPI's torchvision carries CUDA operators. Beside a CPU-only torch that library cannot be loaded, torchvision goes on
without it, and then its own import fails (`operator torchvision::nms does not exist`), for it registers shape functions
for two operators that nobody has defined. We need only its transforms, so defining the two schemas is enough.
Where the library loads, nothing is defined. `import stgt._torchvision  # noqa: F401` goes above the import it serves.
"""

import importlib.machinery
import importlib.util
import sys

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _loads_its_operators() -> bool:
    """Whether torchvision's compiled library loads: the question that torchvision itself asks first."""
    package = importlib.util.find_spec("torchvision")
    if package is None:
        return True  # nothing to repair: `import torchvision` will say that it is not installed
    library = importlib.machinery.PathFinder.find_spec("_C", package.submodule_search_locations)
    if library is None:
        return False
    try:
        torch.ops.load_library(library.origin)
    except OSError:
        return False
    return True


if "torchvision" not in sys.modules and not _loads_its_operators():
    _definitions = torch.library.Library("torchvision", "DEF")  # kept: the schemas go when it goes
    for _schema in SCHEMAS:
        _definitions.define(_schema)
