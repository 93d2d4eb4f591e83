"""Stores hold the model's outputs for videos, captions and pairs, and memory holds one batch of them."""

import multiprocessing
import os
import resource
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from helpers.shards import write_shard
from torch import nn

from stgt.config import to_dict
from stgt.data.batch_names import NumberedBatches
from stgt.data.manifest.write import writing_manifest
from stgt.data.store import Store
from stgt.distributed import World
from stgt.evaluation import encode
from stgt.evaluation.encode import Texts, encode_texts, encode_videos, match_logits, model_digest, similarities
from stgt.evaluation.run import tokenize
from stgt.runs import open_run
from stgt.tasks import RETRIEVAL

ALONE = World(0, 1, torch.device("cpu"))
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def digest(data, size=32, **options):
    """The name of a configuration's test clips."""
    items = RETRIEVAL.items(data.test, data, size)
    return encode.clips_digest(items, encode.clips_fingerprint(items, **options))


@torch.inference_mode()
def test_stores_hold_the_models_outputs(run, tmp_path):
    opened = open_run(run, "cpu")
    model, clips = opened.model, RETRIEVAL.items(opened.config.data.test, opened.config.data, 32)
    texts = tokenize(opened, [caption for _, caption in clips.captions])
    place = dict(folder=tmp_path, world=ALONE, batch_size=4)
    videos, words = encode_videos(model, clips, **place), encode_texts(model, texts, **place)
    features = model.encode_video(torch.stack([clips[i]["video"] for i in range(11)]))
    close = dict(atol=1e-5, rtol=1e-5)  # other batches are rounded differently
    torch.testing.assert_close(videos.all("embeds"), features.embeds, **close)
    torch.testing.assert_close(videos.all("queries"), features.queries, **close)
    torch.testing.assert_close(words.all("features"), model.encode_text(*texts), **close)
    similarity = similarities(model, videos, words, **place)
    torch.testing.assert_close(similarity, model.similarity(features.queries, model.encode_text(*texts)), **close)
    pairs = torch.cartesian_prod(torch.arange(11), torch.arange(0, 11, 2))
    logits = match_logits(model, videos, texts, pairs, **place)
    v, t = pairs.unbind(1)
    expected = model.match(features.embeds[v], texts.input_ids[t], texts.attention_mask[t])
    torch.testing.assert_close(logits, expected, **close)


def test_everything_that_changes_results_changes_the_name(run):
    opened = open_run(run, "cpu")
    model = opened.model
    first = model_digest(model, "fp32")
    assert model_digest(model, "bf16") != first == model_digest(model, "fp32")
    model.config.graph.threshold += 0.1
    assert model_digest(model, "fp32") != first
    model.config.graph.threshold = to_dict(opened.config)["model"]["graph"]["threshold"] - 0.1
    with torch.no_grad():
        model.temp.add_(1e-3)
    assert model_digest(model, "fp32") != first


def test_files_are_identified_by_name_size_and_time(run, clips, tmp_path):
    data = open_run(run, "cpu").config.data
    names = []
    for frames in (4, 5):
        data.frames = frames
        names.append(digest(data))
    names.append(digest(data, size=64))
    video = clips / "videos" / RETRIEVAL.items(data.test, data, 32).videos[0]
    before = video.stat()
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    names.append(digest(data))
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(set(names)) == 4 and digest(data) == names[1]


