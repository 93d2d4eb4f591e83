"""Writes tiny random language models in the hub's format, with tokenizers fitted to simulated questions."""

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import stgt._torchvision  # noqa: F401  (before transformers)
from stgt.data.entries import Question
from stgt.data.prompts import LanguageTokenizer, prompt
from stgt.data.shapes.language import questions
from stgt.data.shapes.scene import draw_scene

from transformers import (  # isort: skip
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

KINDS = ("opt", "llama")


def simulated_questions(scenes=60):
    rng = np.random.default_rng(0)
    found = [pair for _ in range(scenes) for pair in questions(draw_scene(rng), rng)]
    return [Question("clip.mp4", question, answer, number) for number, (question, answer) in enumerate(found)]


def save_language_model(kind, folder, width=32):
    """Write a random model and its tokenizer.

    Llama's are like Vicuna: sampling by default, and a padding token without an embedding in the model.
    """
    torch.manual_seed(0)
    if kind == "opt":
        tokenizer = LanguageTokenizer.train(simulated_questions(), 300)._tokenizer
        sizes = dict(word_embed_proj_dim=width, ffn_dim=2 * width)
        model = OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **sizes, **common(width)))
    else:
        tokenizer = metaspace_tokenizer()
        ends = dict(bos_token_id=1, eos_token_id=2, pad_token_id=None)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), intermediate_size=48, **ends, **common(width)))
        model.generation_config = GenerationConfig(do_sample=True, temperature=0.9, top_p=0.6, repetition_penalty=1.5)
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # with the initial weights of transformers only the last word would matter
            torch.nn.init.normal_(parameter, std=0.3 if "embed" in name else 0.25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def common(width):
    return dict(hidden_size=width, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64)


def metaspace_tokenizer():
    """BPE whose words, also the first one, begin with their space, as in Llama's SentencePiece."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    bpe.train_from_iterator((f"{prompt(q.question)} {q.answer}" for q in simulated_questions()), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
