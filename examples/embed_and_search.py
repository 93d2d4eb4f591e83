"""Embeds clips and a sentence with a trained model, and prints the clips in the order in which they fit the sentence.

Run it with `python examples/embed_and_search.py MODEL VIDEOS "a sentence"`. MODEL is the folder of a run, a folder that
`stgt convert` wrote, or the name of a model on the Hugging Face hub. `stgt search` does more: it keeps the vectors,
leaves out files that cannot be read, and re-ranks with the matching head.
"""

from pathlib import Path

import tyro

import stgt

ENDINGS = {".mp4", ".webm", ".mkv", ".mov", ".avi"}


def main(
    model: tyro.conf.Positional[str],
    videos: tyro.conf.Positional[Path],
    sentence: tyro.conf.Positional[str],
    /,
    top: int = 5,
) -> list[tuple[Path, float]]:
    """Print the clips of a folder that fit a sentence best, with their similarity between -1 and 1."""
    retriever = stgt.load(model)
    paths = sorted(path for path in videos.iterdir() if path.suffix.lower() in ENDINGS)

    clips = retriever.embed_videos(paths)  # (V, Q, E): Q unit vectors of each clip
    texts = retriever.embed_texts([sentence])  # (1, E): a unit vector of the sentence
    # The similarity of a clip and a text is the largest cosine over the clip's vectors.
    similarity = retriever.similarity(clips, texts)[:, 0]

    best = similarity.argsort(descending=True)[:top].tolist()
    for i in best:
        print(f"{similarity[i]:.3f}  {paths[i]}")
    return [(paths[i], float(similarity[i])) for i in best]


if __name__ == "__main__":
    tyro.cli(main)
