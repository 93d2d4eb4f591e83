"""Detectors of transformers: those that look for any named things, and those with a fixed list of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import stgt._torchvision  # noqa: F401  (before transformers)
from stgt.finsta.graphs.video.detections import Detections, detections
from stgt.weights.whole import load_whole

from transformers import (  # isort: skip
    AutoConfig,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
)


class _Found(NamedTuple):
    """The result for one frame: boxes in pixels, scores, and a label for each box."""

    boxes: Tensor
    scores: Tensor
    labels: list[str]


class TransformersDetector:
    """OWLv2, Grounding DINO, and detectors with a fixed list of classes such as RT-DETR v2."""

    def __init__(
        self,
        name: str,
        labels: Sequence[str] = (),
        *,
        threshold: float = 0.3,
        batch: int = 8,
        device: torch.device | str = "cpu",
    ) -> None:
        """Load a detector.

        name: a folder that `save_pretrained` wrote, or a name on the Hugging Face hub. labels: things to look for, such
        as ("a cat", "a ball"); for a detector with a fixed list of classes, the classes to keep, where () keeps all.
        threshold: smallest score. batch: number of frames that the model sees at a time.
        Raises ValueError for a threshold out of range, for a model that is no detector or lacks parameters, and for
        labels that are missing or that the model does not know.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, expected a number from 0 to 1")
        kind = AutoConfig.from_pretrained(name).model_type
        self._read = _OPEN.get(kind, _read_classes)
        self._labels, self._threshold, self._batch = tuple(labels), threshold, batch
        if kind in _OPEN:
            if not labels:
                raise ValueError(f"labels is empty, expected names of things that {name} ({kind}) looks for")
            self.processor = AutoProcessor.from_pretrained(name)
            model = load_whole(AutoModelForZeroShotObjectDetection, name)
        else:
            self.processor = AutoImageProcessor.from_pretrained(name)
            if not hasattr(self.processor, "post_process_object_detection"):
                raise ValueError(f"{name} is a {kind}, expected a model that detects objects")
            model = load_whole(AutoModelForObjectDetection, name)
            if unknown := set(labels) - set(model.config.id2label.values()):
                raise ValueError(f"labels has {sorted(unknown)[0]!r}, expected classes of {name}")
        self.model = model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> list[Detections]:
        """The objects that are found in each frame. frames: uint8 (T, H, W, 3)."""
        height, width = frames.shape[1:3]
        found = []
        for part in frames.split(self._batch):
            for one in self._read(self, list(part.numpy()), height, width):
                found.append(detections(one.boxes.tolist(), one.labels, one.scores.tolist(), width, height))
        return found


def _read_owl(detector: TransformersDetector, frames: list, height: int, width: int) -> list[_Found]:
    texts = [list(detector._labels)] * len(frames)
    inputs = detector.processor(text=texts, images=frames, return_tensors="pt").to(detector.model.device)
    outputs = detector.model(**inputs)
    # OWLv2 pads frames to squares at their right and lower sides, and its boxes are parts of the square.
    sizes = [(max(height, width),) * 2] * len(frames)
    results = detector.processor.post_process_grounded_object_detection(
        outputs, threshold=detector._threshold, target_sizes=sizes, text_labels=texts
    )
    return [_Found(result["boxes"], result["scores"], result["text_labels"]) for result in results]


def _read_grounding_dino(detector: TransformersDetector, frames: list, height: int, width: int) -> list[_Found]:
    """Each box gets the label with the most probable word. The processor's own phrases may join several labels."""
    text = " ".join(f"{label.lower()}." for label in detector._labels)
    inputs = detector.processor(text=[text] * len(frames), images=frames, return_tensors="pt").to(detector.model.device)
    outputs = detector.model(**inputs)
    words = detector.processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    ends = [place for place, word in enumerate(words) if word == "."]
    spans = list(zip([1, *(end + 1 for end in ends)], ends, strict=False))  # the first word is [CLS]
    if len(spans) != len(detector._labels):
        raise ValueError(f"labels is {detector._labels}, expected names without full stops")
    probabilities = outputs.logits.sigmoid()
    scores, best = torch.stack([probabilities[..., start:end].amax(-1) for start, end in spans], -1).max(-1)
    centres, sizes = outputs.pred_boxes.split(2, -1)
    corners = torch.cat([centres - sizes / 2, centres + sizes / 2], -1)
    corners = corners * torch.tensor([width, height, width, height], device=corners.device)
    return [
        _Found(box[keep], score[keep], [detector._labels[number] for number in label[keep].tolist()])
        for box, score, label, keep in zip(corners, scores, best, scores >= detector._threshold, strict=True)
    ]


def _read_classes(detector: TransformersDetector, frames: list, height: int, width: int) -> list[_Found]:
    inputs = detector.processor(images=frames, return_tensors="pt").to(detector.model.device)
    outputs = detector.model(**inputs)
    sizes = [(height, width)] * len(frames)
    results = detector.processor.post_process_object_detection(
        outputs, threshold=detector._threshold, target_sizes=sizes
    )
    found = []
    for result in results:
        labels = [detector.model.config.id2label[number] for number in result["labels"].tolist()]
        keep = [not detector._labels or label in detector._labels for label in labels]
        found.append(
            _Found(
                result["boxes"][keep],
                result["scores"][keep],
                [label for label, kept in zip(labels, keep, strict=True) if kept],
            )
        )
    return found


_OPEN = {
    "owlv2": _read_owl,
    "grounding-dino": _read_grounding_dino,
    "mm-grounding-dino": _read_grounding_dino,
}
"""{type of a model that looks for named things: how its results are read}"""
