"""A trained model is used from Python, without the command line."""

import shutil
import subprocess
import sys

import pytest
import torch

import stgt
from stgt.distributed import World
from stgt.evaluation.encode import encode_videos
from stgt.runs import open_run


def test_videos_and_texts_are_embedded_as_evaluation_embeds_them(run, tmp_path):
    model = stgt.load(run, device="cpu")
    opened = open_run(run, "cpu")
    clips = opened.test_items()
    kept = encode_videos(opened.model, clips, tmp_path, World(0, 1, torch.device("cpu")), workers=0).all("queries")
    paths = [clips.root / video for video in clips.videos]
    videos = model.embed_videos(paths, batch_size=3)
    torch.testing.assert_close(videos, kept, atol=1e-5, rtol=0)
    texts = model.embed_texts(["a red circle grows", "a blue square is moving left"])
    assert videos.shape[0] == len(paths) and texts.shape == (2, videos.shape[2])
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(2))
    similarity = model.similarity(videos, texts)
    expected = torch.einsum("vqe,ne->vqn", videos, texts).amax(1)
    torch.testing.assert_close(similarity, expected)
    assert model.to("cpu") is model and model.device.type == "cpu"


@pytest.mark.parametrize("call", ["embed_videos", "embed_texts"])
@pytest.mark.parametrize("values", ["a.mp4", []])
def test_a_single_name_or_none_at_all_is_refused(run, call, values):
    with pytest.raises(ValueError, match="expected a list with at least one entry"):
        getattr(stgt.load(run, device="cpu"), call)(values)


def test_an_unknown_name_is_an_error_that_says_what_was_tried(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="'nobody/nothing' is no folder here, and the Hugging Face hub did not give"):
        stgt.load("nobody/nothing")


def test_an_empty_path_is_not_the_present_folder(run, tmp_path, monkeypatch):
    model = stgt.load(run, device="cpu")
    monkeypatch.chdir(tmp_path)
    index = stgt.Index("new.index", model)
    for use in (
        lambda: model.save_pretrained(""),
        lambda: model.run.model.save_pretrained(""),
        lambda: stgt.Index("", model),
        lambda: index.update(""),
    ):
        with pytest.raises(ValueError, match="the path is '', expected a file or a folder"):
            use()
    assert not any(tmp_path.iterdir())


def test_importing_the_package_loads_nothing_else():
    code = "import sys, stgt; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_model_on_the_hub_is_the_model_that_was_pushed(run, clips, tmp_path, monkeypatch):
    """A folder takes the place of the hub. Uploads are copied into it, and downloads are read from it."""
    hub = tmp_path / "hub"

    class Hub:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, name, *, private, exist_ok):
            (hub / name).parent.mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, hub / repo_id)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file, revision=None: hub / name / file)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: hub / name)
    monkeypatch.chdir(tmp_path)
    ours = stgt.load(run, device="cpu")
    assert ours.push_to_hub("somebody/shapes") == "https://hub/somebody/shapes"
    theirs = stgt.load("somebody/shapes", device="cpu")
    sentences = ["a green triangle grows", "a small red square"]
    assert torch.equal(ours.embed_texts(sentences), theirs.embed_texts(sentences))
    video = [clips / "videos" / path.name for path in sorted((clips / "videos").iterdir())[:1]]
    assert torch.equal(ours.embed_videos(video), theirs.embed_videos(video))
    card = (hub / "somebody/shapes/README.md").read_text()
    assert 'stgt.load("somebody/shapes")' in card and "Trained on: `train.json`" in card


def test_a_hub_that_refuses_is_an_error_with_its_name(run, monkeypatch):
    class Refuses:
        def __init__(self, token=None): ...

        def create_repo(self, name, **_):
            raise RuntimeError("401 Unauthorized")

    monkeypatch.setattr("huggingface_hub.HfApi", Refuses)
    with pytest.raises(OSError, match="the hub did not accept 'a/b' .*401"):
        stgt.load(run, device="cpu").push_to_hub("a/b")
