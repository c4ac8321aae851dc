"""Each command and option is declared once; parsing, help, completion and hints all use the declaration."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_completion import run_in_shell
from tests.tune import Tune
from torchtune import cli
from torchtune.cli import commands, load_command
from torchtune.cli._complete import candidates
from torchtune.runs.command_line import (
    HELP,
    LAUNCH_OPTIONS,
    OVERRIDE,
    RUN_OPTIONS,
    Option,
    names_of,
    parse_command_line,
)

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {name: load_command(name) for name in commands()}
LORA = ["lora_finetune", "--config", "smollm2_135m_lora"]

GREET = '''\
"""`tune greet`: greet somebody."""

import sys

from torchtune.cli._command import Argument, Command, Form
from torchtune.runs.command_line import Call, Option

LOUD = Option("--loud", "greet in capitals")
LANGUAGE = Option("-l, --language", "the language", "L", choices=("english", "latin"))


def run(call: Call) -> int:
    """Greet."""
    text = {"english": "hello", "latin": "salve"}[call.value(LANGUAGE) or "english"]
    text += f" {call.arguments[0]}"
    sys.stdout.write(f"{text.upper() if call.has(LOUD) else text}\\\\n")
    return 0


COMMAND = Command(
    "greet",
    run,
    forms=(Form((Argument("<name>", ("ann", "bob")),), (LOUD, LANGUAGE)),),
    expects="a name",
    description="Greets somebody.",
    examples=("tune greet ann --loud",),
)
'''.replace("\\\\n", "\\n")


@pytest.fixture
def greet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add a command to `tune`: one file in an additional folder of the package."""
    (tmp_path / "_greet.py").write_text(GREET)
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "torchtune.cli._greet", raising=False)
    monkeypatch.delattr(cli, "_greet", raising=False)
    return tmp_path


def arguments_for(option: Option, name: str) -> list[str]:
    """Return the arguments that set an option."""
    value = "lr=3" if option is OVERRIDE else "3"
    return [name, *(option.choices or (value,))[:1]] if option.value else [name]


def test_a_command_is_defined_in_one_file(greet: Path, tune: Tune) -> None:
    assert "  greet       greet somebody\n" in tune("--help").out
    page = tune("greet", "--help").out
    assert page.startswith("usage: tune greet <name> [--loud] [-l english|latin]\n\nGreets somebody.\n\n")
    assert "  -l, --language L  the language\n" in page
    assert tune("help", "greet").out == page
    assert tune("greet", "bob", "--loud", "--language=latin").out == "SALVE BOB\n"
    assert tune("greet", "-l", "english", "bob").out == "hello bob\n"
    for wrong, part in {
        "bob -l french": "-l: invalid value 'french'; choose one of english, latin",
        "bob -l": "-l: expected a value",
        "bob -l latin --language latin": "--language latin: --language is given twice",
        "bob --lou": "--lou: unknown option; did you mean '--loud'?",
        "bob --loud=yes": "--loud=yes: --loud does not accept a value",
        "": "tune greet expects a name\nusage: tune greet",
        "ann bob": "tune greet expects a name\nusage: tune greet",
        "ann --rows 3": "--rows: unknown option; --rows is an option of tune data",
    }.items():
        result = tune("greet", *wrong.split())
        assert (result.status, part in result.err) == (2, True), result.err


def test_options_of_a_new_command_are_suggested_by_other_commands(greet: Path, tune: Tune) -> None:
    assert "--loud: unknown option; --loud is an option of tune greet" in tune("ls", "--loud").err
    result = tune("show", *LORA, "--language", "latin")
    assert "language: unknown field 'language'; --language is an option of tune greet" in result.err
    assert "--loud is an option of tune greet" in tune(*LORA, "--loud").err


COMPLETION_SCRIPTS = {
    "bash": "source <(tune completion bash); COMP_LINE={0!r}; COMP_POINT=${{#COMP_LINE}}; _tune;"
    " printf '%s\\n' \"${{COMPREPLY[@]}}\"",
    "zsh": "compdef() {{ :; }}; compadd() {{ print -l -- $@; }}; _files() {{ :; }};"
    " source <(tune completion zsh); LBUFFER={0!r}; _tune",
    "fish": "function __fish_complete_path; end; tune completion fish | source; complete -C {0!r}",
}


