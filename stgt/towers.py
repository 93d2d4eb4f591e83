"""The sizes of vision towers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TowerSizes:
    """The sizes that decide the shapes of a vision tower's weights."""

    image_size: int
    """Side of a frame in pixels"""
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float

    @property
    def grid(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size


# The sizes of the released model's tower are listed here because loading open_clip to ask for them is slow.
KNOWN = {
    "EVA01-g-14": TowerSizes(image_size=224, patch_size=14, width=1408, layers=40, heads=16, mlp_ratio=6144 / 1408),
    "vit": TowerSizes(image_size=224, patch_size=14, width=1408, layers=39, heads=16, mlp_ratio=4.0),
}
# The number of blocks that BLIP-2 and the released model run. Other towers run all of their blocks.
LAYERS = {"EVA01-g-14": 39}
