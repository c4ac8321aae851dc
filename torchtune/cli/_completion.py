"""`tune completion`: print a completion script for bash, zsh or fish."""

import sys

from torchtune.cli._command import Argument, Command, Form
from torchtune.cli._schema_files import schema_file
from torchtune.config import ConfigError
from torchtune.runs import recipe_names
from torchtune.runs.command_line import Call

# `tune __complete` receives the line up to the cursor and prints one candidate per line. The shell adds no space after
# a candidate that ends in `=` or `.`, because it is unfinished. Without candidates, the shell completes file names.
BASH = """\
_tune() {
    local IFS=$'\\n'
    COMPREPLY=($(tune __complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        compopt -o default 2>/dev/null
    elif [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _tune tune
"""

ZSH = """\
#compdef tune
_tune() {
    local -a found open
    found=("${(@f)$(tune __complete zsh "${LBUFFER}" 2>/dev/null)}")
    found=(${found:#})
    open=(${(M)found:#*[=.]})
    found=(${found:#*[=.]})
    (( ${#open} )) && compadd -S '' -- $open
    (( ${#found} )) && compadd -- $found
    (( ${#open} + ${#found} )) || _files
}
if [[ $funcstack[1] == _tune ]]; then _tune "$@"; else compdef _tune tune; fi
"""

FISH = """\
function __tune_complete
    set -l found (tune __complete fish (commandline -cp) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c tune -f -a '(__tune_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def run(call: Call) -> int:
    """Print the completion script of a shell."""
    shell = call.arguments[0]
    if shell not in SCRIPTS:
        raise ConfigError.of_argument(shell, f"expected one of {', '.join(SCRIPTS)}")
    for recipe in recipe_names():  # completion reads the schemas, so build them now
        schema_file(recipe)
    sys.stdout.write(SCRIPTS[shell])
    return 0


COMMAND = Command(
    "completion",
    run,
    forms=(Form((Argument("|".join(SCRIPTS), tuple(SCRIPTS)),)),),
    expects="the name of a shell",
    description="""\
Prints a shell completion script for commands, recipes, configs, overrides,
component dotpaths and option values. The commands below install it.""",
    examples=(
        "tune completion bash >> ~/.bashrc",
        "tune completion zsh > ~/.zfunc/_tune        (or any other folder in $fpath)",
        "tune completion fish > ~/.config/fish/completions/tune.fish",
    ),
)
