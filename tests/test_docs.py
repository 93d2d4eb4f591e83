"""The pages of docs/ agree with the code: commands, file names, environment variables and snippets."""

import re
import shlex
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from stgt import __main__ as cli
from stgt.cli.train import DESCRIBED
from stgt.recipes import RECIPES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = [
    *(
        [name]
        for name in (
            "evaluate",
            "index",
            "search",
            "serve",
            "caption",
            "ask",
            "visualize",
            "convert",
            "ablate",
            "efficiency",
        )
    ),
    *(["data", name] for name in ("shapes", "convert", "merge", "manifest", "pack", "check", "features")),
    *(["finsta", name] for name in ("graphs", "show", "train", "evaluate", "ablate")),
    *(["train", name] for name in ("quickstart", "finetune_msrvtt_qa")),
]
TAKE_A_RECIPE = {("train",), ("data", "features")}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """The words of every `stgt …` in the page's shell snippets, from the command's name on."""
    lines = (line for block in blocks(page, "sh") for line in block.splitlines())
    calls = (re.search(r"(?:^|/|-m |-- )stgt (.*)", line) for line in lines)
    return [shlex.split(call[1], comments=True) for call in calls if call]


@cache
def help_text(*command: str) -> str:
    """The output of `stgt COMMAND --help`. Fails if there is no such command."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        printed: list[str] = []
        patch.setenv("COLUMNS", "80")  # a wider terminal gets two columns of options
        patch.setattr(sys, "argv", ["stgt", *command, "--help"])
        patch.setattr(sys.stdout, "write", printed.append)
        cli.main()
    assert stop.value.code == 0, f"stgt {' '.join(command)} is no command"
    return "".join(printed)


def parsed(words: list[str]) -> tuple[tuple[str, ...], list[tuple[str, tuple[str, ...]]]]:
    """The command with its subcommands, and each option with the command or subcommand that stands last before it."""
    command: tuple[str, ...] = ()
    options = []
    for word in words:
        if word.startswith("--"):
            options.append((word, command))
        elif not command or command in (("data",), ("finsta",)) or (command in TAKE_A_RECIPE and word in RECIPES):
            command += (word,)
    return command, options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_on_a_page_exists(page):
    for words in commands(page):
        line = f"stgt {' '.join(words)}"
        command, options = parsed(words)
        assert command not in TAKE_A_RECIPE, f"{line}: it names no recipe"
        help_text(*command)
        for option, place in options:
            exists = re.search(rf"{re.escape(option)}(?![\w-])", help_text(*place))
            assert exists, f"{line}: {' '.join(place)} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page):
    named = re.findall(
        r"`((?:benchmarks|csrc|docs|examples|stgt|stgt_kernels|tests)/[\w./-]+)`", page.read_text("utf-8")
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_every_environment_variable_that_the_code_reads_is_documented_and_no_other_of_this_project():
    rows = [line for line in (ROOT / "docs/environment.md").read_text("utf-8").splitlines() if line.startswith("| `")]
    page = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    files = [path for folder in ("stgt", "stgt_kernels", "benchmarks", "csrc") for path in (ROOT / folder).rglob("*")]
    files = [path for path in files if path.suffix in (".py", ".cpp", ".h", ".cu", ".cuh")]
    files += [ROOT / "setup.py", ROOT / "tests/conftest.py"]
    reads = r"""(?:getenv\(|environ(?:\.get\(|\.setdefault\(|\[))["'](\w+)["']|["'](\w+)["'] (?:not )?in os\.environ"""
    found = {name for path in files for names in re.findall(reads, path.read_text("utf-8")) for name in names if name}
    assert found <= page
    assert {name for name in page if name.startswith("STGT_")} <= found


# Snippets on other pages need a trained run or a video. The tests of their commands have these.
@pytest.mark.parametrize(
    "page", ["install.md", "architecture.md", "backends.md", "extending/data_set.md", "extending/recipe.md"]
)
def test_snippets_of_python_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = blocks(ROOT / "docs" / page, "python")
    assert snippets
    scope: dict = {}
    for snippet in snippets:
        if "train(config)" not in snippet:
            exec(compile(snippet, page, "exec"), scope)


# Options of other programs that pages name in their text.
OF_OTHERS = {"--no-build-isolation", "--editable"}


def test_every_option_in_the_text_of_a_page_is_an_option_of_some_command():
    """This test checks the options in sentences. The options in snippets are checked above, for their own command."""
    texts = "".join(help_text(*command) for command in COMMANDS)
    for page in PAGES:
        for option in re.findall(r"`(--[\w.-]+)", page.read_text("utf-8")):
            exists = option in OF_OTHERS or re.search(rf"{re.escape(option)}(?![\w-])", texts)
            assert exists, f"{page}: no command has {option}"


@pytest.mark.parametrize("command", [*COMMANDS, ["train", "vqa_shapes"]], ids=" ".join)
def test_every_option_of_a_command_has_a_description(command):
    text = " ".join(help_text(*command).replace("│", " ").split())
    values = r"(?: (?:\{[^}]*\}|[A-Z|]+|\[[^]]*\]))*"
    bare = re.findall(rf"(--[\w.-]*\w{values}(?:, --[\w.-]*\w{values})*) \((?:default|required)", text)
    assert not bare, f"stgt {' '.join(command)}: options without a description"


@pytest.mark.parametrize("command", [[], ["train"], ["data"], ["finsta"], *COMMANDS], ids=" ".join)
def test_no_line_of_a_help_text_ends_before_the_next_word_has_no_room(command):
    """The lines of a docstring end elsewhere than those of a terminal. They must not show in the help text."""
    lines = [line[2:-2] for line in help_text(*command).splitlines() if line.startswith("│")]
    for line, after in pairwise(lines):
        column = len(after) - len(after.lstrip())
        word, *_ = after.split() or [""]
        continues = line[column : column + 1].strip() and not line[column - 2 : column].strip() and column > 2
        if word and continues and not word.startswith("(default"):
            assert len(line.rstrip()) + 1 + len(word) > len(line), f"{line.strip()}\n{after.strip()}"


def test_descriptions_of_recipes_are_not_indented():
    assert not [name for name, description in DESCRIBED.items() if "\n " in description]
