"""`tune run`: run a recipe (the word may be left out)."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from torchtune import runs
from torchtune.cli._nodes import speaking_of_nodes
from torchtune.cli._verb import CONFIG_OPTIONS, RECIPE, Form, Verb
from torchtune.config import ConfigError, model
from torchtune.config.model import nearest
from torchtune.runs import config_names, config_sources, folder_of, recipe_names, unknown_name
from torchtune.runs.command_line import (
    ACCEPT_CHANGES,
    EXTEND,
    JOIN_TIMEOUT,
    LAUNCH_OPTIONS,
    OVERWRITE,
    Call,
)
from torchtune.runs.console import print_notes

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def run(call: Call) -> int:
    """Check, freeze, and run a recipe, on one process or through torchrun's launcher."""
    _check_name(call)
    recipe, layers = runs.layers_of(call)
    print_notes(layers)
    command = ["tune", *call.words]
    runs.set_join_timeout(call)
    if call.launch:
        return _launch(call, recipe, layers, command)
    recipe.run(layers, runs.resume_options(call), command)
    return 0


def _check_name(call: Call) -> None:
    """Check the name of the recipe.

    Raises:
        ConfigError: It is that of a config, of a verb, or of nothing.
    """
    from torchtune.cli import verbs

    name = call.recipe
    if not name or name in recipe_names() or name.endswith(".py"):
        return
    if name in config_sources():
        recipe = next(recipe for recipe, names in config_names().items() if name in names)
        raise ConfigError.of_word(name, f"is a config of {recipe}", f"write tune {recipe} --config {name}")
    if name in verbs() and call.launch:
        command = f"tune {name} {' '.join(call.launch)} ..."
        raise ConfigError.of_word(name, "is a verb and stands first", f"write {command}")
    pointer = runs.pointer_for(name)
    if pointer:
        raise ConfigError.of_word(name, "is no recipe or verb", ": ".join(pointer))
    kind = "recipe" if nearest(name, recipe_names()) else "recipe or verb"
    raise unknown_name(kind, name, [*recipe_names(), *verbs()])


def show_help(call: Call) -> int:
    """Print a recipe's fields, with the values of a config if one is named."""
    _check_name(call)
    recipe = runs.load_recipe(call.recipe)
    layers = recipe.layers(call.config, call.overrides, call.suggest)
    prog = f"tune {call.recipe}" + (f" --config {call.config}" if call.config else "")
    about = (sys.modules[recipe.main.__module__].__doc__ or recipe.main.__doc__ or "").strip()
    configs = config_names().get(call.recipe, ())
    listed = [f"configs: {', '.join(configs)}"] if configs else []
    launch = f"torchrun's options, such as {LAUNCH_OPTIONS[0].names[0]} 2, stand before the recipe."
    runs.print_help(layers, prog, "\n\n".join([about, *listed, launch]))
    if call.config is not None:
        print_notes(layers)
        _check_what_is_set(layers, f"the config of {recipe.name}")
    return 0


def _check_what_is_set(layers: "model.Layers", of: str) -> None:
    """Check a config apart from the fields that are still to be set, which the help shows as required.

    Raises:
        ConfigError: With every other mistake.
    """
    try:
        layers.build(of)
    except ConfigError as error:
        mistakes = [mistake for mistake in error.mistakes if mistake.kind != "missing"]
        if mistakes:
            raise ConfigError(mistakes, of) from error


def ranks_of(options: Sequence[str]) -> int:
    """Return how many processes torchrun's options start, on as many nodes as they allow.

    Raises:
        ConfigError: One is unknown or has a value that makes no sense.
    """
    _, max_nodes, per_node = _launch_sizes(options)
    return max_nodes * per_node


def nodes_of(options: Sequence[str]) -> int:
    """Return how many nodes a launch waits for."""
    return _launch_sizes(options)[0]


def _launch_sizes(options: Sequence[str]) -> tuple[int, int, int]:
    """Return the least and the most nodes of torchrun's options, and the processes of each."""
    if not options:
        return 1, 1, 1
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
        advice = "options before the recipe are torchrun's, those after it are ours"
        message = str(error) or "torchrun refuses these values"
        raise ConfigError.of_word(" ".join(options), message, advice) from error
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
    return int(launch.min_nodes), int(launch.max_nodes), int(launch.nproc_per_node)


