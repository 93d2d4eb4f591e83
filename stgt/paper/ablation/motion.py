"""How often a caption finds its clip among clips with the same objects and other motions."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from stgt.data.shapes.motion import GROUP
from stgt.distributed import World
from stgt.evaluation.encode import encode_texts, encode_videos, model_digest, similarities, tokenize
from stgt.runs import data_of, open_retrieval, precision

CHANCE = 100 / GROUP


def motion_accuracy(folder: Path, clips: Path, device: str = "auto") -> float:
    """The percentage of captions that are most similar to their own clip of the group, for the model of a run.

    folder: the run's folder. clips: the folder that `render_motions` wrote.
    """
    run = open_retrieval(folder, device)
    items = run.test_items(data_of(run, clips / "test.json", clips / "videos"))
    kept, world = folder / "features" / model_digest(run.model, run.config.precision), World(0, 1, run.device)
    with precision(run):
        texts = tokenize(run, [caption for _, caption in items.captions])
        videos = encode_videos(run.model, items, kept, world)
        encoded = encode_texts(run.model, texts, kept, world)
        return accuracy_in_groups(similarities(run.model, videos, encoded, kept, world))


def accuracy_in_groups(similarity: Tensor) -> float:
    """The percentage of columns whose largest value within the group is that of their own row. A tie counts as wrong.

    similarity: (n, n), videos and captions in the same order, group after group.
    """
    count = len(similarity) // GROUP
    blocks = similarity.view(count, GROUP, count, GROUP).diagonal(dim1=0, dim2=2)  # (video, caption, group)
    own = blocks.diagonal(dim1=0, dim2=1)  # (group, caption)
    rivals = (blocks.permute(2, 1, 0) >= own[..., None]).sum(-1)  # the own video is one of them
    return 100 * (rivals == 1).double().mean().item()
