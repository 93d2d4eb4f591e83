"""Any CLIP of open_clip can be the model of an index, from a file and without a net."""

import pytest
import torch
from helpers.colours import film
from helpers.tiny_clip import tiny_clip
from safetensors.torch import load_file, save_file

import stgt
from stgt.data.cuts import Window
from stgt.data.windows import read_windows
from stgt.search.encoder import open_encoder

import open_clip  # isort: skip


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """A video that is twice as wide as it is high."""
    return film(tmp_path_factory.mktemp("wide") / "a.mp4", ("red", 3), ("blue", 3))


def test_the_vector_of_a_window_is_the_mean_of_those_of_its_frames(clip, wide):
    encoder = open_encoder(clip, device="cpu")
    weights = clip.partition("/")[2]
    model, _, preprocess = open_clip.create_model_and_transforms("tiny-clip", weights)
    windows = read_windows(wide, [Window(0, 4), Window(2, 6)], encoder.pixels)
    found = encoder.encode_windows(windows)
    assert found.shape == (2, 1, 8)
    with torch.inference_mode():
        frames = torch.nn.functional.normalize(model.eval().encode_image(windows.pixels), dim=-1)
        expected = torch.stack([torch.nn.functional.normalize(frames[rows].mean(0), dim=-1) for rows in windows.rows])
        words = model.encode_text(open_clip.get_tokenizer("tiny-clip")(["a red cube"]), normalize=True)
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.encode_texts(["a red cube"]), words, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_frames_are_prepared_as_open_clip_prepares_pictures(mode, clip, tmp_path, monkeypatch):
    from PIL import Image

    encoder = open_encoder(clip, device="cpu")
    pixels = type(encoder.pixels)(1, 32, mode == "shortest", encoder.pixels.mean, encoder.pixels.std)
    picture = Image.effect_mandelbrot((96, 48), (-2, -1, 1, 1), 50).convert("RGB")
    picture.save(tmp_path / "a.png")
    preprocess = open_clip.image_transform(32, is_train=False, resize_mode=mode)
    found = read_windows(tmp_path / "a.png", [Window(0, 0)], pixels).pixels[0]
    # Pillow and torchvision resize a picture of bytes alike to about one step of 255; the standard deviation is 0.26.
    assert (found - preprocess(picture)).abs().max() <= 2 / 255 / min(pixels.std)


def test_an_index_answers_with_a_clip_from_a_file(clip, wide, stgt, tmp_path):
    place = tmp_path / "films.index"
    words = ["--out", place, "--model", clip, "--window", 2, "--stride", 2, "--workers", 1]
    status, printed = stgt("index", wide.parent, *words)
    assert status == 0 and "1 videos, 3 windows" in printed
    status, printed = stgt("search", place, "a red cube", "--top", 9)
    assert status == 0 and len(printed.splitlines()) == 3


def test_other_weights_of_the_same_architecture_are_refused(clip, wide, tmp_path):
    place, file = tmp_path / "films.index", tmp_path / "other.safetensors"
    stgt.Index(place, clip, device="cpu").update(wide.parent, workers=1)
    weights = load_file(clip.partition("/")[2])
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, file)
    with pytest.raises(ValueError, match="the weights or settings of openclip:tiny-clip/.* are others"):
        stgt.Index(place, f"openclip:tiny-clip/{file}", device="cpu").search("a red cube")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("openclip:ViT-B-33/laion", "open_clip has no architecture 'ViT-B-33', expected openclip:ARCHITECTURE/WEIGHTS"),
        ("ViT-B-32", "model is ViT-B-32, expected openclip:ARCHITECTURE/WEIGHTS for a CLIP of open_clip"),
        ("ViT-B-32/laion2b_s34b_b79k", "model is ViT-B-32/laion2b_s34b_b79k, expected openclip:ARCHITECTURE/WEIGHTS"),
        ("openclip:tiny-clip", "'' is neither a file nor weights of tiny-clip"),
        ("openclip:ViT-B-32/none", "'none' is neither a file nor weights of ViT-B-32, .*laion2b_s34b_b79k"),
        ("openclip:tiny-clip/gone.pt", "'gone.pt' is neither a file"),
        ("openclip:tiny-clip/broken.pt", "does not hold weights of tiny-clip, or is damaged"),
        ("openclip:tiny-clip/broken.safetensors", "does not hold weights of tiny-clip, or is damaged"),
        ("openclip:tiny-clip/part.safetensors", "does not hold weights of tiny-clip, or is damaged"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(name, message, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    weights = load_file(clip.partition("/")[2])
    weights.popitem()
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=message):
        open_encoder(name, device="cpu")
