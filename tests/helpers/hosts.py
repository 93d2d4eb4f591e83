"""Tiny random hosts for Finsta: our own model and those of transformers, with tokenizers fitted to a few texts."""

import json

import tokenizers
import torch
from tokenizers import models, pre_tokenizers, trainers

import stgt._torchvision  # noqa: F401  (before transformers)
from helpers.tiny import tiny_model
from stgt.data.text import Tokenizer
from stgt.finsta.hosts.blip2 import BLIP2Host
from stgt.finsta.hosts.clip import CLIPHost
from stgt.finsta.hosts.stgt import STGTHost
from stgt.finsta.hosts.xclip import XCLIPHost

from transformers import (  # isort: skip
    BertTokenizer,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    XCLIPConfig,
    XCLIPModel,
)

TEXTS = ["A red square (small) is moving left.", "the blue circle grows!", "Then the star turns: it vanishes"]
KINDS = ("stgt", "clip", "xclip", "blip2")
SIZE, FRAMES = 32, 2
TEXT = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
VISION = TEXT | dict(hidden_size=24, image_size=SIZE, patch_size=8)


def clip_tokenizer():
    words = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])
    ends = ["<|startoftext|>", "<|endoftext|>"]
    letters = [letter + end for letter in pre_tokenizers.ByteLevel.alphabet() for end in ("", "</w>")]
    trainer = trainers.BpeTrainer(
        vocab_size=560, special_tokens=[*ends, *sorted(letters)], end_of_word_suffix="</w>", show_progress=False
    )
    words.train_from_iterator([text.lower() for text in TEXTS], trainer)
    model = json.loads(words.to_str())["model"]
    return CLIPTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def text_sizes(tokenizer):
    ends = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return (
        TEXT | ends | dict(vocab_size=len(tokenizer), max_position_embeddings=24, pad_token_id=tokenizer.pad_token_id)
    )


def make_clip():
    tokenizer = clip_tokenizer()
    config = CLIPConfig(text_config=text_sizes(tokenizer), vision_config=VISION, projection_dim=8)
    return CLIPModel(config), tokenizer


def make_xclip():
    tokenizer = clip_tokenizer()
    vision = VISION | dict(num_frames=FRAMES, mit_hidden_size=8, mit_intermediate_size=16, mit_num_attention_heads=2)
    config = XCLIPConfig(
        text_config=text_sizes(tokenizer), vision_config=vision, projection_dim=8, prompt_num_attention_heads=2
    )
    return XCLIPModel(config), tokenizer


def make_blip2():
    pieces = Tokenizer.train(TEXTS, 120)._vocabulary
    tokenizer = BertTokenizer(vocab=pieces)
    qformer = TEXT | dict(
        vocab_size=len(pieces), max_position_embeddings=24, encoder_hidden_size=24, use_qformer_text_input=True,
        cross_attention_frequency=1,
    )  # fmt: skip
    text = dict(model_type="opt", hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=8)
    config = Blip2Config(
        vision_config=VISION, qformer_config=qformer, text_config=text, num_query_tokens=3, image_text_hidden_size=8
    )
    model = Blip2ForImageTextRetrieval(config)
    torch.nn.init.normal_(model.query_tokens)
    return model, tokenizer


def make_stgt():
    tokenizer = Tokenizer.train(TEXTS, 80)
    sizes = dict(vocab_size=tokenizer.vocab_size, bos_token_id=tokenizer.bos_token_id, max_positions=24)
    return tiny_model(qformer=sizes | dict(max_text_length=24)), tokenizer


MODELS = {"clip": CLIPModel, "xclip": XCLIPModel, "blip2": Blip2ForImageTextRetrieval}
HOSTS = {"stgt": STGTHost, "clip": CLIPHost, "xclip": XCLIPHost, "blip2": BLIP2Host}
MAKE = {"stgt": make_stgt, "clip": make_clip, "xclip": make_xclip, "blip2": make_blip2}


def tiny_host(kind):
    """A random host in evaluation mode."""
    torch.manual_seed(0)
    model, tokenizer = MAKE[kind]()
    return HOSTS[kind](model.eval(), tokenizer)


def clips():
    """Videos, texts, times and numbers of videos, for a host."""
    generator = torch.Generator().manual_seed(1)
    videos = torch.randn(len(TEXTS), FRAMES, 3, SIZE, SIZE, generator=generator)
    times = torch.arange(FRAMES, dtype=torch.float64).expand(len(TEXTS), -1)
    return videos, TEXTS, times, torch.arange(len(TEXTS))


def save_host(kind, folder):
    """Write a tiny model of transformers with its tokenizer and image processor."""
    host = tiny_host(kind)
    size = dict(height=SIZE, width=SIZE)
    for part in (host.model, host.tokenizer, CLIPImageProcessor(size=size, image_mean=[0.5, 0.4, 0.3])):
        part.save_pretrained(folder)
    return folder
