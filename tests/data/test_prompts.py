import pytest
import torch
from helpers.language_models import KINDS, save_language_model, simulated_questions
from transformers import PreTrainedTokenizerFast

from stgt.data.prompts import LanguageTokenizer, prompt
from stgt.data.words import IGNORED

ITEMS = [
    {"question": "What colour is the square?", "answer": "red", "path": "a.mp4", "index": 0, "replaced": 1},
    {"question": "how many objects are there?", "answer": " 2 ", "path": "b.mp4", "index": 1, "replaced": 0},
    {"question": "what does the large red star do?", "answer": "moves left", "path": "c", "index": 2, "replaced": 0},
]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    return LanguageTokenizer.from_pretrained(save_language_model(request.param, tmp_path_factory.mktemp("lm")))


def test_the_prompt_is_that_of_the_paper():
    assert prompt('What colour is the "square"?') == "Question: what colour is the square ? Short answer:"
    assert prompt("Who; me?") == "Question: who me? Short answer:"


def test_a_batch_predicts_answers_and_their_ends_alone(tokenizer):
    batch = tokenizer.collate(ITEMS)
    ids, mask, labels = (batch[key] for key in ("input_ids", "attention_mask", "labels"))
    assert ids.shape == mask.shape == labels.shape and ids.dtype == labels.dtype == torch.int64
    assert batch["path"] == ["a.mp4", "b.mp4", "c"] and batch["replaced"] == 1
    assert torch.equal(labels.flatten()[batch["predicted"]], labels[labels != IGNORED])
    for row, item in enumerate(ITEMS):
        answer = labels[row][labels[row] != IGNORED]
        assert tokenizer.decode(answer[None, :-1]) == [item["answer"].strip()]
        assert answer[-1] == tokenizer.eos_token_id
        length = int(mask[row].sum())
        assert mask[row, :length].all() and torch.equal(ids[row, length - len(answer) : length], answer)
        whole = tokenizer.decode(ids[row : row + 1, :length])
        assert whole == [f"{prompt(item['question'])} {item['answer'].strip()}"]


def test_prompts_end_together_and_begin_as_in_training(tokenizer):
    ids, mask = tokenizer.encode_prompts([item["question"] for item in ITEMS])
    assert mask[:, -1].all() and (mask.diff(dim=1) >= 0).all() and (mask.sum(1) < ids.shape[1]).any()
    trained = tokenizer.collate(ITEMS)["input_ids"]
    for row in range(3):
        text = ids[row][mask[row] == 1]
        assert torch.equal(trained[row, : len(text)], text)
    assert len(set(ids[mask == 1].tolist()) & {tokenizer.eos_token_id}) <= 1


def test_the_begin_token_is_there_once_whatever_the_tokenizer_adds(tokenizer):
    begin = tokenizer._tokenizer.bos_token_id
    ids, _ = tokenizer.encode("why?")
    assert ids[0] == begin and begin not in ids[1:]


def test_an_answer_is_one_line_without_special_tokens(tokenizer):
    ids = tokenizer._tokenizer(" moves left", add_special_tokens=False).input_ids
    assert tokenizer.decode(torch.tensor([[*ids, tokenizer.eos_token_id]])) == ["moves left"]


def test_padding_is_a_token_that_the_model_has(tokenizer):
    ids, _ = tokenizer.encode_prompts(["why?", "what colour is the square?"])
    assert ids[0, 0] == tokenizer.eos_token_id


def test_a_saved_tokenizer_reads_back_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = LanguageTokenizer.from_pretrained(tmp_path)
    assert again.encode("which shape grows?", "star") == tokenizer.encode("which shape grows?", "star")
    assert again.vocab_size == tokenizer.vocab_size


def test_a_trained_tokenizer_reads_any_text_and_joins_frequent_words():
    tokenizer = LanguageTokenizer.train(simulated_questions(), 400)
    assert tokenizer.vocab_size <= 400
    ids, _ = tokenizer.encode("what colour is the square?")
    assert len(ids) < 15
    ids, length = tokenizer.encode("日本?", "naïve")
    assert tokenizer.decode(torch.tensor([ids[length:]])) == ["naïve"]


def test_training_it_again_gives_the_same_ids():
    """Each process of a run trains its own tokenizer, and the trainer's hash maps have other seeds each time."""
    first, *others = (LanguageTokenizer.train(simulated_questions(), 400)._tokenizer.get_vocab() for _ in range(5))
    assert len(first) > 300 and all(other == first for other in others)


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="tokenizer_size is 100, expected at least 259"):
        LanguageTokenizer.train(simulated_questions(), 100)


def test_a_tokenizer_without_an_end_is_refused(tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="no eos_token, expected one to end answers"):
        LanguageTokenizer(bare)


@pytest.mark.parametrize("name", ["/nowhere/vicuna-7b", "./vicuna", "~/vicuna"])
def test_a_path_that_is_not_there_is_named(name):
    with pytest.raises(
        OSError, match=f"LanguageConfig.model is '{name}', and there is no such folder; expected a folder"
    ):
        LanguageTokenizer.from_pretrained(name)


def test_a_folder_without_a_tokenizer_and_a_name_that_the_hub_lacks_are_named(tmp_path, monkeypatch):
    with pytest.raises(OSError, match=f"LanguageConfig.model is '{tmp_path}': its folder did not give its tokenizer"):
        LanguageTokenizer.from_pretrained(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="'nobody/nothing': no folder here, and the hub did not give its tokenizer"):
        LanguageTokenizer.from_pretrained("nobody/nothing")


def test_the_name_of_a_special_token_in_a_text_is_text(tokenizer):
    """Before, an answer ended at the name of a special token, and the rest of the answer was never learned."""
    special = tokenizer._tokenizer.eos_token
    ids, start = tokenizer.encode(f"what is {special}?", f"the {special} mark")
    assert ids.count(tokenizer.eos_token_id) - (ids[0] == tokenizer.eos_token_id) == 1
    (answer,) = tokenizer.decode(torch.tensor([ids[start:-1]]))
    assert answer.startswith("the ") and answer.endswith("s mark" if "<" not in tokenizer.vocabulary else "</s> mark")
