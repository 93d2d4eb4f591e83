"""Small items of retrieval: how they are made of an annotation, and whether two of them are the same."""

import torch

from stgt.data.samples import RetrievalDataset
from stgt.data.transforms import eval_transform, train_transform


def make_items(annotation, root, train=True, **options):
    """The items of an annotation whose videos are below root: 4 frames of 16×16 pixels, and at most 12 tokens."""
    transform = train_transform(16) if train else eval_transform(16)
    options = {"frames": 4, "transform": transform, "max_length": 12, **options}
    return RetrievalDataset(annotation, root, train=train, **options)


def same(one, other, but=()):
    """Whether two items have the same keys and values. The values of the keys in `but` may differ."""
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if torch.is_tensor(value) else key in but or value == other[key]
        for key, value in one.items()
    )
