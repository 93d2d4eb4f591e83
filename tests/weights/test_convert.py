"""Released weights are converted to a folder that gives the recorded numbers, and back to released weights."""

import json

import pytest
import torch
from helpers.commands import run_cli
from helpers.recorded import (
    check_losses_and_gradients,
    check_words_and_matching,
    recorded_batch,
    recorded_config,
    recorded_weights,
)
from helpers.tiny import tiny_batch, tiny_config, tiny_model
from safetensors.torch import load_file

from stgt.cli.convert import convert
from stgt.convert import convert_files
from stgt.models.stgt import STGT
from stgt.weights.load import export_released, load_released
from stgt.weights.names import HUGGING_FACE, OURS, RELEASED

TIED = {
    "Qformer.bert.embeddings.position_ids",
    "Qformer.cls.predictions.decoder.weight",
    "Qformer.cls.predictions.decoder.bias",
}


@pytest.fixture
def released(golden, tmp_path):
    """The recorded model's tensors, its weights as a released file, and its configuration without the sizes."""
    tensors, meta = golden("official_model_tiny")
    path = tmp_path / "released.pth"
    torch.save({"model": recorded_weights(tensors), "epoch": 3}, path)
    config = recorded_config(meta)
    base = tiny_config()  # all its sizes differ from the file's
    base.vision = config.vision
    base.graph.heads, base.graph.threshold = config.graph.heads, config.graph.threshold
    base.qformer.heads = config.qformer.heads
    return tensors, path, base


@pytest.mark.parametrize("alignment", ["vtc", "csal"])
def test_a_converted_model_gives_the_recorded_numbers(alignment, released, tmp_path, assert_near, monkeypatch):
    tensors, path, config = released
    convert([path], tmp_path / "folder", config, (), (), seed=0)
    model, batch = STGT.from_pretrained(tmp_path / "folder"), recorded_batch(tensors)
    assert not model.training
    with torch.no_grad():
        video = model.encode_video(batch["video"])
        assert_near(video.queries, tensors["video_feats"], "video features")
        check_words_and_matching(model, video.embeds, tensors, assert_near)
    check_losses_and_gradients(alignment, model, batch, tensors, assert_near, monkeypatch)


@pytest.mark.parametrize("name", ["again.pth", "again.safetensors"])
def test_converting_back_gives_the_same_bits(name, released, tmp_path):
    tensors, path, config = released
    convert([path], tmp_path / "folder", config, (), (), seed=0)
    convert([tmp_path / "folder"], tmp_path / name)
    file = tmp_path / name
    again = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)["model"]
    original = recorded_weights(tensors)
    assert set(again) == set(original) | TIED
    assert all(torch.equal(again[key], value) for key, value in original.items())


@torch.no_grad()
def test_lavis_and_eva_clip_make_one_model(released, tmp_path, assert_near):
    """The recorded Q-Former and tower are in files with the names and the extra tensors of the public files."""
    tensors, _, config = released
    weights = recorded_weights(tensors)
    blip2 = {k: v for k, v in weights.items() if not k.startswith(("graph_cross_model.", "visual_encoder."))}
    words = blip2["Qformer.bert.embeddings.word_embeddings.weight"]
    blip2 |= {
        "Qformer.bert.embeddings.position_ids": torch.arange(512)[None],
        "Qformer.cls.predictions.decoder.weight": words,
        "Qformer.cls.predictions.decoder.bias": blip2["Qformer.cls.predictions.bias"],
    }
    tower = {k.removeprefix("visual_encoder."): v for k, v in weights.items() if k.startswith("visual_encoder.")}
    last = {k.replace("blocks.1.", "blocks.2."): v + 1 for k, v in tower.items() if k.startswith("blocks.1.")}
    head = {"norm.weight": words[0], "norm.bias": words[0], "head.weight": words, "head.bias": words[0]}
    torch.save({"model": blip2, "config": {"run": {}}}, tmp_path / "blip2_pretrained.pth")
    torch.save(tower | last | head, tmp_path / "eva_vit_g.pth")
    files = [tmp_path / "blip2_pretrained.pth", tmp_path / "eva_vit_g.pth"]

    model = convert_files(files, config, fresh=["graph_cross_model."]).eval()
    assert_near(model.visual_tokens(recorded_batch(tensors)["video"]), tensors["visual_tokens"], "visual tokens")
    embeds = tensors["video_embeds"]
    queries = torch.nn.functional.normalize(model.vision_proj(model.qformer.video(embeds)), dim=-1)
    assert_near(queries, tensors["video_feats"], "video features")
    check_words_and_matching(model, embeds, tensors, assert_near)

    with pytest.raises(ValueError) as error:
        convert_files(files, config)
    assert "38 missing: graph_cross_model.* (38)" in str(error.value) and "--fresh" in str(error.value)


