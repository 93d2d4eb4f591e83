"""The package sentence-transformers ranks videos as `stgt` does, with the models of an index."""

import sys

import numpy as np
import pytest
import torch
from helpers.colours import COLOURS, Colours
from helpers.tiny_clip import tiny_clip
from PIL import Image

import stgt
from stgt.data.images import read_image
from stgt.data.video import read_frames
from stgt.search.inputs import sentence_or_video
from stgt.search.search import find_captions, find_videos

package = pytest.importorskip("sentence_transformers", reason="pip install 'sentence-transformers>=6'")

from sentence_transformers.multi_vector_encoder import evaluation  # noqa: E402

from stgt.search.sentence_transformers import Vectors, VideoTextEncoder, VideoTextReranker  # noqa: E402

SENTENCES = ["a green triangle grows", "a small red square is moving left"]


@pytest.fixture(scope="module")
def model(run):
    return stgt.load(run, device="cpu")


@pytest.fixture(scope="module")
def paths(clips):
    return sorted((clips / "videos").iterdir())[:5]


@pytest.fixture(scope="module")
def encoder(model):
    return VideoTextEncoder(model, device="cpu")


def test_similarities_are_those_of_the_model(model, encoder, paths):
    texts, videos = encoder.encode_query(SENTENCES), encoder.encode_document(paths)
    expected = model.embed_videos(paths)
    torch.testing.assert_close(torch.stack(videos), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat(texts), model.embed_texts(SENTENCES), atol=1e-6, rtol=0)
    similarity = model.similarity(expected, model.embed_texts(SENTENCES))
    torch.testing.assert_close(encoder.similarity(texts, videos), similarity.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.similarity(videos, texts), similarity, atol=1e-6, rtol=0)
    pairs = encoder.similarity_pairwise(videos[:2], texts)
    torch.testing.assert_close(pairs, similarity[:2].diagonal(), atol=1e-6, rtol=0)
    assert encoder.similarity(texts[0], videos).shape == (1, 5) and encoder.get_embedding_dimension() == 8


def test_two_videos_are_as_similar_as_in_an_index(encoder, model, paths, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / paths[0].name).write_bytes(paths[0].read_bytes())
    index = stgt.Index(tmp_path / "films.index", model)
    index.update(tmp_path / "films", window=60, stride=60, workers=1)
    found = index.search_video(paths[1], top=1)[0]
    videos = encoder.encode(paths[:2])
    score = encoder.similarity(videos[1], videos[0]).item()
    assert score == pytest.approx(found.score, abs=2**-10)  # the index keeps 11 bits of a number
    assert encoder.similarity_pairwise(videos[1:], videos[:1]).item() == pytest.approx(score, abs=1e-6)


def test_every_form_of_a_video_gives_the_same_vectors(encoder, paths):
    frames = read_frames(paths[0], None).permute(0, 3, 1, 2)
    forms = [
        paths[0],
        str(paths[0]),
        {"video": str(paths[0])},
        frames,
        frames.numpy(),
        {"video": frames},
        {"array": frames, "video_metadata": None},
    ]
    first, *others = encoder.encode([*forms, "a red cube", {"text": "a red cube"}])
    for other in others[:-2]:
        torch.testing.assert_close(other, first, atol=1e-6, rtol=0)
    assert others[-1].shape == others[-2].shape == (1, 8) and torch.equal(others[-1], others[-2])