@pytest.mark.quick_cases(8)
@pytest.mark.parametrize("shell", COMPLETION_SCRIPTS)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tune gre", ["greet"]),
        ("tune greet b", ["bob"]),
        ("tune greet bob --l", ["--language", "--loud"]),
        ("tune greet bob -l la", ["latin"]),
        ("tune ls --l", []),
    ],
)
def test_a_new_command_has_completion(
    line: str, expected: list[str], shell: str, greet: Path, tune: Tune, tmp_path: Path
) -> None:
    assert tune("__complete", shell, line).out.split() == expected
    program = f"-c 'import torchtune.cli as c; c.__path__.append(\"{greet}\"); c.run()'"
    offered_options = run_in_shell(shell, COMPLETION_SCRIPTS[shell].format(line), tmp_path, program)
    assert [word for word in offered_options if word != "--"] == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_command_name_matches_its_file_and_summary(name: str) -> None:
    command = COMMANDS[name]
    assert command.name == name
    assert sys.modules[command.run.__module__].__name__ == f"torchtune.cli._{name}"
    assert commands()[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_parsing_and_completion_list_the_same_options(name: str) -> None:
    command = COMMANDS[name]
    declared = (*command.launch, *command.options)
    in_examples = "\n".join(f"  {example}" for example in command.examples)
    page = command.help.removesuffix(f"{in_examples}\n")
    assert page != command.help
    on_page = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", page)) - set(names_of((HELP,)))
    offered_options = {word for word in candidates([name, "-"]) if word.startswith("-")} - set(
        names_of((HELP,))
    )
    assert on_page == offered_options == set(names_of(declared))
    for option in declared:
        for spelling in option.names:
            args = arguments_for(option, spelling)
            call = command.read([*args, "recipe"])
            assert call.mistakes == [], args
            assert call.arguments == ["recipe"]
            if option in command.launch:
                assert call.launch == args
            elif spelling == "--override":
                assert call.overrides == args
            else:
                assert (call.overrides, call.has(option)) == ([], True)
                assert list(call.values(option)) == args[1:]
    assert not command.read(["recipe"]).options


UNSUPPORTED_OPTIONS = [
    (name, option)
    for name, command in COMMANDS.items()
    for option in dict.fromkeys(o for other in COMMANDS.values() for o in (*other.options, *other.launch))
    if not set(option.names) & set(names_of((*command.options, *command.launch)))
]


def commands_with_option(spelling: str) -> list[str]:
    """Return the names of the commands that accept an option."""
    return [n for n, other in COMMANDS.items() if spelling in names_of((*other.options, *other.launch))]


@pytest.mark.parametrize(
    ("name", "option"), UNSUPPORTED_OPTIONS, ids=lambda x: x if isinstance(x, str) else x.names[0]
)
def test_parser_reports_an_option_of_another_command_with_that_command(name: str, option: Option) -> None:
    command = COMMANDS[name]
    for spelling in option.names:
        args = arguments_for(option, spelling)
        call = command.read(["recipe", *args])
        assert not call.has(option)
        accepting = ", ".join(f"tune {other}" for other in commands_with_option(spelling))
        hint = f"{spelling} is an option of {accepting}"
        if command.launch and option in LAUNCH_OPTIONS:
            hint = f"{spelling} is an option of torchrun and comes before the recipe"
        if (
            command.takes_overrides
        ):  # the name may be a config field, so the hint is shown only for unknown fields
            assert call.overrides == args
            assert call.suggest(spelling, "did you mean a field?") == hint
        else:
            assert str(call.mistakes[0]) == f"{spelling}: unknown option; {hint}"


DIFFERENT_MESSAGE = {"--dtype", "--tokenizer", "--log_dir", "--output-dir", "--force"}
"""Options that share a name with a config field, or whose error message suggests another option."""


def test_tune_rejects_an_option_of_another_command(tune: Tune) -> None:
    options = dict.fromkeys(option for name, option in UNSUPPORTED_OPTIONS if name == "show")
    assert len(options) > 15
    for spelling, option in [(s, o) for o in options for s in o.names if s not in DIFFERENT_MESSAGE]:
        result = tune("show", *LORA, *arguments_for(option, spelling))
        assert result.status == 2
        hint = f"{spelling} is an option of tune {commands_with_option(spelling)[0]}"
        assert hint in result.err, result.err
    assert json.loads(tune("show", *LORA, "--dtype", "fp32", "--json").out)["dtype"] == "fp32"


def test_torchrun_options_come_before_the_recipe(tune: Tune) -> None:
    for args in (
        "--nproc_per_node 2",
        "--nproc_per_node",
        "--nproc-per-node 2",
        "nproc_per_node=2",
        "--standalone",
    ):
        result = tune(*LORA, *args.split())
        hint = "is an option of torchrun and comes before the recipe"
        assert (result.status, hint in result.err) == (2, True), args


def test_torchrun_options_match_the_installed_torch() -> None:
    from torch.distributed.run import get_args_parser

    actions = [action for action in get_args_parser()._actions if action.option_strings]
    spellings = {name: action.nargs != 0 for action in actions for name in action.option_strings}
    for option in LAUNCH_OPTIONS:
        assert [spellings[name] for name in option.names] == [bool(option.value)] * len(option.names)
    for name, has_value in spellings.items():
        if name not in names_of((HELP,)):
            args = [name, "3"] if has_value else [name]
            call = parse_command_line([*args, "recipe", "x=3"], RUN_OPTIONS, allow_torchrun=True)
            assert (call.launch, call.arguments, call.overrides) == (args, ["recipe"], ["x=3"])


def test_option_spellings_are_unambiguous() -> None:
    for command in COMMANDS.values():
        spellings = names_of((*command.options, *command.launch, HELP))
        assert len(spellings) == len(set(spellings)), command.name
    pairs = itertools.product((o for v in COMMANDS.values() for o in v.options), LAUNCH_OPTIONS)
    assert not [pair for pair in pairs if set(pair[0].names) & set(pair[1].names)]


def test_arguments_may_be_given_in_any_order() -> None:
    args = ["recipe", "--config", "c", "--allow", "a", "--overwrite", "x.y=3", "--lr=1"]
    call = parse_command_line(args, RUN_OPTIONS)
    for start in range(len(args)):
        if args[start - 1] not in ("--config", "--allow"):
            rotated = parse_command_line([*args[start:], *args[:start]], RUN_OPTIONS)
            assert rotated.options == call.options
            assert set(rotated.overrides) == set(call.overrides)
    assert (call.recipe, call.config, call.allowed) == ("recipe", "c", ["a"])


def test_option_completion_imports_no_heavy_packages() -> None:
    heavy = ["torch", "tyro", "datasets", "transformers", "numpy", "cattrs"]
    code = f"""
import sys
from torchtune.cli._complete import candidates
for name in {[*COMMANDS]}: list(candidates([name, "-"]))
print([m for m in {heavy} if m in sys.modules])"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout == "[]\n"


SCRIPT = """\
import sys
from attrs import define
from torchtune import config


@define(kw_only=True)
class UserConfig:
    steps: int = 3
    name: str = "x"


@config.parse
def main(cfg: UserConfig) -> None:
    print(cfg.steps, cfg.name, [m for m in sys.modules if m.startswith("torchtune.cli")])


main()
"""


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    ("args", "status", "part"),
    [
        (["--steps", "4", "name=y"], 0, "4 y []"),
        (["--override", "steps=4", "--name=y"], 0, "4 y []"),
        (["--steps", "four"], 2, "--override steps=four: steps: expected an int, got 'four'"),
        (["4"], 2, "4: expected key=value"),
        (["--stepz", "4"], 2, "unknown field 'stepz'; did you mean 'steps'?"),
        (["--overwrit"], 2, "did you mean '--overwrite'?"),
        (["--config"], 2, "--config: expected a value"),
        (["--help"], 0, "--steps INT"),
    ],
)
def test_a_recipe_run_as_a_script_parses_its_arguments_without_the_cli(
    args: list[str], status: int, part: str, tmp_path: Path
) -> None:
    (tmp_path / "user_script.py").write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, "user_script.py", *args],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (result.returncode, "Traceback" in result.stderr) == (status, False), result.stderr
    assert part in result.stdout + result.stderr