def save(tmp_path, drop=(), name="released.pth", prefix="", **replace):
    state = {RELEASED.theirs(key): value for key, value in tiny_model(seed=0).state_dict().items()}
    state = {key: value for key, value in state.items() if not key.startswith(drop or ("-",))} | replace
    torch.save({"model": {prefix + key: value for key, value in state.items()}}, tmp_path / name)
    return tmp_path / name


def test_frozen_tensors_may_be_absent_and_the_folder_then_names_the_tower(tmp_path):
    path = save(tmp_path, drop=("visual_encoder.", "graph_cross_model.pos_2D_embed"))
    convert([path], tmp_path / "folder", tiny_config(vision={"pretrained": "tower.pth"}), (), (), seed=0)
    assert json.loads((tmp_path / "folder/config.json").read_text())["vision"]["pretrained"] == "tower.pth"
    assert not any(name.startswith("vision.") for name in load_file(tmp_path / "folder/model.safetensors"))
    source = tiny_model(seed=0)
    torch.save(source.vision.tower.state_dict(), tmp_path / "tower.pth")
    config = json.loads((tmp_path / "folder/config.json").read_text())
    config["vision"]["pretrained"] = str(tmp_path / "tower.pth")
    (tmp_path / "folder/config.json").write_text(json.dumps(config))
    loaded, batch = STGT.from_pretrained(tmp_path / "folder"), tiny_batch()
    assert torch.equal(loaded.encode_video(batch["video"]).queries, source.eval().encode_video(batch["video"]).queries)


def test_weights_wrapped_in_ddp_are_converted(tmp_path):
    model = convert_files([save(tmp_path, prefix="module.")], tiny_config())
    assert torch.equal(model.temp, tiny_model(seed=0).temp)


@pytest.mark.parametrize("frames", [1, 5, 12])
def test_files_with_any_number_of_frames_are_converted(frames, tmp_path, caplog):
    """The converted model has the file's temporal embeddings. Another model resizes them, as it would for a clip."""
    source = tiny_model(graph={"frames": frames}).eval()
    export_released(source, tmp_path / "released.pth")
    model = convert_files([tmp_path / "released.pth"], tiny_config()).eval()
    assert model.config.graph.frames == frames
    other = tiny_model(seed=1, graph={"frames": 6}).eval()
    load_released(other, tmp_path / "released.pth")
    assert f"the temporal embedding of {frames} frames is resized to 6" in caplog.text
    video = tiny_batch(frames=6)["video"]
    expected = source.encode_video(video).queries
    for loaded in (model, other):
        torch.testing.assert_close(loaded.encode_video(video).queries, expected)


@pytest.mark.parametrize("layers, frequency", [(1, 1), (3, 3), (4, 4), (5, 2), (3, 1)])
def test_files_with_any_layers_of_cross_attention_are_converted(layers, frequency, tmp_path):
    source = tiny_model(qformer=dict(layers=layers, cross_frequency=frequency)).eval()
    export_released(source, tmp_path / "released.pth")
    model = convert_files([tmp_path / "released.pth"], tiny_config()).eval()
    assert model.config.qformer == source.config.qformer
    video = tiny_batch()["video"]
    torch.testing.assert_close(model.encode_video(video).queries, source.encode_video(video).queries)


