"""Every figure of a page, with the sentences that go below it."""

from __future__ import annotations

from pathlib import Path

import torch

from stgt.figures.maps import (
    STRONGEST,
    Scene,
    draw_attention,
    draw_links,
    draw_pooling,
    draw_similarity,
    draw_thresholds,
)
from stgt.figures.matrices import draw_adjacency, draw_attention_matrices, draw_weights
from stgt.figures.page import Picture
from stgt.figures.retrieved import STILLS, Example, draw_text_to_video, draw_video_to_text


def draw_scene(scene: Scene, out: Path) -> list[Picture]:
    """Draw a scene's figures into a folder; of a single frame, which is not pooled, without the pooling positions.

    Memory grows with the square of the number of tokens: 2 GiB for 24 frames of 256 patches.
    """
    inside, weights = scene.inside, scene.inside.weights()
    tokens, window = len(weights), _frames(inside.window)
    links = int((weights[inside.node(scene.token)] != 0).sum())
    condition = (
        f"at least h = {inside.threshold:g}" if inside.threshold is not None else "whatever it is (no threshold)"
    )
    attention = {
        "(a) all tokens": inside.attention(torch.ones(tokens, tokens)),
        "(b) within\nthe window": inside.attention(inside.band().float()),
        "(c) along\nthe graph": inside.attention(weights),
    }
    plain = (
        f"softmax(q·k/√D), the mean of {len(inside.q)} heads, (a) over all {tokens} tokens and (b) over those at most "
        f"{window} away; (c) the model's own, along the graph, each score multiplied by its edge weight. 1 is uniform "
        f"attention over all tokens; the scale is logarithmic"
    )
    figures = [
        (
            draw_similarity,
            "similarity",
            "Similarity and links of a token",
            f"Cosine similarity of the marked token to every patch (a), what of it lies at most {window} away (b), and "
            f"the {links} links, where it is {condition} (c). Hatched frames are out of reach. Compare Fig. 4 and 8.",
        ),
        (
            draw_links,
            "links",
            "Links across frames",
            f"The patches that the marked token is linked to, tinted by edge weight; curves lead to the {STRONGEST} "
            "strongest in each other frame. Compare Fig. 4 and 8.",
        ),
        (
            draw_adjacency,
            "adjacency",
            "Adjacency matrix",
            f"Similarity of all pairs of the clip's {tokens} patches (a), the pairs at most {window} apart (b), and "
            f"the weights of the edges, those of these pairs whose similarity is {condition} (c). The triangle marks "
            "the token's row. Compare Fig. 4.",
        ),
        (
            draw_weights,
            "weights",
            "Edge weights",
            f"How similar the pairs at most {window} apart are (a), and how many links per token each threshold would "
            "leave (b).",
        ),
        (
            lambda scene, file: draw_attention(scene, attention, file),
            "attention",
            "Attention of a token, without and with the graph",
            f"Where the marked token attends to: {plain}. Compare Fig. 8g.",
        ),
        (
            lambda scene, file: draw_attention_matrices(scene, attention, file),
            "attention_matrices",
            "Attention of all tokens, without and with the graph",
            f"Who (row) attends to whom (column): {plain}. Compare Fig. 8a, b.",
        ),
        (
            draw_thresholds,
            "thresholds",
            "Links at other thresholds",
            "The marked token's links if the threshold h were another one, tinted by edge weight, and how many there "
            "are; the model's own is in bold. Compare Fig. 15.",
        ),
    ]
    if inside.frames > 1:
        caption = (
            "Max-pool sampling keeps the maximum of each row and each column of a frame's patches, channel by channel: "
            "the share of the channels in which a patch is the maximum of its row (a), of its column (b), and the mean "
            "of both (c). Compare Fig. 9."
        )
        figures.append((draw_pooling, "pooling", "Positions that max-pool sampling takes", caption))
    pictures = []
    for draw, name, title, caption in figures:
        pictures.append(Picture(out / f"{name}.png", title, caption))
        draw(scene, pictures[-1].file)
    return pictures


def draw_examples(by_text: list[Example], by_video: list[Example], out: Path) -> list[Picture]:
    """Draw what was found for sentences and for clips into a folder."""
    score = "The score is the similarity plus the matching probability; a tick and blue mark what is right."
    text_to_video = Picture(
        out / "text_to_video.png",
        "Clips found for a sentence",
        f"The first {len(by_text[0].answers)} clips for captions of the test split, {STILLS} frames each. {score} "
        "Compare Fig. 13.",
    )
    video_to_text = Picture(
        out / "video_to_text.png",
        "Sentences found for a clip",
        f"The first {len(by_video[0].answers)} captions for clips of the test split. {score} Compare Fig. 14.",
    )
    draw_text_to_video(by_text, text_to_video.file)
    draw_video_to_text(by_video, video_to_text.file)
    return [text_to_video, video_to_text]


def _frames(count: int) -> str:
    return f"{count} frame" if count == 1 else f"{count} frames"
