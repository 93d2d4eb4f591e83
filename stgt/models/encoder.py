"""The encoder from pixels to video tokens, which retrieval and question answering share."""

from __future__ import annotations

from torch import Tensor

from stgt.config import ModelConfig
from stgt.models.graph_transformer import GraphTransformer
from stgt.models.precision import Float32Module
from stgt.models.transformer import LayerNorm
from stgt.models.vision import VisionTower


class VideoEncoder(Float32Module):
    """The vision tower, the graph transformer, and the norm before the Q-Former.

    tower=False leaves out the vision tower, for runs that read its tokens from a cache.
    """

    def __init__(self, config: ModelConfig, tower: bool = True) -> None:
        super().__init__()
        self.config = config
        width = config.vision.sizes.width
        self.vision = VisionTower(config.vision) if tower else None
        self.graph = GraphTransformer(config.graph, width, config.vision.sizes.grid)
        self.ln_vision = LayerNorm(width)

    def visual_tokens(self, video: Tensor) -> Tensor:
        """The tower's tokens of every frame. video: (B, T, 3, S, S), normalised. Returns (B, T, 1+P, C) float32.

        Raises ValueError if the model has no tower.
        """
        if self.vision is None:
            raise ValueError("video was given to a model that was made with tower=False, expected tokens")
        return self.vision(video)

    def _embed(self, video: Tensor | None, tokens: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Video tokens (B, S, C) and statistics, from video (B, T, 3, S, S) or the tower's tokens (B, T, 1+P, C)."""
        if (video is None) == (tokens is None):
            raise ValueError("expected either video or tokens, got " + ("neither" if video is None else "both"))
        tokens = self.visual_tokens(video) if tokens is None else tokens.float()
        x, stats = self.graph(tokens)
        return self.ln_vision(x), stats