def test_replaced_videos_are_encoded_again_and_named(run, clips, tmp_path, caplog, monkeypatch):
    opened, root = open_run(run, "cpu"), tmp_path / "videos"
    shutil.copytree(clips / "videos", root)
    opened.config.data.videos = root
    clips = RETRIEVAL.items(opened.config.data.test, opened.config.data, 32)
    place = dict(folder=tmp_path / "kept", world=ALONE)
    first = encode_videos(opened.model, clips, **place)
    one, other = (root / clips.videos[number] for number in (0, 1))
    one.rename(root / "x")
    other.rename(one)
    (root / "x").rename(other)
    again = encode_videos(opened.model, clips, **place)
    assert "is not used, because its videos have changed:\n  " + clips.videos[0] in caplog.text
    queries = first.all("queries")
    torch.testing.assert_close(again.all("queries"), torch.cat([queries[[1, 0]], queries[2:]]), atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(type(clips), "decoder_version", "PyAV 99")
    encode_videos(opened.model, clips, **place)
    assert "decoder: PyAV 99, there " in caplog.text
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_encoded_videos_of_version_0_1_0_are_not_used(run, tmp_path, caplog):
    opened = open_run(run, "cpu")
    (tmp_path / "videos-0123456789abcdef-32").mkdir()
    encode_videos(opened.model, RETRIEVAL.items(opened.config.data.test, opened.config.data, 32), tmp_path, ALONE)
    assert "videos-0123456789abcdef-32 has no readable record of its videos and decoder" in caplog.text


def test_copied_videos_keep_their_name_if_contents_are_compared(run, clips, tmp_path):
    data = open_run(run, "cpu").config.data
    names = [digest(data, contents=contents) for contents in (False, True)]
    shutil.copytree(clips / "videos", tmp_path / "videos", copy_function=shutil.copyfile)
    data.videos = tmp_path / "videos"
    again = [digest(data, contents=contents) for contents in (False, True)]
    assert again[0] != names[0] and again[1] == names[1]


def test_outputs_that_are_not_finite_are_refused_with_the_video(run, tmp_path):
    opened = open_run(run, "cpu")
    with torch.no_grad():
        opened.model.vision_proj.bias.fill_(float("nan"))
    clips = RETRIEVAL.items(opened.config.data.test, opened.config.data, 32)
    with pytest.raises(ValueError, match=f"{clips.videos[0]}: the model's queries hold NaN"):
        encode_videos(opened.model, clips, tmp_path, ALONE)


class Heavy(nn.Module):
    """A matching head whose logits identify the pair."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def match(self, embeds, input_ids, attention_mask, rows):
        scores = embeds.mean((1, 2))[rows] * self.weight + input_ids.float().mean(1)
        return torch.stack([-scores, scores], 1)


def heavy_task(folder, videos, megabytes):
    """A store with this number of MB for each video, as many texts as videos, and two pairs for each video."""
    store = Store(folder / f"videos-{videos}", NumberedBatches(videos, 4))
    for name in store.missing():
        items = torch.tensor(store.items(name), dtype=torch.float32)
        store.write(name, embeds=items[:, None, None].expand(-1, 256, megabytes * 1024))
    ids = torch.arange(videos)[:, None]
    pairs = torch.cat([torch.stack([ids[:, 0], (ids[:, 0] + i) % videos], 1) for i in range(2)]).tolist()
    return store, Texts(ids, torch.ones_like(ids)), torch.tensor(sorted(pairs))


def match_in(megabytes, said, *task):
    """Call `match_logits` with a limit on additional memory in MB, which does not count mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    limit = (megabytes << 20) + (next(int(line.split()[1]) for line in lines if line.startswith("VmData")) << 10)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(1)  # The threads of the parent process do not exist in this fork.
    said.send(match_logits(Heavy(), *task, batch_size=2)[:, 1].tolist())


def test_reranking_holds_the_embeds_of_one_batch_only(tmp_path):
    store, texts, pairs = heavy_task(tmp_path, videos=100, megabytes=1)
    ours, theirs = multiprocessing.Pipe()
    # There are 100 MB of embeds. A batch of 8 pairs reads 4 to 5 videos, and copies them into 8 rows.
    task = (60, theirs, store, texts, pairs, tmp_path, ALONE)
    process = multiprocessing.get_context("fork").Process(target=match_in, args=task)
    process.start()
    theirs.close()
    assert ours.recv() == [v + t for v, t in pairs.tolist()]
    process.join()


@CUDA
def test_the_memory_of_the_device_does_not_grow_with_the_gallery(tmp_path):
    most = []
    for videos in (40, 160):
        store, texts, pairs = heavy_task(tmp_path, videos, megabytes=1)
        model = Heavy().cuda()
        torch.cuda.reset_peak_memory_stats()
        match_logits(model, store, texts, pairs, tmp_path, World(0, 1, torch.device("cuda")), batch_size=2)
        most.append(torch.cuda.max_memory_allocated())
    assert most[0] == most[1]


def test_the_name_of_clips_of_a_manifest_holds_its_rows_and_single_files(run, clips, tmp_path):
    data = open_run(run, "cpu").config.data
    data.test, data.videos = tmp_path / "test.parquet", tmp_path
    first, second = (path.read_bytes() for path in sorted((clips / "videos").iterdir())[:2])
    write_shard(tmp_path / "0.tar", {"a.mp4": first, "b.mp4": second})
    with tarfile.open(tmp_path / "0.tar") as shard:
        places = [(member.offset_data, member.size) for member in shard]
    (tmp_path / "c.mp4").write_bytes(first)

    def name_of(places):
        with writing_manifest(data.test) as manifest:
            for video, (offset, size) in zip(("a.mp4", "b.mp4"), places, strict=True):
                manifest.add(video, [video], shard="0.tar", offset=offset, size=size)
            manifest.add("c.mp4", ["c"])
        return digest(data)

    names = [name_of(places), name_of(places[::-1])]
    (tmp_path / "c.mp4").write_bytes(second + b"more")
    names.append(name_of(places))
    os.utime(tmp_path / "0.tar", ns=(0, 0))
    assert len({*names, name_of(places)}) == 4 and name_of(places) == name_of(places)
