"""The losses teach a small model, within seconds, which track a word is about and when."""

import torch
from helpers.scenes import COLOURS, FRAMES, SHAPES, batch_of, host_states, scene, word_vectors

from stgt.finsta.config import FinstaConfig
from stgt.finsta.hosts.host import HostStates, Widths
from stgt.finsta.model.finsta import Finsta

SETTINGS = FinstaConfig(width=32, heads=2, layers=1, dropout=0.0, cells=2)
WIDTHS = Widths(text=24, video=24, cross=None)
SIDE = 8


def informed(clips, seed):
    """States of a host that knows words, and that sees the colour and the shape of what is in a patch, and noise."""
    plain = host_states(clips, widths=WIDTHS)
    noise = torch.Generator().manual_seed(seed)
    text, video = torch.zeros_like(plain.text), torch.randn(len(clips), FRAMES, SIDE, SIDE, 24, generator=noise) / 2
    looks = {word: word_vectors([f"look of {word}"], 24)[0] for word in COLOURS + SHAPES}
    for b, clip in enumerate(clips):
        vectors = word_vectors(clip.text.split(" "), 24)
        text[b, : len(vectors)] = vectors
        for t, frame in enumerate(clip.dsg.frames):
            for one in frame.objects:
                x0, y0, x1, y1 = (round(SIDE * c) for c in one.box)
                video[b, t, y0:y1, x0:x1] += looks[one.label] + looks[one.attributes[0]]
    return HostStates(text, plain.offsets, video.flatten(2, 3), (SIDE, SIDE), plain.times)


def prepared(clips, seed):
    return batch_of(clips, SETTINGS), informed(clips, seed)


def output_of(model, batch, seed):
    """The labels get noise instead of vectors, so that only the patches tell what a track is."""
    graphs, states = batch
    return model(states, graphs, torch.randn(len(graphs.labels), 24, generator=torch.Generator().manual_seed(seed)))


def found(model, clips):
    """The share of objects and frames for which the track with the highest score is the right one."""
    with torch.no_grad():
        grounding = output_of(model, prepared(clips, 1), 1).grounding
    right = []
    for clip, own in zip(clips, grounding, strict=True):
        for k, node in enumerate(node for node in clip.tsg.nodes if node.kind == "object"):
            right.append((own.objects[node.id].argmax(0) == k).float().mean())
    return torch.stack(right).mean().item()


def test_a_trained_model_finds_the_objects_of_unseen_clips_far_more_often_than_by_chance():
    torch.manual_seed(0)
    model = Finsta(SETTINGS, WIDTHS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    clips = [scene(seed, 2) for seed in range(1000, 1096)]
    batches = [prepared(clips[first : first + 12], first) for first in range(0, len(clips), 12)]
    losses = []
    for step in range(64):
        output = output_of(model, batches[step % len(batches)], step)
        loss = output.losses["osc"] + output.losses["ptc"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert found(model.eval(), [scene(seed, 2) for seed in range(2000, 2040)]) > 0.75
