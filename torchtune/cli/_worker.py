"""One rank of a run: it reads the config that the parent froze, and runs the recipe."""

import sys
from collections.abc import Sequence

from torchtune.cli import guarded
from torchtune.cli._call import load_recipe, read_call
from torchtune.config import trust_folder_of


def main(argv: Sequence[str]) -> int:
    """Run one rank.

    Args:
        argv: The recipe, the frozen file, and `--file F` for each Python file that the user named.
    """
    recipe_name, file, *rest = argv
    for named in rest[1::2]:
        trust_folder_of(named)
    call = read_call([recipe_name, "--config", file])
    recipe = load_recipe(call.recipe)
    recipe.main(recipe.layers(call.config).build(f"the config of {recipe.name}"))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