def _launch(call: Call, recipe: "runs.Recipe[Any]", layers: "model.Layers", command: list[str]) -> int:
    """Check and freeze here, then let torchrun start ranks that read the frozen file."""
    ranks_of(call.launch)  # so that nothing is written where they are wrong
    _, frozen = recipe.prepare(layers, runs.resume_options(call), command)
    if frozen is None:
        message = "this recipe has no output_dir, so it runs as one process"
        raise ConfigError.of_word(" ".join(call.launch), message)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what torchrun would set, with a banner
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")  # 30 s are too few for a large checkpoint
    # Ranks that are started again would find the addresses of those before them in the launcher's store, and wait.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ["PYTHONSAFEPATH"] = "1"  # a torch.py in the working folder shadows nothing in the ranks
    os.environ["TUNE_ALLOW"] = " ".join(sorted(model.current_trust().packages))
    root = os.path.dirname(folder_of("recipes"))  # noqa: PTH120 -- that folder may be how this process found torchtune
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    import logging

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    if "LOGLEVEL" not in os.environ:  # what the launcher logs about a failure, `_tell` says
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("torch.distributed.elastic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
    files = [word for file in model.current_trust().files for word in ("--file", file)]
    try:
        with speaking_of_nodes(call.launch, nodes_of(call.launch)):
            torchrun([*call.launch, "-m", "torchtune.cli._worker", call.recipe, str(frozen.config), *files])
    except SignalException as error:
        sys.stderr.write(f"tune: ended by {error.sigval.name}\n")
        return 128 + error.sigval
    except ChildFailedError as error:
        return _tell(error.failures)
    runs.end_run(frozen)
    return 0


def _tell(failures: "dict[int, ProcessFailure]") -> int:
    """Say in one message which rank failed first, and why; the others failed for want of it.

    Returns:
        The exit status.
    """
    import signal

    echoes = {rank for rank, f in failures.items() if f.error_file_data.get("is_echo")}
    asked = {rank for rank, f in failures.items() if f.exitcode in (-signal.SIGTERM, 128 + signal.SIGTERM)}
    first = {rank: f for rank, f in failures.items() if rank not in echoes | asked}
    first = first or {rank: f for rank, f in failures.items() if rank not in asked} or failures
    rank, failure = min(first.items(), key=lambda item: (item[1].timestamp, item[0]))
    record = failure.error_file_data
    text, number = str(record.get("message", "")), abs(failure.exitcode) % 128
    if rank in echoes:
        why = "lost its connection to another rank, which has ended; see what the other nodes say"
    elif record.get("sentence"):
        why = record["sentence"]
    elif text not in ("", "<NONE>"):  # torch's word for no file
        why = f"failed\n{text}".rstrip("\n")
    elif not 0 <= failure.exitcode <= 128 and number in list(signal.Signals):
        name = signal.Signals(number).name
        hint = "; the kernel does so when memory is short" if name == "SIGKILL" else ""
        why = f"was ended by {name}{hint}"
    else:
        why = f"ended with status {failure.exitcode}"
    sys.stderr.write(f"tune: rank {rank}: {why}\n")
    return 2 if failure.exitcode == 2 else 1


VERB = Verb(
    "run",
    run,
    forms=(Form((RECIPE,), (*CONFIG_OPTIONS, OVERWRITE, EXTEND, ACCEPT_CHANGES, JOIN_TIMEOUT)),),
    launch=LAUNCH_OPTIONS,
    explain=show_help,
    about="""\
Checks a config, freezes it into its output_dir, and runs a recipe with it; the
word `run` may be left out. The same command again continues a run that was
interrupted. torchrun's options stand before the recipe, its others as well.
With a recipe, --help lists the fields of its config.""",
    examples=(
        "tune run lora_finetune --config smollm2_135m_lora",
        "tune lora_finetune --config smollm2_135m_lora optimizer.lr=1e-4 batch_size=4",
        "tune lora_finetune --config smollm2_135m_lora --help",
        "tune --nproc_per_node 2 full_finetune --config smollm2_135m_full",
    ),
)
