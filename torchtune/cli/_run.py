"""`tune <recipe> --config X ...`: check, freeze, and run, on one process or through torchrun's launcher."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from torchtune.cli import VERBS, usage
from torchtune.cli._call import Call, adopt_script, layers_of, load_recipe, print_notes, read_call
from torchtune.config import ConfigError
from torchtune.config.model import Layers, current_trust, nearest
from torchtune.runs import Recipe, config_names, config_sources, print_help, recipe_names, unknown_name

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

OPTIONS_OF_A_RUN = """\
--config NAME or FILE, --override key=value ..., --allow PACKAGE (trust its code), --overwrite (start anew in an
output_dir that holds a run: its config, record, metrics, checkpoints and result are removed, nothing else). torchrun's
options, such as --nproc_per_node 2, stand before the recipe."""

# torchrun's options without a value (torch.distributed.run's own parser); all others take one.
TORCHRUN_SWITCHES = frozenset({"--standalone", "--run-path", "--run_path", "--no-python", "--no_python"})


def main(argv: Sequence[str]) -> int:
    """Run a recipe."""
    launch, rest = split_launch_options(argv)
    call = read_call(rest, switches=("--overwrite",))
    if call.recipe and call.recipe not in recipe_names() and not call.recipe.endswith(".py"):
        if call.recipe in config_sources():
            of = next(name for name, names in config_names().items() if call.recipe in names)
            advice = f"write tune {of} --config {call.recipe}"
            raise ConfigError.of_word(call.recipe, f"is a config of {of}", advice)
        if call.recipe in VERBS and launch:
            advice = f"write tune {call.recipe} {' '.join(launch)} ..."
            raise ConfigError.of_word(call.recipe, "is a verb and stands first", advice)
        kind = "recipe" if nearest(call.recipe, recipe_names()) else "recipe or verb"
        raise unknown_name(kind, call.recipe, [*recipe_names(), *VERBS])
    if call.wants_help and not call.recipe:
        sys.stdout.write(usage())
        return 0
    if call.wants_help:
        return show_help(call)
    recipe, layers = layers_of(call)
    print_notes(layers)
    if launch:
        return _launch(launch, call, recipe, layers, ["tune", *argv])
    recipe.run(layers, overwrite="--overwrite" in call.flags, command=["tune", *argv])
    return 0


def split_launch_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words before the recipe, which are torchrun's, from the rest."""
    words = list(argv)
    split = 0
    while split < len(words) and words[split].startswith("-") and words[split] not in ("-h", "--help"):
        split += 1 if "=" in words[split] or words[split] in TORCHRUN_SWITCHES else 2
    return words[:split], words[split:]


def run_script(recipe: Recipe[Any], argv: Sequence[str]) -> int:
    """Run a recipe whose own file is the running script."""
    adopt_script(recipe)
    call = read_call(argv, switches=("--overwrite",))
    if call.recipe:
        raise ConfigError.of_word(call.recipe, "expected --config, key=value or a flag")
    layers = recipe.layers(call.config, call.words)
    layers.mistakes += call.mistakes
    if call.wants_help:
        print_help(layers, recipe.name, recipe.__doc__ or "")
        return 0
    print_notes(layers)
    recipe.run(layers, overwrite="--overwrite" in call.flags, command=[*sys.argv])
    return 0


def show_help(call: Call) -> int:
    """Print a recipe's fields, with the values of a config if one is named."""
    recipe = load_recipe(call.recipe)
    layers = recipe.layers(call.config, call.words)
    prog = f"tune {call.recipe}" + (f" --config {call.config}" if call.config else "")
    about = (sys.modules[recipe.main.__module__].__doc__ or recipe.main.__doc__ or "").strip()
    configs = config_names().get(call.recipe, ())
    listed = [f"configs: {', '.join(configs)}"] if configs else []
    print_help(layers, prog, "\n\n".join([about, *listed, OPTIONS_OF_A_RUN]))
    if call.config is not None:
        print_notes(layers)
        layers.build(f"the config of {recipe.name}")
    return 0


