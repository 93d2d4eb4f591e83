"""Tests for each caption whether it finds its clip, so that the rows of a study can be compared on the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from stgt.data.samples import PairDataset
from stgt.data.shapes.motion import GROUP
from stgt.data.text import wordings
from stgt.distributed import World
from stgt.evaluation.encode import encode_texts, encode_videos, model_digest, similarities, tokenize
from stgt.evaluation.metrics import ranks, said_of
from stgt.files import write_json
from stgt.runs import Run, data_of, open_retrieval, precision
from stgt.structure import field, read_json

CHANCE = 100 / GROUP


@dataclass(frozen=True)
class Hits:
    """The results of a model in the two tests of the ablations, by its similarities alone. A tie counts as wrong."""

    clips: list[bool]
    """For each caption of the test clips, whether a clip with this caption is the most similar one of all"""
    motions: list[bool]
    """For each caption of the clips that only motion tells apart, whether its clip is the most similar of its group"""

    @property
    def motion(self) -> float:
        """The percentage of captions that find their clip among those with the same objects and other motions."""
        return 100 * sum(self.motions) / len(self.motions)


def hits(folder: Path, motions: Path, device: str = "auto") -> Hits:
    """The hits of the model of a run, which are kept in `hits.json` in its folder.

    folder: the run's folder. motions: the folder that `render_motions` wrote.
    """
    path = folder / "hits.json"
    if not path.exists():
        run = open_retrieval(folder, device)
        features = folder / "features" / model_digest(run.model, run.config.precision)
        items, grouped = run.test_items(), run.test_items(data_of(run, motions / "test.json", motions / "videos"))
        found = first(_similarity(run, items, features), items.captions)
        told_apart = in_groups(_similarity(run, grouped, features))
        write_json(path, asdict(Hits(found.tolist(), told_apart.tolist())))
    kept = read_json(path, dict)
    return Hits(*(field(kept, name, list, str(path)) for name in ("clips", "motions")))


def _similarity(run: Run, items: PairDataset, features: Path) -> Tensor:
    world = World(0, 1, run.device)
    with precision(run):
        texts = tokenize(run, [caption for _, caption in items.captions])
        videos = encode_videos(run.model, items, features, world)
        return similarities(run.model, videos, encode_texts(run.model, texts, features, world), features, world)


def first(similarity: Tensor, captions: Sequence[tuple[int, str]]) -> Tensor:
    """Whether each caption finds a clip that has it, word for word.

    similarity: (V, M). captions: the number of the clip and the text of each caption. Returns bool (M,).
    """
    owner = torch.tensor([video for video, _ in captions])
    wording = torch.tensor(wordings(text for _, text in captions))
    return ranks(similarity.T, said_of(owner, wording, len(similarity))[:, wording].T) == 1


def in_groups(similarity: Tensor) -> Tensor:
    """Whether each caption is more similar to its own clip than to the other clips of its group.

    similarity: (n, n), clips and captions in the same order, group after group. Returns bool (n,).
    """
    count = len(similarity) // GROUP
    blocks = similarity.view(count, GROUP, count, GROUP).diagonal(dim1=0, dim2=2)  # (video, caption, group)
    own = blocks.diagonal(dim1=0, dim2=1)  # (group, caption)
    rivals = (blocks.permute(2, 1, 0) >= own[..., None]).sum(-1)  # the own video is one of them
    return (rivals == 1).flatten()
