"""The whole model: three graph transformers over a host's states, and the losses that align text and video."""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt.finsta import losses
from stgt.finsta.batch import GraphBatch
from stgt.finsta.batching.bags import rows
from stgt.finsta.config import FinstaConfig
from stgt.finsta.hosts.host import HostStates, Widths
from stgt.finsta.model.alignment import Candidates, PredicateRegions, same_things, shown
from stgt.finsta.model.nodes import NodeStates, check, patches_of_nodes, words_of_nodes
from stgt.finsta.model.output import FinstaOutput
from stgt.finsta.model.recurrent import Frames, RecurrentTransformer
from stgt.finsta.model.transformer import GraphTransformer


class Finsta(nn.Module):
    """A reconstruction of Finsta (arXiv 2406.19255). Its equations are our own; docs/finsta_model.md gives them.

    A graph transformer encodes the graphs of the texts (TSG), and two recurrent ones encode the graphs of the videos
    (DSG) and both together (HSG). The last is left out if the host has no states that have seen text and video.
    """

    def __init__(self, config: FinstaConfig, widths: Widths) -> None:
        super().__init__()
        self.config, self.widths = config, widths
        d = config.width
        self.nodes = NodeStates(config, widths)
        self.text, self.video = GraphTransformer(config), RecurrentTransformer(config)
        self.both = RecurrentTransformer(config) if widths.cross is not None else None
        self.said, self.seen = nn.Linear(d, d), nn.Linear(d, d)
        self.regions = PredicateRegions(config)
        self.word, self.patch = nn.Linear(widths.text, d), nn.Linear(widths.video, d)
        self.cross = nn.Linear(widths.cross, d) if widths.cross is not None else None

    def forward(self, states: HostStates, graphs: GraphBatch, labels: Tensor) -> FinstaOutput:
        """The losses of a batch of B clips, and what the words are about.

        graphs: the clips' graphs, made with the same config, on the device of the states. labels: (n, Widths.text),
        `host.words(graphs.labels)`. Gradients reach states and labels. Raises ValueError if sizes do not fit.
        """
        check(states, graphs, labels, self.widths)
        texts, videos = graphs.texts, graphs.videos
        words = words_of_nodes(states.text, texts)
        patches = patches_of_nodes(states.video, states.grid, graphs)
        text, video = self.nodes(words, patches, graphs, labels)
        text = self.text(text, texts.graph)
        shape = graphs.clips, graphs.frames, videos.most
        frames = Frames(videos.graph, videos.slot, shape, videos.sighting, videos.space)
        video = self.video(video, frames)
        same = same_things(graphs, labels, self.config)
        said, seen = texts.region.sums(text), videos.region.sums(video)
        similarity = losses.cosines(self.said(said), self.seen(seen))
        sighting = video.index_select(0, videos.sighting)
        relation = video.index_select(0, graphs.pairs.relation)
        candidates = self.regions(text.index_select(0, texts.predicate), sighting, relation, graphs, same)
        read_outs = [texts.read_out.sums(text), videos.read_out.sums(video)]
        distilled = [
            losses.distillation(self.word(words), text, texts.spoken[:, 0]),
            losses.distillation(self.patch(patches), video),
        ]
        if self.both is not None:
            both = self._holistic(text, video, graphs, same)
            read_outs.append(graphs.holistic.read_out.sums(both))
            if states.cross is not None and self.cross is not None:
                cross = self.cross(words_of_nodes(states.cross, texts))
                distilled.append(losses.distillation(cross, graphs.holistic.text.sums(both), texts.spoken[:, 0]))
        return FinstaOutput(
            losses=self._losses(similarity, shown(graphs, same), candidates, [r[graphs.complete] for r in read_outs]),
            distillation=torch.stack(distilled).sum(),
            object_nodes=sighting,
            graphs=graphs,
            similarity=similarity.detach(),
            candidates=candidates._replace(score=candidates.score.detach()),
        )

    def _holistic(self, text: Tensor, video: Tensor, graphs: GraphBatch, same: Tensor) -> Tensor:
        """The states of the nodes of HSG. Its edges between objects and tracks that are not the same are taken away."""
        holistic = graphs.holistic
        bias = None
        if len(holistic.coreference):
            kept = same.flatten()[holistic.coreference].to(text.dtype).log()
            bias = F.pad(kept, (holistic.graph.edges - len(kept), 0))[:, None].expand(-1, self.config.heads)
        shape = graphs.clips, graphs.frames, holistic.most
        frames = Frames(holistic.graph, holistic.slot, shape, holistic.sighting, graphs.videos.space)
        assert self.both is not None
        return self.both(rows(torch.cat([text, video]), holistic.source), frames, bias)

    def _losses(
        self, similarity: Tensor, positive: Tensor, candidates: Candidates, read_outs: list[Tensor]
    ) -> dict[str, Tensor]:
        config = self.config
        contrasts = [losses.vtc(one, other, config.tau) for one, other in combinations(read_outs, 2)]
        found = {"vtc": torch.stack(contrasts).mean()}
        if config.osc:
            found["osc"] = losses.osc(similarity / config.tau, positive)
        if config.ptc:
            score, own, others = (part.flatten(1) for part in candidates[:3])
            found["ptc"] = losses.ptc(score / config.tau, own, others, candidates.rivals)
        return found
