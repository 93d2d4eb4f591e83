"""A tiny CLIP of open_clip with random weights in a file, as a user would give it who has no net."""

import json

import torch
from safetensors.torch import save_file

import stgt._torchvision  # noqa: F401  (open_clip imports torchvision)

import open_clip  # isort: skip

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tiny_clip(folder, name="tiny-clip", **vision):
    """Makes the architecture known to open_clip in this process, and writes weights. Returns the name for --model."""
    config = CONFIG | {"vision_cfg": CONFIG["vision_cfg"] | vision}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    save_file(dict(open_clip.create_model(name).state_dict()), folder / f"{name}.safetensors")
    return f"openclip:{name}/{folder / f'{name}.safetensors'}"
