"""Every structured file with odd values at random places is read, or gives an error that names the file.

Hypothesis draws the odd values. They are the same each time.
"""

import hashlib
import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from stgt import checkpoint as ckpt
from stgt.config import DataConfig, GraphConfig, ModelConfig, QFormerConfig, TrainConfig, VisionConfig, to_dict
from stgt.convert import fit_config
from stgt.data import annotations, check
from stgt.data.datasets.msrvtt import read_clips
from stgt.data.datasets.msvd import pairs_of_json
from stgt.data.datasets.questions import read_questions
from stgt.data.features import _read_index
from stgt.data.shapes import render_shapes
from stgt.data.text import Tokenizer
from stgt.runs import saved_config
from stgt.training.log import read_log
from stgt.training.run import require_same_run
from stgt.weights.files import read_weights
from stgt.weights.pretrained import read_config
from stgt.weights.tensors import read_tensors

# Texts of JSON values: of wrong types, out of range, and odd ones that Python's parser accepts or fails on.
ODD = (
    *("null", "true", "0", "-1", "1.5", "8.0", '"8"', '""', "[]", "{}", "[1]", '{"a": 1}', "1e9", "1e999", "NaN"),
    *("-Infinity", "1000000000000", "9" * 5000, r'"\ud800"', r'"a\u0000b"', '"../x"', f'"{"x" * 1000}"', "9" * 19),
    *('{"a": 1, "a": 2}', "[" * 90 + "]" * 90, "[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, "nul"),
)
KNOWN = (ValueError, OSError, ckpt.CheckpointError)

MODEL = ModelConfig(
    VisionConfig(tower="vit", image_size=32, patch_size=8, width=16, layers=2, heads=2),
    GraphConfig(heads=2, frames=4),
    QFormerConfig(hidden=24, layers=2, heads=2, intermediate=48, queries=4, embed_dim=8),
)
RUN = to_dict(TrainConfig(model=MODEL, data=DataConfig(frames=4)))
QUESTION = {"video": "a.mp4", "question": "what?", "answer": "a cat", "question_id": 3}
STATE = {
    "step": 2,
    "world": 1,
    "replaced": 0,
    "best": {"step": 2, "epoch": 0, "chosen_by": "r_mean", "value": 3.5},
    "scaler": {},
    "tower": {"tower": "ViT-B-16", "pretrained": "openai", "sha256": "ab"},
    "language": None,
    "config": RUN,
}
KEY = {"tower": "ab", "transform": "test", "frames": 2, "sampling": "uniform", "views": 1, "seed": 0, "decoder": "pyav"}
INDEX = {"key": KEY, "batch": 2, "videos": 2, "table": "cd", "fingerprint": "ab", "format": 4}
SCENES = {"settings": {"train": 1, "test": 0, "seed": 0, "size": 32, "frames": 2}, "clips": []}
VOCABULARY = {"model": {"type": "WordPiece", "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4}}}
MSRVTT = {
    "videos": [{"video_id": "video1", "split": "train"}],
    "sentences": [{"video_id": "video1", "caption": "a cat"}],
}


def sealed_again(path):
    """Give a changed file the checksum of its new contents."""
    text = '{\n "sha256": "' + "0" * 64 + '",' + path.read_text("utf-8").removeprefix("{")
    path.write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest(), 1), "utf-8")
    return path


def questions(path):
    return list(read_questions(path, "video{}.mp4".format))


def same_run(path):
    require_same_run(TrainConfig(model=MODEL, data=DataConfig(frames=4), out=path.parent))


# Each file: its name, its valid value, and the function that reads it from its path.
FILES = {
    "config.json": ({"model_type": "stgt"} | to_dict(MODEL), read_config),
    "run/config.json": (RUN, same_run),
    "step-00000002/state.json": (STATE, lambda path: saved_config(path.parent)),
    "captions.json": ([{"video": "a.mp4", "caption": ["a", "b"]}], annotations.load_captions),
    "questions.json": ([QUESTION], annotations.load_questions),
    "ans2label.json": ({"a cat": 0, "a dog": 1}, annotations.load_answers),
    "bad.json": ({"a.mp4": "broken"}, annotations.load_bad_list),
    "features.json": (INDEX, lambda path: _read_index(sealed_again(path))),
    "scenes.json": (SCENES, lambda path: render_shapes(path.parent, train=1, test=0, size=32, frames=2)),
    "tokenizer.json": (VOCABULARY, lambda path: Tokenizer.load(path.parent)),
    "model.safetensors.index.json": ({"weight_map": {"a": "x.bin", "b": "x.bin"}}, read_tensors),
    "MSRVTT_data.json": (MSRVTT, lambda path: read_clips(path.parent)),
    "raw-captions.json": ({"a": [["a", "cat"], "a dog"]}, lambda path: list(pairs_of_json(path))),
    "train_qa.json": ([{"video_id": 1, "id": 2, "question": "what?", "answer": "cat"}], questions),
}


@st.composite
def mutated(draw, value):
    """The text of a JSON file with odd values at one or two places, or with a part of the text cut out or changed."""
    text = json.dumps(value)
    for _ in range(draw(st.integers(1, 2))):
        places = [p for p in range(len(text)) if text[p] in '{["' or text[p - 1 : p] in (" ", "[")]
        start = draw(st.sampled_from(places)) if places else 0
        try:
            _, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        text = text[:start] + draw(st.sampled_from(ODD)) + text[end:]
    if draw(st.integers(0, 9)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    return text


def assert_named(read, path):
    """Read a file. An error has to be of a known kind, name the file, and be short enough to read."""
    try:
        read(path)
    except KNOWN as error:
        assert path.name in str(error) or str(path.parent) in str(error), error
        assert len(str(error)) < 2000


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=80, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_odd_file_is_an_error_that_names_it(name, data, tmp_path):
    value, read = FILES[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    torch.save({"a": torch.ones(1)}, path.parent / "x.bin")
    path.write_text(data.draw(mutated(value)), "utf-8")
    assert_named(read, path)


@pytest.mark.parametrize("name", FILES)
def test_the_valid_files_are_read(name, tmp_path):
    value, read = FILES[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    torch.save({"a": torch.ones(1)}, path.parent / "x.bin")
    path.write_text(json.dumps(value), "utf-8")
    read(path)


def read_sizes(path):
    fit_config(MODEL, read_weights([path]).sources)


@settings(max_examples=80, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_odd_safetensors_header_is_an_error_that_names_the_file(data, tmp_path):
    names = ("qformer.query_tokens", "qformer.bert.encoder.layer.0.attention.attention.q_proj.weight", "temp")
    content = save({name: torch.ones(1, 4, 24) for name in names})
    length = struct.unpack("<Q", content[:8])[0]
    text = data.draw(mutated(json.loads(content[8 : 8 + length]))).encode()
    size = data.draw(st.sampled_from([len(text), len(text), len(text), 0, len(text) + 7, 2**63]))
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", size) + text + content[8 + length :])
    assert_named(read_sizes, path)


@pytest.mark.parametrize("number", ["999999999", "9" * 5000, "7"])
def test_a_layer_with_an_absurd_number_is_left_over_and_not_built(number, tmp_path):
    path = tmp_path / "model.safetensors"
    layers = [f"qformer.bert.encoder.layer.{n}.attention.attention.q_proj.weight" for n in ("0", "1", number)]
    path.write_bytes(save({name: torch.ones(2, 2) for name in layers}))
    assert fit_config(MODEL, read_weights([path]).sources).qformer.layers <= 3


@pytest.mark.parametrize("line", ODD)
def test_an_odd_line_of_a_journal_is_passed_over(line, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n' + line + "\n", "utf-8")
    assert read_log(tmp_path)[:1] == [{"step": 1, "loss": 2.0}]
    assert all(isinstance(record, dict) and isinstance(record["step"], int) for record in read_log(tmp_path))
    (tmp_path / "check.json.partial").write_text(f'["/videos"]\n{line}\n', "utf-8")
    assert_named(lambda path: check._found_before(path, ["/videos"]), tmp_path / "check.json.partial")
