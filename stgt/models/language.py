"""Causal language models from transformers: frozen, with LoRA, or fully trained.

transformers is slow to import, so it is imported when a model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stgt.config import LanguageConfig
from stgt.data.prompts import language_errors
from stgt.models.bert import initial_std
from stgt.weights.whole import load_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_language_model(config: LanguageConfig) -> PreTrainedModel:
    """The language model of a configuration. Those parameters have gradients that `config.tune` selects.

    Raises OSError if the name or folder has no model, and ValueError for LoRA without peft.
    """
    from transformers import GenerationConfig

    model = _small_opt(config) if config.model == "opt" else _pretrained(config)
    # The model's own settings for generation, such as sampling, are meant for free text and not for short answers.
    model.generation_config = GenerationConfig()
    model.requires_grad_(config.tune == "all")
    if config.tune == "lora":
        _add_lora(model, config.lora_rank)
    return model


def _pretrained(config: LanguageConfig) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    with language_errors(config.model, "weights"):
        return load_whole(AutoModelForCausalLM, config.model, dtype=getattr(torch, config.dtype))


def _small_opt(config: LanguageConfig) -> PreTrainedModel:
    """A randomly initialised OPT with the config's sizes and without dropout."""
    from transformers import OPTConfig, OPTForCausalLM

    sizes = OPTConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden,
        word_embed_proj_dim=config.hidden,
        ffn_dim=4 * config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.max_positions,
        init_std=initial_std(config.hidden),
        dropout=0.0,
    )
    return OPTForCausalLM(sizes).to(getattr(torch, config.dtype))


def _add_lora(model: PreTrainedModel, rank: int) -> None:
    """Add trained low-rank matrices to every linear layer except the output layer."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("LanguageConfig.tune is 'lora', which needs peft: pip install 'stgt-kernels[lora]'") from None
    adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    inject_adapter_in_model(adapter, model)
    for parameter in model.parameters():
        if parameter.requires_grad:  # half precision would lose AdamW's small steps
            parameter.data = parameter.data.float()
