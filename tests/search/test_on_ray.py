"""A Ray cluster encodes what one process encodes, to the bit; lost processes and endless files cost their own clips."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.doubling import (
    CRASH,
    DIES_ALWAYS,
    DIES_ONCE,
    ENDLESS,
    LOST,
    NO_VIDEO,
    Doubled,
    Killed,
    OnGpu,
    Unfit,
    numbers,
    refuse,
)

from stgt.data import on_ray
from stgt.data.errors import VideoError
from stgt.data.features import FeatureStore
from stgt.data.isolated import Failure
from stgt.data.manifest.cache import open_manifest
from stgt.data.on_ray import _connect, encode_on_ray
from stgt.data.samples import VideoDataset
from stgt.data.transforms import train_transform
from stgt.data.write_features import write_features

ray = pytest.importorskip("ray", reason="pip install 'ray[data]'")

TESTS = Path(__file__).parents[1]
INDEXES = ("ray.index", "here.index")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster of this machine, with two CPUs, for all tests of the file."""
    paths = os.pathsep.join(map(str, [TESTS.parent, TESTS, Path(__file__).parent]))
    environment = {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}}
    options = dict(include_dashboard=False, log_to_driver=False, runtime_env=environment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=2, **options)  # whatever clusters there are beside it
        yield
        ray.shutdown()


def test_results_come_in_order_and_only_harmful_units_fail(tmp_path):
    deaths = tmp_path / "deaths"
    deaths.touch()
    units = [0, ENDLESS, 1, CRASH, DIES_ONCE, 3, NO_VIDEO, 4, LOST, 5, 6, DIES_ALWAYS, 8, 9, 10]
    found = dict(zip(units, encode_on_ray(units, numbers, Doubled(deaths), timeout=15), strict=True))
    assert deaths.read_text().count(str(DIES_ONCE)) == 1 <= deaths.read_text().count(str(DIES_ALWAYS)) <= 2
    failed = {unit: result.cause for unit, result in found.items() if isinstance(result, Failure)}
    assert failed.keys() == {ENDLESS, CRASH, NO_VIDEO, LOST, DIES_ALWAYS}
    assert failed[ENDLESS] == "decoding did not end within 15 s" and failed[NO_VIDEO] == "no video"
    assert failed[CRASH] == "the decoder crashed with exit code -9"
    for unit in (LOST, DIES_ALWAYS):
        assert failed[unit].startswith("the processes that worked on it were lost")
    for unit in found.keys() - failed.keys():
        assert found[unit].tolist() == [2 * unit, 2 * unit + 2]


def test_an_error_of_the_model_is_raised():
    with pytest.raises(ValueError, match="the vectors are not finite"):
        list(encode_on_ray([1], numbers, refuse, timeout=60))


def test_a_model_that_no_machine_can_load_ends_the_command_and_is_no_fault_of_the_units():
    with pytest.raises(OSError, match=r"(?s)the model cannot be loaded on the Ray cluster:.*the GPU is full"):
        list(encode_on_ray([1, 2], numbers, Unfit(), timeout=60))


def test_a_model_whose_processes_die_ends_the_command(caplog):
    with pytest.raises(OSError, match="all processes of the Ray cluster that loaded the model died"):
        list(encode_on_ray([1, 2], numbers, Killed(), timeout=60))
    assert "a process of the Ray cluster died while it loaded the model" in caplog.text


def test_a_cluster_whose_processors_others_hold_is_waited_for_with_a_message_and_not_for_ever(
    monkeypatch, caplog, tmp_path
):
    monkeypatch.setattr(on_ray, "NOTICE", 0.2)
    monkeypatch.setattr(on_ray, "PATIENCE", 0.5)
    holder = ray.remote(num_cpus=2)(Holder).remote()
    ray.get(holder.hold.remote())
    while ray.available_resources().get("CPU", 0):  # the cluster hears of it with a delay
        time.sleep(0.05)
    (tmp_path / "deaths").touch()
    model = Doubled(tmp_path / "deaths")
    with pytest.raises(OSError, match="no model could be loaded on the Ray cluster within 0.5 s: 0 of 2 CPUs are free"):
        list(encode_on_ray([1], numbers, model, timeout=60))
    assert (
        "waiting for a model on the Ray cluster: 0 of 2 CPUs are free; this job and others hold the rest" in caplog.text
    )
    monkeypatch.setattr(on_ray, "PATIENCE", 300)
    results = encode_on_ray(_after_release([1, 3], holder), numbers, model, timeout=60)
    assert [result.tolist() for result in results] == [[2, 4], [6, 8]]


