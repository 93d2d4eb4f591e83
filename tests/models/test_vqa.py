import shutil
import sys
from pathlib import Path

import pytest
import torch
from helpers.language_models import KINDS, save_language_model
from helpers.tiny import tiny_batch, tiny_config, tiny_model
from safetensors.torch import load_file, save_file

from stgt import checkpoint as ckpt
from stgt.config import LanguageConfig
from stgt.data.prompts import LanguageTokenizer
from stgt.data.words import IGNORED
from stgt.models.language import load_language_model
from stgt.models.vqa import VideoQA

QUESTIONS = ["why?", "what colour is the object that moves left?", "how many objects are there?"]
ANSWERS = ["red", "moves up", "2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_language_model(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(params=KINDS)
def folder(request, folders):
    return folders[request.param]


def make(folder, seed=0, **language):
    config = tiny_config()
    config.language = LanguageConfig(**{"model": str(folder), "dtype": "float32"} | language)
    torch.manual_seed(seed)
    model = VideoQA(config)
    for parameter in (*model.qformer.parameters(), model.language_proj.weight):
        if parameter.ndim > 1:  # larger weights than BERT's initial ones, so queries depend on the video
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def tokens_of(n=3):
    """Made-up tokens of a tower. They differ more between videos than those of a random tower."""
    return torch.randn(n, 2, 17, 16, generator=torch.Generator().manual_seed(3))


def batch_of(folder, questions=QUESTIONS, answers=ANSWERS):
    items = [
        {"video": video, "question": question, "answer": answer}
        for video, question, answer in zip(tiny_batch()["video"], questions, answers, strict=False)
    ]
    batch = LanguageTokenizer.from_pretrained(folder).collate(items)
    return {name: value for name, value in batch.items() if torch.is_tensor(value)}


def test_the_loss_is_the_language_models_own_on_answers_after_queries_and_prompt(folder):
    model, batch = make(folder).eval(), batch_of(folder)
    out = model(batch)
    queries, _ = model.encode_video(batch["video"])
    embeds = torch.cat([queries, model.language.get_input_embeddings()(batch["input_ids"])], 1)
    unseen = torch.full(queries.shape[:2], IGNORED)
    expected = model.language(
        inputs_embeds=embeds,
        attention_mask=torch.cat([torch.ones_like(unseen), batch["attention_mask"]], 1),
        labels=torch.cat([unseen, batch["labels"]], 1),
    ).loss
    torch.testing.assert_close(out["loss"], expected)
    assert set(out) == {"loss", "words_right", "edges_per_token"} and 0 <= out["words_right"] <= 1


def test_padding_and_neighbours_do_not_change_an_answers_loss(folder):
    model = make(folder).eval()
    together, words, total = batch_of(folder), [], 0.0
    for i in range(3):
        alone = batch_of(folder, QUESTIONS[i : i + 1], ANSWERS[i : i + 1])
        alone["video"] = together["video"][i : i + 1]
        words.append(int((alone["labels"] != IGNORED).sum()))
        total += model(alone)["loss"] * words[-1]
    torch.testing.assert_close(model(together)["loss"], total / sum(words))


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_of_a_batch_are_those_of_its_questions_alone(folder, beams):
    model, tokenizer = make(folder).eval(), LanguageTokenizer.from_pretrained(folder)
    queries, _ = model.encode_video(tokens=tokens_of())
    options = {"end": tokenizer.eos_token_id, "beams": beams, "max_tokens": 6}
    ids, mask = tokenizer.encode_prompts(QUESTIONS)
    together = model.answer(queries, ids, mask, **options)
    assert len({tuple(row) for row in together.tolist()}) == 3
    for i, question in enumerate(QUESTIONS):
        alone = model.answer(queries[i : i + 1], *tokenizer.encode_prompts([question]), **options)[0]
        assert together[i, : len(alone)].tolist() == alone.tolist()
        assert (together[i, len(alone) :] == tokenizer.eos_token_id).all()
    right = tokenizer.collate([{"question": question, "answer": "red"} for question in QUESTIONS])
    prompts = right["labels"] == IGNORED
    moved = model.answer(queries, right["input_ids"], right["attention_mask"] * prompts, **options)
    assert torch.equal(moved, together)  # the place of the padding does not matter


def test_a_greedy_answer_takes_the_likeliest_next_word_each_time(folder):
    model, tokenizer = make(folder).eval(), LanguageTokenizer.from_pretrained(folder)
    queries, _ = model.encode_video(tokens=tokens_of())
    found = model.answer(queries, *tokenizer.encode_prompts(QUESTIONS), end=tokenizer.eos_token_id, beams=1)
    for i, question in enumerate(QUESTIONS):
        ids, _ = tokenizer.encode_prompts([question])
        for place in range(found.shape[1]):
            embeds = torch.cat([queries[i : i + 1], model.language.get_input_embeddings()(ids)], 1)
            logits = model.language(inputs_embeds=embeds).logits[:, -1]
            if place == 0:
                logits[:, tokenizer.eos_token_id] = -torch.inf  # an answer has at least one word
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
            assert ids[0, -1] == found[i, place]
            if ids[0, -1] == tokenizer.eos_token_id:
                break


def test_another_video_gets_another_answer(folder):
    model, tokenizer = make(folder).eval(), LanguageTokenizer.from_pretrained(folder)
    queries, _ = model.encode_video(tokens=tokens_of(8))
    ids, mask = tokenizer.encode_prompts(QUESTIONS[:1] * 8)
    answers = model.answer(queries, ids, mask, end=tokenizer.eos_token_id, beams=1)
    assert len({tuple(row) for row in answers.tolist()}) > 1


def test_video_and_tokens_give_the_same_loss(folder):
    model, batch = make(folder).eval(), batch_of(folder)
    tokens = model.visual_tokens(batch["video"])
    other = {name: value for name, value in batch.items() if name != "video"} | {"tokens": tokens}
    assert torch.equal(model(batch)["loss"], model(other)["loss"])


def test_its_queries_are_those_of_the_retrieval_model(folder):
    model, retrieval, batch = make(folder, seed=1).eval(), tiny_model(seed=2).eval(), tiny_batch()
    state = retrieval.state_dict()
    shared = [name for name in model.state_dict() if not name.startswith("language")]
    assert {name.split(".")[0] for name in shared} == {"vision", "graph", "ln_vision", "qformer"}
    model.load_state_dict({name: state[name] for name in shared}, strict=False)
    embeds = retrieval.encode_video(batch["video"]).embeds
    expected = model.language_proj(retrieval.qformer.video(embeds))
    torch.testing.assert_close(model.encode_video(batch["video"])[0], expected)


@pytest.mark.parametrize("tune", ["frozen", "lora", "all"])
@pytest.mark.parametrize("train_graph", [False, True])
def test_exactly_the_trained_parameters_get_gradients(folder, tune, train_graph):
    if tune == "lora":
        pytest.importorskip("peft")
    model = make(folder, tune=tune, train_graph=train_graph).train()
    model(batch_of(folder))["loss"].backward()
    trained = {"ln_vision", "qformer", "language_proj"}
    trained |= {"graph"} if train_graph else set()
    trained |= {"language"} if tune != "frozen" else set()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == trained
    language = [name for name, p in model.language.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in language) == (tune != "all")
    assert model.language.training == (tune != "frozen") and model.graph.training == train_graph
    assert model.qformer.training and not model.eval().qformer.training


def test_frozen_parts_are_in_evaluation_mode_from_the_start(folders):
    """A validation calls `train` afterwards, which must change nothing, or a run that went on would have other bits."""
    model = make(folders[KINDS[0]], tune="frozen", train_graph=False)
    modes = {name: module.training for name, module in model.named_modules()}
    assert {name: module.training for name, module in model.train().named_modules()} == modes


@pytest.mark.parametrize("tune", ["frozen", "lora"])
def test_half_precision_end_to_end(folder, tune):
    if tune == "lora":
        pytest.importorskip("peft")
    model, batch = make(folder, dtype="bfloat16", tune=tune).train(), batch_of(folder)
    assert model.language.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)["loss"]
    assert loss.dtype == torch.float32
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32 and parameter.grad.isfinite().all(), name
    exact = make(folder, tune=tune)(batch)["loss"]
    assert abs(loss - exact) < 0.05 * exact


