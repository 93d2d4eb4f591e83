"""Bad values given to a loaded model are errors that name the argument."""

import numpy as np
import pytest
import torch

import stgt
from stgt.data.video import read_clip
from stgt.distributed import choose_device
from stgt.models.stgt import STGT


@pytest.fixture(scope="module")
def model(run):
    return stgt.load(run, device="cpu")


@pytest.fixture(scope="module")
def video(clips):
    return clips / "videos" / "test_00000.mp4"


@pytest.mark.parametrize("size", [0, -1, 2.0, None])
def test_batch_sizes(size, model, video):
    for call, values in ((model.embed_videos, [video]), (model.embed_texts, ["a red circle", "b"])):
        with pytest.raises(ValueError, match=f"batch_size is {size}, expected a whole number of at least 1"):
            call(values, batch_size=size)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "texts holds 1, expected strings"),
        (["a", None], "texts holds None, expected strings"),
        ({"a": 1}, "texts is {'a': 1}, expected a list with at least one entry"),
        ({"a"}, "texts is {'a'}, expected a list"),
        (b"a", "texts is b'a', expected a list"),
        (None, "texts is None, expected a list"),
        ((text for text in "ab"), "texts is <generator .*, expected a list"),
        (["a", "b\ud800"], r"texts holds 'b\\ud800', expected strings that UTF-8 can encode"),
    ],
)
def test_texts(values, message, model):
    with pytest.raises(ValueError, match=message):
        model.embed_texts(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "paths holds 1, expected paths"),
        ([b"a.mp4"], "paths holds b'a.mp4', expected paths"),
        ({"a.mp4": 1}, "paths is {'a.mp4': 1}, expected a list"),
        (iter(["a.mp4"]), "paths is <list_iterator .*, expected a list"),
    ],
)
def test_paths(values, message, model):
    with pytest.raises(ValueError, match=message):
        model.embed_videos(values)


def test_vectors(model, video):
    videos, texts = model.embed_videos([video]), model.embed_texts(["a red circle", "b"])
    for bad, message in [
        ((texts, videos), r"videos is \(2, 8\) torch.float32, expected floating point \(V, Q, 8\)"),
        ((videos, videos), r"texts is \(1, 2, 8\) torch.float32, expected floating point \(N, 8\)"),
        ((videos, texts[:, :4]), r"texts is \(2, 4\) torch.float32, expected floating point \(N, 8\)"),
        ((videos[..., :4], texts[:, :4]), r"videos is \(1, 2, 4\)"),
        ((videos, texts.long()), r"texts is \(2, 8\) torch.int64, expected floating point"),
        ((videos.numpy(), texts), r"videos is a ndarray, expected a tensor \(V, Q, 8\)"),
        ((videos[:, :0], texts), r"videos is \(1, 0, 8\) torch.float32, expected floating point \(V, Q, 8\)"),
        ((videos.to("meta"), texts), "videos is a tensor in the layout torch.strided on meta, expected dense numbers"),
        ((videos, torch.zeros(2, 8).to_sparse()), "texts is a tensor in the layout torch.sparse_coo on cpu"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.similarity(*bad)
    expected = model.similarity(videos, texts)
    assert torch.equal(model.similarity(videos.double(), texts), expected)
    half = model.similarity(videos.half(), texts.half())
    assert torch.equal(half, model.similarity(videos.half().float(), texts.half().float()))


def test_sequences_of_other_kinds_are_fine(model):
    expected = model.embed_texts(["a", "b"])
    for values in (("a", "b"), np.array(["a", "b"])):
        assert torch.equal(model.embed_texts(values), expected)


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU")
NO_XPU = pytest.mark.skipif(torch.xpu.is_available(), reason="a GPU")


@pytest.mark.parametrize("device", ["nonsense", pytest.param("cuda", marks=NO_GPU), pytest.param("xpu", marks=NO_XPU)])
def test_devices(device, model):
    with pytest.raises(ValueError, match=f"device is '{device}'"):
        model.to(device)
    with pytest.raises(ValueError, match="device is None, expected 'auto' or a torch device: it is a NoneType"):
        choose_device(None)
    assert model.to(torch.device("cpu")).device.type == "cpu"


@pytest.mark.parametrize("name", [None, 5, "", b"runs"])
def test_names(name):
    with pytest.raises(ValueError, match=f"name is {name!r}, expected the folder of a model"):
        stgt.load(name)


@pytest.mark.parametrize("folder", [None, 5, b"runs", ""])
def test_folders(folder, model):
    for call in (model.save_pretrained, stgt.Index, STGT.from_pretrained):
        with pytest.raises(ValueError, match=f"the path is {folder!r}, expected"):
            call(folder)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("frames", 2.5, "a whole number of at least 1"),
        ("frames", "4", "a whole number of at least 1"),
        ("rng", 5, "a torch.Generator or None"),
        ("start", "1", "a number of seconds that is not negative"),
        ("end", [], "a number of seconds after start=0"),
        ("max_pixels", None, "a whole number of at least 1"),
        ("max_pixels", float("inf"), "a whole number of at least 1"),
        ("deadline", "1", "a positive number of seconds, or None"),
        ("path", 5, "that of a video or an image"),
    ],
)
def test_arguments_of_read_clip(name, value, expected, video):
    with pytest.raises(ValueError, match=f"{name} is .*, expected {expected}"):
        read_clip(**{"path": video, "frames": 4, name: value})