class Holder:
    """An actor of another job, which holds processors."""

    def hold(self):
        pass


def _after_release(units, holder):
    """Units, the first of which is asked for when the model waits for processors, which are released then."""
    ray.kill(holder)
    yield from units


def test_a_model_on_this_machines_gpu_is_sent_from_the_cpu_and_stays_on_the_gpu_here():
    model = OnGpu()
    assert [result.tolist() for result in encode_on_ray([1], numbers, model, timeout=60)] == [[2, 4]]
    assert model.network.device.type == "cuda"


def test_signals_go_where_they_went_before_ray_started(monkeypatch):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    started = []

    def init(**options):
        started.append(os.environ["RAY_USAGE_STATS_ENABLED"])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as ray.init does with a handler of its own

    _connect(SimpleNamespace(is_initialized=lambda: False, init=init))
    assert started == ["0"] and signal.getsignal(signal.SIGTERM) == before


def test_an_index_is_the_same_to_the_bit(run, clips, stgt, tmp_path):
    shutil.copytree(clips / "videos", tmp_path / "films")
    (tmp_path / "films" / "broken.mp4").write_bytes(b"no video")
    for name, words in zip(INDEXES, (["--ray"], ["--workers", 1]), strict=True):
        status, printed = stgt("index", tmp_path / "films", "--out", tmp_path / name, "--model", run, *words)
        assert status == 0 and "left out: 1" in printed
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in INDEXES)
    assert one == two and len(one) == 2


def patches(video):
    """A stand-in for a tower, (B, T, 3, 16, 16) → (B, T, 5, 3)."""
    means = torch.nn.functional.avg_pool2d(video.flatten(0, 1), 8).flatten(2).transpose(1, 2)
    return torch.cat([means.mean(1, keepdim=True), means], 1).unflatten(0, video.shape[:2])


def test_a_feature_cache_is_the_same_to_the_bit_and_a_video_that_cannot_be_read_is_named(clips, tmp_path):
    names = sorted(path.name for path in (clips / "videos").iterdir())[:4]
    shutil.copytree(clips / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    options = dict(frames=4, transform=train_transform(16, flip=False), sampling="headtail", random=True)
    settings = dict(tower_hash="abc", views=3, batch_size=6)
    here = write_features(tmp_path / "here", VideoDataset(names, tmp_path / "videos", **options), patches, **settings)
    videos = VideoDataset([*names, "broken.mp4"], tmp_path / "videos", **options)
    with pytest.raises(VideoError, match="broken.mp4: not a video file"):
        write_features(tmp_path / "ray", videos, patches, **settings, ray=True)
    found = FeatureStore(tmp_path / "ray", whole=False)
    for name in names:
        for view in range(3):
            assert torch.equal(found.read(name, view), here.read(name, view))


def test_a_feature_cache_of_a_manifest_is_the_same_to_the_bit_and_marks_what_cannot_be_read(clips, stgt, tmp_path):
    assert stgt("data", "pack", clips / "train.json", "--out", tmp_path, "--shard-size", "20KB")[0] == 0
    (tmp_path / "train-000000.tar").write_bytes((tmp_path / "train-000000.tar").read_bytes()[:3000])
    options = dict(frames=4, transform=train_transform(16, flip=False), sampling="headtail", random=True)
    videos = VideoDataset(open_manifest(tmp_path / "train.parquet"), tmp_path, **options)
    settings = dict(tower_hash="abc", views=2, batch_size=6)
    here, there = (
        write_features(tmp_path / name, videos, patches, **settings, ray=name == "ray") for name in ("here", "ray")
    )
    for key in ("tokens", "state"):
        assert torch.equal(here.tokens.all(key), there.tokens.all(key))
    readable = here.tokens.all("state")[:, 0]
    assert 0 < readable.sum() < len(readable)


def test_the_advice_for_a_missing_ray_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"ray is not installed; run: pip install 'stgt-kernels\[scale\]'"):
        list(encode_on_ray([1], numbers, refuse, timeout=60))
