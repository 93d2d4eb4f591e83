"""The report of `stgt info`."""

from stgt_kernels.report import package_version, report

PACKAGES = (
    "transformers",
    "open_clip_torch",
    "timm",
    "tokenizers",
    "torchvision",
    "av",
    "decord",
    "safetensors",
    "peft",
)


def print_info() -> None:
    """Print the report of `python -m stgt_kernels`, and the versions of the packages that stgt uses."""
    print(report())
    print("stgt: " + ", ".join(f"{package} {package_version(package)}" for package in PACKAGES))
