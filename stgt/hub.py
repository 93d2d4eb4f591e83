"""Writes a trained model as a folder with a model card, and uploads it to the Hugging Face hub."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from stgt.causes import cause_of
from stgt.config import K_TEST
from stgt.files import write_text
from stgt.runs import Run, save_model
from stgt.structure import read_json
from stgt.tasks import RETRIEVAL
from stgt.weights import pretrained

logger = logging.getLogger(__name__)

CARD = """---
library_name: stgt-kernels
tags:
- video
- stgt
---

# {title}

This is a Spatio-Temporal Graph Transformer ([arXiv 2407.11677](https://arxiv.org/abs/2407.11677)) for video-text
retrieval. It was trained with `stgt-kernels`.

- Parameters: {parameters:,}
- Frames: {frames} of {image_size}×{image_size} pixels
- Graph: threshold {threshold:g}, window {window}
- Trained on: {trained_on}

{figures}## Use

```python
import stgt

model = stgt.load("{title}")
videos = model.embed_videos(["a.mp4"])
texts = model.embed_texts(["a man rides a bike"])
print(model.similarity(videos, texts))
```
"""


def write_folder(run: Run, folder: Path, title: str) -> None:
    """Write a model, its tokenizer and a model card, README.md, into a folder.

    The card has the recalls of the run's evaluation.json, if this model was measured there on the run's own test
    annotation, and with the settings that it has without options. Raises ValueError for a model that answers questions,
    which `stgt.load` cannot open.
    """
    if run.task is not RETRIEVAL:
        raise ValueError(f"the model is {run.task.described}, expected {RETRIEVAL.described}")
    save_model(run, folder)
    write_text(folder / "README.md", _card(run, title))


def push(run: Run, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a model, its tokenizer and its card to the Hugging Face hub, and return the address of the commit.

    name: "owner/name"; the repository is made if there is none. token: None uses the token of `hf auth login`.
    Raises OSError if the hub refuses the model or cannot be reached.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    with tempfile.TemporaryDirectory() as place:
        write_folder(run, Path(place) / "model", name)
        try:
            hub.create_repo(name, private=private, exist_ok=True)
            commit = hub.upload_folder(repo_id=name, folder_path=Path(place) / "model", commit_message="Upload STGT")
        except Exception as error:  # the hub's client raises errors of its network library, too
            raise OSError(f"the hub did not accept {name!r} ({cause_of(error)})") from error
    return str(commit)


def _card(run: Run, title: str) -> str:
    model = run.config.model
    trained = not pretrained.is_pretrained(run.checkpoint)
    return CARD.format(
        title=title,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        frames=run.config.data.frames,
        image_size=model.vision.sizes.image_size,
        threshold=model.graph.threshold,
        window=model.graph.window,
        trained_on=f"`{run.config.data.train.name}`" if trained else "see the source of these weights",
        figures=_figures(run) if trained else "",
    )


def _other_measurement(run: Run, result: dict) -> list[str]:
    """Lists in which ways the result of an evaluation differs from one of the run's own test without options."""
    config, split = run.config, result["split"]
    untrained = "matching" in run.training.untrained
    most = max(split["videos"], split["captions"])
    pairs = {
        "the checkpoint": (Path(result["checkpoint"]).name, run.checkpoint.name),
        "the annotation": (split["annotation"], str(config.data.test)),
        "threshold": (result["threshold"], config.model.graph.threshold),
        "rerank": (result["rerank"], config.model.qformer.rerank),
        "k_test": (result["k_test"], 0 if untrained else min(K_TEST, most)),
    }
    return [f"{name} is {theirs}, here {ours}" for name, (theirs, ours) in pairs.items() if theirs != ours]


def _figures(run: Run) -> str:
    """The recalls in the evaluation.json of a run's folder as a table, or an empty text if there are none.

    Recalls of another checkpoint, of another annotation or with other settings are left out, with a warning.
    """
    path = run.checkpoint.parents[1] / "evaluation.json"
    try:
        result = read_json(path, dict)
        if others := _other_measurement(run, result):
            logger.warning("%s is not in the model card: %s", path, "; ".join(others))
            return ""
        rows = [(way.replace("_", " "), result[way]) for way in ("text_to_video", "video_to_text")]
        split = result["split"]
        lines = [
            f"| {way} | {kind} | " + " | ".join(f"{values[recall]:.1f}" for recall in ("R@1", "R@5", "R@10")) + " |"
            for way, kinds in rows
            for kind, values in kinds.items()
        ]
        name, videos, captions = Path(split["annotation"]).name, split["videos"], split["captions"]
        title = f"Measured on `{name}`, {videos} videos and {captions} captions, in percent:"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    head = "| direction | ranked by | R@1 | R@5 | R@10 |\n|---|---|---:|---:|---:|\n"
    return f"## Results\n\n{title}\n\n{head}" + "\n".join(lines) + "\n\n"