def test_both_vocabularies_are_converted(tmp_path, caplog):
    """A vocabulary with BERT's 30522 words gets [DEC], as in LAVIS. One with 30523 words is unchanged."""
    sizes = dict(hidden=8, intermediate=8, vocab_size=30523, bos_token_id=30522)
    source = tiny_model(qformer=sizes)
    export_released(source, tmp_path / "with.pth")
    state = torch.load(tmp_path / "with.pth", weights_only=True)["model"]
    cut = ("word_embeddings.weight", "predictions.bias", "decoder.weight", "decoder.bias")
    torch.save({k: v[:30522] if k.endswith(cut) else v for k, v in state.items()}, tmp_path / "without.pth")
    for name in ("with.pth", "without.pth"):
        model = convert_files([tmp_path / name], tiny_config())
        assert (model.config.qformer.vocab_size, model.config.qformer.bos_token_id) == (30523, 30522)
        words, expected = (m.qformer.embeddings.word_embeddings.weight for m in (model, source))
        assert torch.equal(words[:30522], expected[:30522])
        assert torch.equal(words[30522], expected[30522]) == (name == "with.pth")
        assert words[30522].any() and words.shape == expected.shape
        assert ("has 30522 words without [DEC]" in caplog.text) == (name == "without.pth")
    # Without [DEC] there would be no first word.
    small = tiny_model(qformer=sizes | dict(vocab_size=30522, bos_token_id=101))
    with pytest.raises(ValueError, match=r"word_embeddings.weight: \(30523, 8\) in the file, \(30522, 8\) in the"):
        load_released(small, tmp_path / "with.pth")


@pytest.mark.parametrize(
    "name, shape",
    [
        ("visual_encoder.pos_embed", (1, 26, 16)),
        ("graph_cross_model.pos_2D_embed", (26, 16)),
    ],
)
def test_position_tables_of_another_size_are_refused_by_name(name, shape, tmp_path):
    path = save(tmp_path, **{name: torch.zeros(shape)})
    with pytest.raises(ValueError, match=rf"1 mis-shaped: {name}: \({str(shape)[1:-1]}\) in the file"):
        convert_files([path], tiny_config())


def test_the_number_of_text_positions_comes_from_the_file_and_another_model_refuses_it(tmp_path):
    name = "Qformer.bert.embeddings.position_embeddings.weight"
    path = save(tmp_path, **{name: torch.zeros(20, 24)})
    assert convert_files([path], tiny_config()).config.qformer.max_positions == 20
    with pytest.raises(ValueError, match=rf"1 mis-shaped: {name}: \(20, 24\) in the file, \(16, 24\) in the model"):
        load_released(tiny_model(), path)