@pytest.mark.parametrize("kind, tune", [("llama", "frozen"), ("opt", "all")])
def test_a_few_steps_teach_it_to_answer(folders, kind, tune):
    """How many steps it takes depends on the initial weights."""
    folder = folders[kind]
    model, tokenizer = make(folder, tune=tune), LanguageTokenizer.from_pretrained(folder)
    batch, prompts = batch_of(folder), tokenizer.encode_prompts(QUESTIONS)
    del batch["video"]
    batch["tokens"] = tokens_of()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 5e-3)
    answers = []
    for step in range(1, 1001):
        optimizer.zero_grad()
        model.train()(batch)["loss"].backward()
        optimizer.step()
        if step % 40 == 0:
            queries, _ = model.eval().encode_video(tokens=batch["tokens"])
            answers = tokenizer.decode(model.answer(queries, *prompts, end=tokenizer.eos_token_id))
            if answers == ANSWERS:
                break
    assert answers == ANSWERS


def test_lora_does_not_change_the_model_at_the_start(folders):
    pytest.importorskip("peft")
    plain, lora = (make(folders["llama"], tune=tune).eval() for tune in ("frozen", "lora"))
    lora.load_state_dict(plain.state_dict(), strict=False)
    batch = batch_of(folders["llama"])
    assert torch.equal(plain(batch)["loss"], lora(batch)["loss"])


