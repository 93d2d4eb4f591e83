"""A tiny whole model, and a batch for it."""

from contextlib import contextmanager

import pytest
import torch

from stgt.config import GraphConfig, ModelConfig, QFormerConfig, VisionConfig
from stgt.models.stgt import STGT

VISION = dict(tower="vit", image_size=32, patch_size=8, width=16, layers=2, heads=2, dtype="float32")
GRAPH = dict(heads=2, frames=4, threshold=0.1, dropout=0.0)
QFORMER = dict(hidden=24, layers=2, heads=2, intermediate=48, queries=4, embed_dim=8, dropout=0.0)
WORDS = dict(vocab_size=30, bos_token_id=29, max_positions=16, max_text_length=8)


def tiny_config(vision=None, graph=None, qformer=None):
    return ModelConfig(
        VisionConfig(**VISION | (vision or {})),
        GraphConfig(**GRAPH | (graph or {})),
        QFormerConfig(**QFORMER | WORDS | (qformer or {})),
    )


def tiny_model(seed=0, tower=True, **parts):
    torch.manual_seed(seed)
    return STGT(tiny_config(**parts), tower=tower)


@contextmanager
def in_float64(model):
    """Convert a model to float64, and let it compute in float64 during the block where it would convert to float32."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)  # attention needs a bias of this dtype
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def tiny_batch(n=4, frames=2, length=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    video = torch.rand(n, frames, 3, 4, 4, generator=generator).repeat_interleave(8, -1).repeat_interleave(8, -2)
    ids = torch.randint(3, 29, (n, length), generator=generator)
    ids[:, 0] = 1
    ends = torch.randint(2, length + 1, (n,), generator=generator)
    mask = (torch.arange(length) < ends[:, None]).long()
    return {"video": video, "input_ids": ids * mask, "attention_mask": mask}


def one_layer_model(**graph):
    """A model in evaluation mode whose tower has one block, for the tests that look inside."""
    return tiny_model(vision=dict(layers=1, open_blocks=-1), graph=dict(threshold=0.5) | graph).eval()