def ranks_of(options: list[str]) -> int:
    """Check torchrun's options, and return how many processes they start, of several nodes at most.

    Raises:
        ConfigError: One is unknown or has a value that makes no sense; or it is no option of torchrun's.
    """
    if not options:
        return 1
    from torch.distributed.run import config_from_args, get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ValueError(message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # argparse would print its usage and exit
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun would say that it sets this
    try:
        launch, *_ = config_from_args(parser.parse_args([*options, "program"]))
        if launch.nproc_per_node < 1:
            refuse("there must be at least one process")
    except (SystemExit, ValueError, AssertionError) as error:
        advice = "what stands before the recipe is torchrun's, all else behind it"
        message = str(error) or "torchrun refuses these values"
        raise ConfigError.of_word(" ".join(options), message, advice) from error
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
    return int(launch.nproc_per_node) * int(launch.max_nodes)


def _launch(options: list[str], call: Call, recipe: Recipe[Any], layers: Layers, command: list[str]) -> int:
    """Check and freeze here, then let torchrun start ranks that read the frozen file."""
    ranks_of(options)
    _, frozen = recipe.prepare(layers, overwrite="--overwrite" in call.flags, command=command)
    if frozen is None:
        raise ConfigError.of_word(
            " ".join(options), "this recipe has no output_dir, so it runs as one process"
        )
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what torchrun would set, with a banner
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")  # 30 s are too few for a large checkpoint
    # Ranks that are started again would find the addresses of those before them in the launcher's store, and wait.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ["PYTHONSAFEPATH"] = "1"  # a torch.py in the working folder shadows nothing in the ranks
    os.environ["TUNE_ALLOW"] = " ".join(sorted(current_trust().packages))
    root = str(Path(__file__).resolve().parents[2])  # that folder may be how this process found torchtune
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    if "LOGLEVEL" not in os.environ:  # what the launcher logs about a failure, `_tell` says
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("torch.distributed.elastic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
    files = [word for file in current_trust().files for word in ("--file", file)]
    try:
        torchrun([*options, "-m", "torchtune.cli._worker", call.recipe, str(frozen.config), *files])
    except SignalException as error:
        sys.stderr.write(f"tune: ended by {error.sigval.name}\n")
        return 128 + error.sigval
    except ChildFailedError as error:
        return _tell(error.failures)
    frozen.finish()
    return 0


def _tell(failures: "dict[int, ProcessFailure]") -> int:
    """Say in one message which rank failed first, and why; the others failed for want of it.

    Returns:
        The exit status.
    """
    echoes = {rank for rank, f in failures.items() if f.error_file_data.get("is_echo")}
    asked = {rank for rank, f in failures.items() if f.exitcode in (-signal.SIGTERM, 128 + signal.SIGTERM)}
    first = {rank: f for rank, f in failures.items() if rank not in echoes | asked}
    first = first or {rank: f for rank, f in failures.items() if rank not in asked} or failures
    rank, failure = min(first.items(), key=lambda item: (item[1].timestamp, item[0]))
    record = failure.error_file_data
    text = str(record.get("message", ""))
    if rank in echoes:
        why = "lost its connection to another rank, which has ended; see what the other nodes say"
    elif record.get("sentence"):
        why = record["sentence"]
    elif text not in ("", "<NONE>"):  # torch's word for no file
        why = f"failed\n{text}".rstrip("\n")
    elif (failure.exitcode < 0 or failure.exitcode > 128) and abs(failure.exitcode) % 128 in list(
        signal.Signals
    ):
        name = signal.Signals(abs(failure.exitcode) % 128).name
        hint = "; the kernel does so when memory is short" if name == "SIGKILL" else ""
        why = f"was ended by {name}{hint}"
    else:
        why = f"ended with status {failure.exitcode}"
    sys.stderr.write(f"tune: rank {rank}: {why}\n")
    return 2 if failure.exitcode == 2 else 1