def test_lora_without_peft_says_what_to_install(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"tune is 'lora', which needs peft: pip install 'stgt-kernels\[lora\]'"):
        make(folders["opt"], tune="lora")


@pytest.mark.parametrize("tune", ["frozen", "lora", "all"])
def test_checkpoints_hold_the_trained_parts_and_name_the_others(folders, folder, tune, tmp_path):
    if tune == "lora":
        pytest.importorskip("peft")
    model, batch = make(folder, tune=tune).eval(), batch_of(folder)
    reference = ckpt.language_reference(model)
    assert (reference is None) == (tune == "all")
    tensors = ckpt.model_tensors(model, without_language=reference is not None)
    stored = [name for name in tensors if name.startswith("language.")]
    assert all("lora_" in name for name in stored) == (tune != "all")
    path = save(tmp_path, model, tensors, reference)
    other = make(folder, seed=5, tune=tune).eval()
    assert not torch.equal(other(batch)["loss"], model(batch)["loss"])
    ckpt.load_model(other, path)
    assert torch.equal(other(batch)["loss"], model(batch)["loss"])
    if tune == "frozen":
        changed = make(folder)
        torch.nn.init.zeros_(changed.language.get_input_embeddings().weight)
        with pytest.raises(ckpt.CheckpointError, match=f"was trained on the language model {folder} with weights"):
            ckpt.load_model(changed, path)


def save(folder, model, tensors, reference):
    state = {"step": 1, "tower": None, "language": reference, "config": {"model": {}}}
    return ckpt.write_checkpoint(folder, 1, {"model": tensors}, state, keep=1)


@pytest.mark.parametrize("kind, lost", [("opt", "model.decoder.layers.1.fc1.bias"), ("llama", "lm_head.weight")])
def test_a_language_model_whose_files_lack_parameters_is_refused(kind, lost, folders, tmp_path):
    """transformers would fill them with random numbers."""
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    tensors = load_file(folder / "model.safetensors")
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OSError, match=rf"did not give its weights .* lacks 1 parameters of \w+, .*: {lost}\)"):
        load_language_model(LanguageConfig(model=str(folder)))


def test_errors_name_the_bad_argument(folders, tmp_path):
    with pytest.raises(ValueError, match="ModelConfig.language is None"):
        VideoQA(tiny_config())
    with pytest.raises(OSError, match="model is '/nowhere/opt', and there is no such folder; expected a folder that"):
        make("/nowhere/opt")
    with pytest.raises(OSError, match=f"model is '{tmp_path}': its folder did not give its weights .*config.json"):
        make(tmp_path)
    with pytest.raises(ValueError, match="LanguageConfig.dtype is 'bfloat16', expected 'float32'"):
        LanguageConfig(tune="all")
    model, batch = make(folders["opt"]), batch_of(folders["opt"])
    with pytest.raises(ValueError, match="3 prompts for 2 videos"):
        model(batch | {"video": batch["video"][:2]})
    long = {name: batch[name].repeat(1, 5) for name in ("input_ids", "attention_mask", "labels")}
    with pytest.raises(ValueError, match="4 queries, .* expected at most the language model's 64"):
        model(batch | long)
    queries, _ = model.encode_video(batch["video"])
    with pytest.raises(ValueError, match="50 tokens of an answer"):
        model.answer(queries, batch["input_ids"], batch["attention_mask"], end=2, max_tokens=50)


def test_the_small_model_has_the_configs_sizes():
    config = LanguageConfig(model="opt", hidden=16, heads=2, layers=3, vocab_size=40, tune="all", dtype="float32")
    model = make("opt", **{name: getattr(config, name) for name in ("hidden", "heads", "layers", "vocab_size", "tune")})
    assert model.language.config.num_hidden_layers == 3
    assert model.language.get_input_embeddings().weight.shape == (40, 16)
    assert ckpt.language_reference(model) is None
    assert Path("opt").exists() is False  # the model is created and not read from a folder
