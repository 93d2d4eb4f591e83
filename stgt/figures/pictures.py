"""All figures of a page, with their captions."""

from __future__ import annotations

from pathlib import Path

import torch

from stgt.figures.maps import (
    STRONGEST,
    Scene,
    draw_attention,
    draw_edges,
    draw_pooling,
    draw_similarity,
    draw_thresholds,
)
from stgt.figures.matrices import draw_adjacency, draw_attention_matrices, draw_weights
from stgt.figures.page import Picture
from stgt.figures.retrieved import STILLS, Example, draw_text_to_video, draw_video_to_text


def draw_scene(scene: Scene, out: Path) -> list[Picture]:
    """Draw a scene's figures into a folder. A single frame is not pooled, so it has no figure of pooling positions.

    Memory grows with the square of the number of tokens: 2 GiB for 24 frames of 256 patches.
    """
    inside, weights = scene.inside, scene.inside.weights()
    tokens, window = len(weights), _frames(inside.window)
    edges = int((weights[inside.node(scene.token)] != 0).sum())
    condition = (
        f"at least h = {inside.threshold:g}" if inside.threshold is not None else "any number (there is no threshold)"
    )
    attention = {
        "(a) all tokens": inside.attention(torch.ones(tokens, tokens)),
        "(b) within\nthe window": inside.attention(inside.band().float()),
        "(c) along\nthe graph": inside.attention(weights),
    }
    plain = (
        f"softmax(q·k/√D), averaged over {len(inside.q)} heads: (a) over all {tokens} tokens, (b) over the tokens at "
        f"most {window} away, (c) the model's attention along the graph, where each score is multiplied by its edge "
        "weight. The value 1 is uniform attention over all tokens, and the scale is logarithmic"
    )
    figures = [
        (
            draw_similarity,
            "similarity",
            "Similarity and edges of a token",
            f"Cosine similarity of the marked token to every patch (a), to the patches at most {window} away (b), and "
            f"to those among them with an edge ({edges} in all), where it is {condition} (c). Hatched frames are "
            "outside the window. Compare Fig. 4 and 8.",
        ),
        (
            draw_edges,
            "edges",
            "Edges across frames",
            "The patches that have an edge to the marked token, coloured by edge weight. Curves lead to the "
            f"{STRONGEST} strongest edges in each other frame. Compare Fig. 4 and 8.",
        ),
        (
            draw_adjacency,
            "adjacency",
            "Adjacency matrix",
            f"Similarity of all pairs of the clip's {tokens} patches (a), the pairs at most {window} apart (b), and "
            f"the weights of the edges (c). An edge is a pair of (b) whose similarity is {condition}. The triangle "
            "marks the token's row. Compare Fig. 4.",
        ),
        (
            draw_weights,
            "weights",
            "Edge weights",
            f"Similarities of the pairs at most {window} apart (a), and the number of edges per token at each "
            "threshold (b).",
        ),
        (
            lambda scene, file: draw_attention(scene, attention, file),
            "attention",
            "Attention of a token, without and with the graph",
            f"Attention of the marked token: {plain}. Compare Fig. 8g.",
        ),
        (
            lambda scene, file: draw_attention_matrices(scene, attention, file),
            "attention_matrices",
            "Attention of all tokens, without and with the graph",
            f"Attention of each token (row) to each token (column): {plain}. Compare Fig. 8a, b.",
        ),
        (
            draw_thresholds,
            "thresholds",
            "Edges at other thresholds",
            "The edges of the marked token for several thresholds h, coloured by edge weight, and their number. The "
            "model's own threshold is in bold. Compare Fig. 15.",
        ),
    ]
    if inside.frames > 1:
        caption = (
            "Max-pool sampling keeps the maximum of each row and each column of a frame's patches in each channel. The "
            "figure shows the share of the channels in which a patch is the maximum of its row (a), of its column (b), "
            "and the mean of both (c). Compare Fig. 9."
        )
        figures.append((draw_pooling, "pooling", "Positions that max-pool sampling keeps", caption))
    pictures = []
    for draw, name, title, caption in figures:
        pictures.append(Picture(out / f"{name}.png", title, caption))
        draw(scene, pictures[-1].file)
    return pictures


def draw_examples(by_text: list[Example], by_video: list[Example], out: Path) -> list[Picture]:
    """Draw the retrieved clips for sentences and the retrieved sentences for clips into a folder."""
    score = "The score is the similarity plus the matching probability. Right answers are blue and have a tick."
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
