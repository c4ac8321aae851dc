"""`tune completion`: a shell's script that completes verbs, recipes, configs, override keys and their values."""

import sys
from collections.abc import Sequence

from torchtune.cli._schema_files import schema_file
from torchtune.config import recipe_names

HELP = """\
usage: tune completion bash|zsh|fish

Prints a script that lets a shell complete verbs, recipes, configs, override
keys, dotpaths and choices:

  tune completion bash >> ~/.bashrc
  tune completion zsh > ~/.zfunc/_tune        (a folder of $fpath)
  tune completion fish > ~/.config/fish/completions/tune.fish
"""

# The program gets the line up to the cursor, and prints a candidate a line. A candidate that ends in `=` or `.` goes
# on, so no space follows it. Where there is none, the shell completes files.
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


def main(argv: Sequence[str]) -> int:
    """Print a shell's script."""
    if list(argv) in (["-h"], ["--help"]):
        sys.stdout.write(HELP)
        return 0
    if len(argv) != 1 or argv[0] not in SCRIPTS:
        sys.stderr.write(f"tune completion takes a shell\n{HELP}")
        return 2
    for recipe in recipe_names():  # what is completed stands in their schemas
        schema_file(recipe)
    sys.stdout.write(SCRIPTS[argv[0]])
    return 0
