"""Embeds clips and a sentence with a trained model, and prints the clips in the order in which they fit the sentence.

Run it with `python examples/embed_and_search.py RUN VIDEOS "a sentence"`. RUN is the folder of a run, or one that
`stgt convert` wrote. `stgt search` does the same with more: it keeps the vectors, and re-ranks with the matching head.
"""

from pathlib import Path

import torch
import tyro
from torch import Tensor

from stgt.data.pixels import read_pixels
from stgt.evaluation.folder import find_videos
from stgt.evaluation.load import open_run
from stgt.training.run import Run


@torch.inference_mode()
def embed_videos(run: Run, paths: list[Path]) -> Tensor:
    """Q unit vectors of each clip: (V, Q, E). Clips are read one after the other, so they may have any length."""
    size, data = run.config.model.vision.image_size, run.config.data
    device = next(run.model.parameters()).device
    vectors = []
    for path in paths:
        pixels = read_pixels(path, data.frames, size, **data.decoding)  # (T, 3, S, S)
        vectors.append(run.model.encode_video(pixels[None].to(device)).queries[0].cpu())
    return torch.stack(vectors)


@torch.inference_mode()
def embed_texts(run: Run, texts: list[str]) -> Tensor:
    """A unit vector of each text: (M, E)."""
    device = next(run.model.parameters()).device
    ids, mask = run.tokenizer.encode(texts, run.config.model.qformer.max_text_length)
    return run.model.encode_text(ids.to(device), mask.to(device)).cpu()


def main(
    run: tyro.conf.Positional[Path],
    videos: tyro.conf.Positional[Path],
    sentence: tyro.conf.Positional[str],
    /,
    top: int = 5,
) -> list[tuple[Path, float]]:
    """Print the clips of a folder that fit a sentence best, with their similarity between -1 and 1."""
    opened = open_run(run)
    paths, broken = find_videos(videos)
    for path, cause in broken.items():
        print(f"left out, {path}: {cause}")
    # A clip has several vectors. Its similarity to a text is that of the nearest of them.
    similarity = opened.model.similarity(embed_videos(opened, paths), embed_texts(opened, [sentence]))[:, 0]
    best = similarity.argsort(descending=True)[:top].tolist()
    for i in best:
        print(f"{similarity[i]:.3f}  {paths[i]}")
    return [(paths[i], float(similarity[i])) for i in best]


if __name__ == "__main__":
    tyro.cli(main)