def test_an_image_is_a_video_of_one_frame(encoder, model, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.png")
    expected = model.embed_videos([tmp_path / "a.png"])[0]
    for form in (tmp_path / "a.png", picture, {"image": picture}, np.asarray(picture).transpose(2, 0, 1)):
        torch.testing.assert_close(encoder.encode([form])[0], expected, atol=1e-6, rtol=0)


def odd_pictures(folder):
    """Photos and drawings whose pixels are not what a viewer shows: one is turned, one is transparent, one is deep."""
    values = np.random.default_rng(0).integers(0, 255, (24, 40, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(values[..., :3]).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(values).save(folder / "transparent.png")
    palette = Image.fromarray(values[..., 0]).convert("P")
    palette.save(folder / "hole.png", transparency=int(values[0, 0, 0]))
    Image.fromarray(values[..., 0].astype(np.uint16) * 256).save(folder / "deep.png")
    return [folder / name for name in ("turned.jpg", "transparent.png", "hole.png", "deep.png")]


def test_an_image_of_pillow_is_seen_as_a_viewer_shows_its_file(tmp_path):
    for path in odd_pictures(tmp_path):
        with Image.open(path) as image:
            frames = sentence_or_video(image)
        assert torch.equal(frames, read_image(path, max_pixels=10**6)[0].permute(0, 3, 1, 2)), path.name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gone.mp4", "'gone.mp4' is no file, expected one, or"),
        ({"video": "gone"}, "'gone' is no file"),
        ({"audio": "a"}, "an input is str for 'audio', expected a sentence, the path"),
        ({"text": "a", "video": "b"}, "an input is dict, expected a sentence, the path"),
        (3, "an input is int, expected"),
        (torch.zeros(2, 3, 8, 8), r"frames are torch.float32 \(2, 3, 8, 8\), expected uint8"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), r"expected uint8 \(T, 3, H, W\)"),
    ],
)
def test_other_inputs_are_refused(encoder, value, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode([value])


def test_the_reranker_gives_the_order_and_scores_of_stgt_search(run, model, clips, tmp_path):
    reranker = VideoTextReranker(run, device="cpu")
    items = model.run.test_items()
    videos = [items.root / video for video in items.videos]
    ranked = reranker.rank(SENTENCES[0], videos, batch_size=64)
    hits = find_videos(model.run, SENTENCES[0], None, tmp_path, top=len(videos))
    assert [videos[each["corpus_id"]] for each in ranked] == [hit.found for hit in hits]
    assert [each["score"] for each in ranked] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    captions = tmp_path / "captions.txt"
    captions.write_text("\n".join(SENTENCES))
    hits = find_captions(model.run, videos[0], captions, tmp_path)
    ranked = reranker.rank(videos[0], SENTENCES)
    assert [SENTENCES[each["corpus_id"]] for each in ranked] == [hit.found for hit in hits]
    assert [each["score"] for each in ranked] == pytest.approx([hit.score for hit in hits], abs=1e-5)


def test_pairs_of_images_and_videos_are_scored_as_alone(run, paths, tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    reranker = VideoTextReranker(run, device="cpu")
    files = [paths[0], tmp_path / "a.png", paths[1], paths[0]]
    pairs = [(SENTENCES[i % 2], file) for i, file in enumerate(files)]
    together = reranker.predict(pairs)
    assert together == pytest.approx([reranker.predict(pair) for pair in pairs], abs=1e-5)
    with pytest.raises(ValueError, match="expected a sentence and a video"):
        reranker.predict([("a", "b")])


def test_a_clip_is_a_sentence_transformer(tmp_path, paths):
    name = tiny_clip(tmp_path, "tiny-clip-st")
    encoder = package.SentenceTransformer(modules=[Vectors(name, device="cpu")], device="cpu")
    texts, videos = encoder.encode(SENTENCES), encoder.encode(list(paths))
    assert texts.shape == (2, 8) and videos.shape == (5, 8)
    found = package.util.semantic_search(texts, videos, top_k=5)
    similarity = torch.from_numpy(texts @ videos.T)
    assert [each["corpus_id"] for each in found[0]] == similarity[0].argsort(descending=True).tolist()
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / paths[0].name).write_bytes(paths[0].read_bytes())
    index = stgt.Index(tmp_path / "films.index", name)
    index.update(tmp_path / "films", window=60, stride=60, workers=1)
    assert index.search(SENTENCES[0])[0].score == pytest.approx(similarity[0, 0].item(), abs=2**-10)


def test_a_model_with_several_vectors_is_no_sentence_transformer(model, paths):
    encoder = package.SentenceTransformer(modules=[Vectors(model)], device="cpu")
    with pytest.raises(ValueError, match="a video has 2 vectors, expected VideoTextEncoder"):
        encoder.encode(list(paths))


def test_any_model_of_an_index_and_the_evaluators_of_the_package_work(films):
    encoder = VideoTextEncoder(Colours(), device="cpu")
    corpus = {name: films / name for name in ("more/b.mp4", "more/c.mkv", "a.mp4")}
    queries = {"yellow": "yellow", "red": "red"}
    assert set(queries) < set(COLOURS)
    evaluator = evaluation.MultiVectorInformationRetrievalEvaluator(
        queries, corpus, {"yellow": {"more/b.mp4", "more/c.mkv"}, "red": {"a.mp4"}}, show_progress_bar=False
    )
    assert evaluator(encoder)["maxsim_map@100"] == 1


def test_adapters_are_not_saved(encoder, tmp_path):
    with pytest.raises(ValueError, match="an adapter is not saved, expected Retriever.push_to_hub"):
        encoder.save(str(tmp_path / "a"))


def test_the_advice_for_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.delitem(sys.modules, "stgt.search.sentence_transformers")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'stgt-kernels\[sentence-transformers\]'"):
        __import__("stgt.search.sentence_transformers")