def test_every_tensor_is_accounted_for(tmp_path):
    path = save(tmp_path, drop=("itm_head.bias", "Qformer.bert.encoder.layer.0.crossattention.output.dense."))
    with pytest.raises(ValueError) as error:
        convert_files([path], tiny_config())
    dense = "Qformer.bert.encoder.layer.0.crossattention.output.dense."
    assert f"{path} does not fit the model:" in str(error.value)
    assert f"3 missing: {dense}bias, {dense}weight, itm_head.bias" in str(error.value)

    path = save(tmp_path, **{"graph_cross_model.resblocks.0.adapter.weight": torch.zeros(2), "queue": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"2 unexpected: graph_cross_model.resblocks.0.adapter.weight, queue\n"):
        convert_files([path], tiny_config())
    model = convert_files([path], tiny_config(), drop=["queue", "graph_cross_model.resblocks.0.adapter."])
    assert torch.equal(model.temp, tiny_model(seed=0).temp)


def test_a_missing_layer_in_the_middle_is_an_error(tmp_path):
    path = save(tmp_path, drop=("Qformer.bert.encoder.layer.0.",))
    with pytest.raises(ValueError, match=r"missing: Qformer.bert.encoder.layer.0.\* \(\d+\)\n"):
        convert_files([path], tiny_config())


def test_contradicting_options_are_refused(tmp_path):
    path, twin = save(tmp_path), save(tmp_path, name="twin.pth")
    with pytest.raises(ValueError, match=r"is in .*twin.pth and in .*released.pth, expected in one of them"):
        convert_files([path, twin], tiny_config())
    with pytest.raises(ValueError, match="drop is 'nothing', but no tensor in the files has a name"):
        convert_files([path], tiny_config(), drop=["nothing"])
    with pytest.raises(ValueError, match="fresh is 'temp', but"):
        convert_files([path], tiny_config(), fresh=["temp"])
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth has 1 names of no known kind \(conv1.weight, …\), expected"):
        convert_files([tmp_path / "other.pth"], tiny_config())


def test_the_motion_along_edges_has_a_name_beside_the_other_parts_of_its_block():
    name = "graph.blocks.1.motion.proj.bias"
    assert RELEASED.theirs(name) == "graph_cross_model.resblocks.1.motion.proj.bias"
    assert RELEASED.ours(RELEASED.theirs(name)) == name


@pytest.mark.parametrize("naming", [RELEASED, HUGGING_FACE, OURS], ids=lambda naming: naming.title)
def test_every_name_is_mapped_there_and_back(naming):
    names = list(tiny_model(graph=dict(motion=True)).state_dict())
    theirs = [naming.theirs(name) for name in names]
    assert len(set(theirs)) == len(names)
    lacking = ("graph.", "temp", "qformer.word_head.") if naming is HUGGING_FACE else ("-",)
    assert all(naming.ours(t) == name for name, t in zip(names, theirs, strict=True) if not name.startswith(lacking))


def test_the_command_line_converts_files(tmp_path, monkeypatch, capsys):
    path = save(tmp_path)
    config = tiny_config()
    flags = [
        f"--model.{part}.{field.replace('_', '-')}={getattr(getattr(config, part), field)}"
        for part, fields in {
            "vision": ("tower", "pretrained", "image_size", "patch_size", "width", "layers", "heads", "dtype"),
            "graph": ("heads", "threshold"),
            "qformer": ("heads",),
        }.items()
        for field in fields
    ]

    def run(*arguments):
        return run_cli(monkeypatch, "convert", *arguments, *flags), capsys.readouterr()

    status, printed = run(path, "--out", tmp_path / "folder")
    assert status == 0 and "folder:" in printed.out and "with the vision tower" in printed.out
    assert torch.equal(STGT.from_pretrained(tmp_path / "folder").temp, tiny_model(seed=0).temp)
    status, printed = run(path, "--out", tmp_path / "folder")
    assert status == 2 and "folder exists" in printed.err
    for arguments, message in [
        ([tmp_path / "nothing.pth"], "there is no checkpoint file"),
        ([save(tmp_path, drop=("temp",))], "1 missing: temp"),
        ([tmp_path / "folder", path], "holds a whole model, expected no other file"),
        ([], "no file to convert is given"),
    ]:
        status, printed = run(*arguments, "--out", tmp_path / "new")
        assert status == 2 and message in printed.err and "Traceback" not in printed.err
        assert not (tmp_path / "new").exists()
    status, _ = run(save(tmp_path, drop=("temp",)), "--fresh", "temp", "--out", tmp_path / "new")
    assert status == 0 and (tmp_path / "new/config.json").is_file()


@pytest.mark.parametrize(
    "option",
    [
        ["--model.graph.threshold", "0.7"],
        ["--model.graph.heads=16"],  # the default value, which another model need not have
        ["--attention", "dense"],
        ["--seed", "0"],
        ["--drop", "temp"],
        ["--fresh", "temp"],
    ],
)
@pytest.mark.parametrize("kind", ["run", "folder"])
def test_a_whole_model_takes_no_options(option, kind, run, stgt, tmp_path):
    source = run
    if kind == "folder":
        assert stgt("convert", run, "--out", tmp_path / "folder")[0] == 0
        source = tmp_path / "folder"
    status, printed = stgt("convert", source, "--out", tmp_path / "new", *option)
    name = "--model" if option[0] == "--attention" else option[0].partition("=")[0]
    assert status == 2 and f"no option for settings or tensors: {name}" in printed
    assert not (tmp_path / "new").exists()
