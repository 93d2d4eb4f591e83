"""MTEB evaluates a run on video tasks. The tasks are made of simulated clips here, because MTEB downloads its own."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

import stgt
import stgt._torchvision  # noqa: F401  (before sentence_transformers and mteb)

pytest.importorskip("sentence_transformers", reason="pip install 'sentence-transformers>=6'")
mteb = pytest.importorskip("mteb", reason="pip install 'mteb[video]'")
try:
    from torchcodec.decoders import VideoDecoder
except (ImportError, OSError, RuntimeError) as error:  # it needs libraries of FFmpeg
    pytest.skip(f"MTEB reads videos with torchcodec: {error}", allow_module_level=True)

import datasets  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData  # noqa: E402
from mteb.models.modality_collators import frame_indices  # noqa: E402

from stgt.search.sentence_transformers import VideoTextEncoder  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "mteb_benchmark.py"


class Clips(AbsTaskRetrieval):
    """Finding the clip of a caption. The annotation is set before a task is made."""

    annotation: Path
    metadata = mteb.TaskMetadata(
        name="SimulatedClipsT2V",
        description="Simulated clips and their captions.",
        dataset={"path": "none", "revision": "none"},
        type="Any2AnyRetrieval",
        category="t2v",
        modalities=["text", "video"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def load_data(self, **kwargs):
        entries = json.loads(self.annotation.read_text())
        videos = [str(self.annotation.parent / "videos" / entry["video"]) for entry in entries]
        numbers = [str(number) for number in range(len(entries))]
        texts = {"id": [f"text {n}" for n in numbers], "text": [entry["caption"] for entry in entries]}
        clips = {"id": [f"clip {n}" for n in numbers], "video": videos}
        queries, corpus = datasets.Dataset.from_dict(texts), datasets.Dataset.from_dict(clips)
        corpus = corpus.cast_column("video", datasets.Video())
        pairs = {f"text {n}": {f"clip {n}": 1} for n in numbers}
        if self.metadata.category == "v2t":
            queries, corpus = corpus, queries
            pairs = {f"clip {n}": {f"text {n}": 1} for n in numbers}
        split = RetrievalSplitData(queries=queries, corpus=corpus, relevant_docs=pairs, top_ranked=None)
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class Captions(Clips):
    """Finding the caption of a clip."""

    metadata = Clips.metadata.model_copy(update={"name": "SimulatedClipsV2T", "category": "v2t"})


def test_its_scores_are_those_of_the_similarity_of_stgt(run, clips, tmp_path):
    Clips.annotation = clips / "test.json"
    result = runpy.run_path(str(EXAMPLE))["evaluate"](run, [Clips(), Captions()], tmp_path)
    encoder, entries = VideoTextEncoder(run), json.loads(Clips.annotation.read_text())
    frames = stgt.load(run).run.config.data.frames
    decoders = [VideoDecoder(str(clips / "videos" / entry["video"])) for entry in entries]
    videos = [each.get_frames_at(frame_indices(each.metadata.num_frames, frames)).data for each in decoders]
    texts = encoder.encode_query([entry["caption"] for entry in entries])
    similarity = encoder.similarity(texts, encoder.encode_document(videos)).numpy()
    assert len({entry["caption"] for entry in entries}) == len(entries)  # otherwise there are ties
    for found, scores in zip(result.task_results, (similarity, similarity.T), strict=True):
        ranks = 1 + (scores > np.diag(scores)[:, None]).sum(1)
        expected = np.mean([1 / math.log2(rank + 1) if rank <= 10 else 0 for rank in ranks])
        assert found.get_score() == pytest.approx(expected, abs=1e-4)
        assert found.scores["test"][0]["hit_rate_at_1"] == pytest.approx((ranks == 1).mean(), abs=1e-4)
    assert not set(ranks) <= {1}
    assert [*tmp_path.rglob("SimulatedClipsT2V.json")], "the scores are kept"
