"""Evaluates a model on tasks of MTEB: finding videos for a text, or texts for a video.

Run it with `python examples/mteb_benchmark.py MODEL MSRVTTT2V --out scores`. MODEL is the folder of a run, a folder
that `stgt convert` wrote, or the name of a model on the Hugging Face hub. MTEB downloads the data of its tasks.
"""

from collections.abc import Sequence
from pathlib import Path

import mteb
import tyro
from mteb.models import MultiVectorWrapper
from mteb.results import ModelResult

from stgt.search.sentence_transformers import VideoTextEncoder


def evaluate(model: str | Path, tasks: Sequence, out: Path) -> ModelResult:
    """Evaluate a model on tasks of MTEB. A task whose scores are in the folder `out` is not computed again."""
    encoder = VideoTextEncoder(model)
    inside = encoder[0].encoder
    wrapper = MultiVectorWrapper(encoder, num_frames=inside.pixels.frames)
    # MTEB believes that a model without a card reads texts only. It keeps scores below the name and the revision.
    facts = {"name": f"stgt/{Path(model).name}", "revision": inside.digest, "modalities": ["text", "image", "video"]}
    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(update=facts)
    return mteb.evaluate(wrapper, tasks, cache=mteb.ResultCache(out), encode_kwargs={"batch_size": 8})


def main(
    model: tyro.conf.Positional[str],
    names: tyro.conf.Positional[tuple[str, ...]],
    /,
    out: Path = Path("mteb-scores"),
) -> None:
    """Print the main score of each task, by the names of MTEB."""
    for result in evaluate(model, mteb.get_tasks(tasks=list(names)), out).task_results:
        print(f"{result.task_name}: {result.get_score():.4f}")


if __name__ == "__main__":
    tyro.cli(main)
