"""One module per question: its docstring asks, ``cases(device, quick)`` lists the comparisons that answer."""

import importlib

QUESTIONS = (
    "graph_construction",
    "attention_forward",
    "attention_forward_backward",
    "graph_layer",
    "training_step",
    "frames",
    "shapes",
    "density",
    "inference",
    "overhead",
    "decoding",
)


def module(question: str):
    """Imported when it is asked: those about the model need more than stgt_kernels does."""
    return importlib.import_module(f"benchmarks.questions.{question}")
