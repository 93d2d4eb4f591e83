"""The settings of the vision tower. Sizes that follow from its name can be left out."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from stgt.fields import DEEPEST, LONGEST, WIDEST, require, require_counts, require_types
from stgt.towers import KNOWN, LAYERS, TowerSizes


@dataclass
class VisionConfig:
    """The image tower: any open_clip model with a square patch grid, or with `tower="vit"` one of the sizes below."""

    tower: str = "EVA01-g-14"
    """The name of an open_clip model, which decides its sizes; or "vit": an EVA01-g of other sizes"""
    pretrained: str | None = None
    """An open_clip tag or a weight file; None leaves the tower randomly initialised"""
    image_size: int | None = None
    """Side of a frame in pixels. For this and the other sizes, None takes the tower's own"""
    patch_size: int | None = None
    """Side of a patch in pixels"""
    width: int | None = None
    """Width of a patch token"""
    layers: int | None = None
    """Number of blocks that are run, without a final norm. None runs all of them, except for EVA01-g-14, where it runs
    39 of the 40, as BLIP-2 does"""
    heads: int | None = None
    """Number of attention heads"""
    mlp_ratio: float | None = None
    """Width of the hidden layer of the MLPs, as a multiple of `width`"""
    open_blocks: int = 0
    """Number of last blocks that are trained: 0 freezes the tower, -1 trains all of it"""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """The dtype that the frozen part computes in"""

    def __post_init__(self) -> None:
        require_types(self)
        most = dict(image_size=LONGEST, patch_size=LONGEST, width=WIDEST, layers=DEEPEST, heads=WIDEST)
        require_counts(self, **{name: n for name, n in most.items() if getattr(self, name) is not None})
        require(self, "tower", bool(self.tower), "an open_clip model name, or 'vit'")
        ratio = self.mlp_ratio is None or 0 < self.mlp_ratio <= 1000
        require(self, "mlp_ratio", ratio, "a positive number of at most 1000")
        if None in self._given().values():  # a complete configuration is compared when its tower is built
            self.require_tower()
        sizes = self.sizes
        # 27 patches of 14 pixels leave 6 pixels of 384 over in the towers of SigLIP.
        whole = sizes.image_size % sizes.patch_size == 0
        whole = whole or (self.tower != "vit" and sizes.image_size == tower_sizes(self.tower).image_size)
        for name, fits, expected in (
            ("image_size", whole, f"a multiple of patch_size={sizes.patch_size}"),
            ("width", sizes.width % sizes.heads == 0, f"a multiple of heads={sizes.heads}"),
        ):
            if not fits:
                raise ValueError(f"VisionConfig.{name} is {getattr(sizes, name)}, expected {expected}")
        require(self, "open_blocks", -1 <= self.open_blocks <= sizes.layers, f"-1 (all) or 0 to layers={sizes.layers}")

    @property
    def sizes(self) -> TowerSizes:
        """All sizes, the tower's own where a field is None. `layers` is the number of layers that are run."""
        given = self._given()
        if None not in given.values():
            return TowerSizes(**given)
        own = tower_sizes(self.tower)
        own = replace(own, layers=LAYERS.get(self.tower, own.layers))
        return replace(own, **{name: value for name, value in given.items() if value is not None})

    def require_tower(self) -> None:
        """Raise ValueError if open_clip's tower has other sizes than this configuration says."""
        if self.tower == "vit":
            return
        own = tower_sizes(self.tower)
        for name in ("patch_size", "width", "heads", "mlp_ratio"):
            expected = getattr(own, name)
            agrees = getattr(self, name) in (None, expected)
            require(self, name, agrees, f"{expected}, which the tower {self.tower!r} has")
        fits = self.layers is None or self.layers <= own.layers
        require(self, "layers", fits, f"at most the {own.layers} layers of the tower {self.tower!r}")

    def _given(self) -> dict:
        return {field.name: getattr(self, field.name) for field in fields(TowerSizes)}


def tower_sizes(tower: str) -> TowerSizes:
    """The sizes of a tower, with all its blocks. Raises ValueError for a name that open_clip does not know."""
    if tower in KNOWN:
        return KNOWN[tower]
    from stgt.open_clip_towers import open_clip_sizes  # here, so that configurations are quick to import

    return open_clip_sizes(tower)
