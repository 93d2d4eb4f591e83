"""The packages of stgt import one way only, and no import is hidden to break a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module may import those of its own layer and of the layers before it.
LAYERS = (
    "base",
    "weights",
    "data",
    "models",
    "tasks",
    "runs",
    "evaluation",
    "search",
    "figures",
    "training",
    "finsta",
    "paper",
    "cli",
)
# Modules of the top level that use the whole package; all others are its base.
TOP = {
    "__main__": "cli",
    "convert": "runs",
    "failures": "cli",
    "hub": "runs",
    "retriever": "runs",
    "checkpoint": "weights",
}
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(file.read_text("utf-8"))
    for file in sorted((ROOT / "stgt").rglob("*.py"))
}


def layer(module: str) -> int:
    name = (module.split(".") + ["base"])[1]
    return LAYERS.index(TOP.get(name, name if name in LAYERS else "base"))


def imports(tree: ast.AST) -> set[str]:
    """The modules of stgt that some code imports, wherever the import stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    up = {other for other in imports(MODULES[module]) - {module} if layer(other) > layer(module)}
    # `stgt.load` and `stgt.Index` import them when they are used, so that `import stgt` is quick.
    allowed = {"stgt": {"stgt.retriever", "stgt.search.index"}}
    assert up <= allowed.get(module, set())


def test_there_is_no_circle():
    graph = {module: imports(tree) - {module} for module, tree in MODULES.items()}
    graph["stgt"] = set()  # Every module of the package imports it first.
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith(("stgt.cli", "stgt.__main__"))])
def test_no_import_is_hidden_in_a_function(module):
    """Commands import late, so that help is quick; other modules import packages of their own at the top.

    `import stgt` and configurations are quick as well: they import what is slow when it is asked for, and a model
    without a tower does not import timm. A study of Finsta
    imports the parser, which needs the extra [finsta], for the row that parses texts alone. Manifests need the extra
    [scale] when they are opened or joined.
    """
    functions = (node for node in ast.walk(MODULES[module]) if isinstance(node, ast.FunctionDef))
    hidden = {name for function in functions for name in imports(function)}
    quick = {
        "stgt": {"stgt.retriever", "stgt.search.index"},
        "stgt.vision_config": {"stgt.open_clip_towers"},
        "stgt.models.vision": {"stgt.models.tower_layers"},
    }
    optional = {
        "stgt.finsta.evaluation.ablation.graphs": {"stgt.finsta.graphs.text.parser"},
        "stgt.data.manifest.cache": {"stgt.data.manifest.columns"},
        "stgt.data.merge": {"stgt.data.manifest.join"},
    }
    assert hidden <= quick.get(module, set()) | optional.get(module, set())
