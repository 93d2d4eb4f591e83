"""Finds clips for a sentence with sentence-transformers: its late interaction chooses, and its cross-encoder re-ranks.

Run it with `python examples/sentence_transformers_ranking.py MODEL VIDEOS "a sentence"`. MODEL is the folder of a
run, a folder that `stgt convert` wrote, or the name of a model on the Hugging Face hub.
"""

from pathlib import Path

import tyro

from stgt.search.sentence_transformers import VideoTextEncoder, VideoTextReranker

ENDINGS = {".mp4", ".webm", ".mkv", ".mov", ".avi"}


def main(
    model: tyro.conf.Positional[str],
    videos: tyro.conf.Positional[Path],
    sentence: tyro.conf.Positional[str],
    /,
    top: int = 5,
) -> list[tuple[Path, float]]:
    """Print the clips of a folder that fit a sentence best, with the score of the matching head."""
    paths = sorted(path for path in videos.iterdir() if path.suffix.lower() in ENDINGS)
    encoder = VideoTextEncoder(model)
    query = encoder.encode_query([sentence])  # a list of one (1, E) tensor
    documents = encoder.encode_document(paths)  # a list of (Q, E) tensors, Q vectors of each clip
    nearest = encoder.similarity(query, documents)[0].argsort(descending=True)[: 4 * top].tolist()

    candidates = [paths[i] for i in nearest]
    ranked = VideoTextReranker(model).rank(sentence, candidates, top_k=top)
    for hit in ranked:
        print(f"{hit['score']:.3f}  {candidates[hit['corpus_id']]}")
    return [(candidates[hit["corpus_id"]], hit["score"]) for hit in ranked]


if __name__ == "__main__":
    tyro.cli(main)
