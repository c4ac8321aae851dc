"""`tune run`: run a recipe (the word `run` is optional)."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from torchtune import runs
from torchtune.cli._command import CONFIG_OPTIONS, RECIPE, Command, Form
from torchtune.cli._nodes import watch_launcher
from torchtune.cli._schedulers import has_torchrun_variables, set_rank_variables_from_slurm
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
    """Check and freeze a config, and run its recipe in this process or with torchrun's launcher."""
    _check_name(call)
    recipe, layers = runs.layers_of(call)
    print_notes(layers)
    command = ["tune", *call.argv]
    runs.set_join_timeout(call)
    if call.launch or has_torchrun_variables():
        return _launch(call, recipe, layers, command)
    set_rank_variables_from_slurm(os.environ)
    recipe.run(layers, runs.resume_options(call), command)
    return 0


def _check_name(call: Call) -> None:
    """Check the name of the recipe.

    Raises:
        ConfigError: The name is unknown, or is the name of a config or a command.
    """
    from torchtune.cli import commands

    name = call.recipe
    if not name or name in recipe_names() or name.endswith(".py"):
        return
    if name in config_sources():
        recipe = next(recipe for recipe, names in config_names().items() if name in names)
        raise ConfigError.of_argument(
            name, f"this is a config of {recipe}", f"run tune {recipe} --config {name}"
        )
    if name in commands() and call.launch:
        command = f"tune {name} {' '.join(call.launch)} ..."
        raise ConfigError.of_argument(name, "torchrun options must come after this command", f"run {command}")
    pointer = runs.alternative_for(name)
    if pointer:
        raise ConfigError.of_argument(name, "not a recipe or command", ": ".join(pointer))
    kind = "recipe" if nearest(name, recipe_names()) else "recipe or command"
    raise unknown_name(kind, name, [*recipe_names(), *commands()])


def show_help(call: Call) -> int:
    """Print a recipe's fields, with their values in the config if there is one on the command line."""
    _check_name(call)
    recipe = runs.load_recipe(call.recipe)
    layers = recipe.layers(call.config, call.overrides, call.suggest)
    prog = f"tune {call.recipe}" + (f" --config {call.config}" if call.config else "")
    doc = (sys.modules[recipe.main.__module__].__doc__ or recipe.main.__doc__ or "").strip()
    configs = config_names().get(call.recipe, ())
    config_list = [f"configs: {', '.join(configs)}"] if configs else []
    launch = f"torchrun options, such as {LAUNCH_OPTIONS[0].names[0]} 2, come before the recipe."
    runs.print_help(layers, prog, "\n\n".join([doc, *config_list, launch]))
    if call.config is not None:
        print_notes(layers)
        _check_set_fields(layers, f"the config of {recipe.name}")
    return 0


def _check_set_fields(layers: "model.Layers", title: str) -> None:
    """Check a config, but ignore required fields without a value, which the help shows as required.

    Raises:
        ConfigError: The config has other mistakes.
    """
    try:
        layers.build(title)
    except ConfigError as error:
        mistakes = [mistake for mistake in error.mistakes if mistake.kind != "missing"]
        if mistakes:
            raise ConfigError(mistakes, title) from error


def count_ranks(options: Sequence[str]) -> int:
    """Return the number of ranks that torchrun would start with these options on the maximum number of nodes.

    Raises:
        ConfigError: An option is unknown or has an invalid value.
    """
    _, max_nodes, per_node = _launch_sizes(options)
    return max_nodes * per_node


def count_nodes(options: Sequence[str]) -> int:
    """Return the number of nodes that torchrun would wait for."""
    return _launch_sizes(options)[0]


def _launch_sizes(options: Sequence[str]) -> tuple[int, int, int]:
    """Return the minimum and maximum number of nodes in torchrun's options, and the number of ranks per node."""
    if not options and not has_torchrun_variables():
        return 1, 1, 1
    from torch.distributed.run import config_from_args, get_args_parser

    def reject(message: str) -> NoReturn:
        raise ValueError(message)

    parser = get_args_parser()
    parser.error = reject  # type: ignore[method-assign]  # argparse would print its usage and exit
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # otherwise, torchrun sets it and prints a warning
    try:
        launch, *_ = config_from_args(parser.parse_args([*options, "program"]))
        if launch.nproc_per_node < 1:
            reject("there must be at least one process")
    except (SystemExit, ValueError, AssertionError) as error:
        advice = "options before the recipe go to torchrun, and options after it go to tune"
        message = str(error) or "torchrun rejects these values"
        raise ConfigError.of_argument(" ".join(options), message, advice) from error
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
    return int(launch.min_nodes), int(launch.max_nodes), int(launch.nproc_per_node)


def _launch(call: Call, recipe: "runs.Recipe[Any]", layers: "model.Layers", command: list[str]) -> int:
    """Check and freeze the config in this process, then let torchrun start ranks that read the frozen file."""
    count_ranks(call.launch)  # raises for invalid options before anything is written
    cfg, frozen = recipe.prepare(layers, runs.resume_options(call), command)
    if frozen is None:
        message = "the recipe has no output_dir, so it cannot run on multiple ranks"
        raise ConfigError.of_argument(" ".join(call.launch), message)
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads_per_rank(cfg, _launch_sizes(call.launch)[2])))
    os.environ.setdefault(
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300"
    )  # the default of 30 s is too short to write a large checkpoint
    # Otherwise, restarted ranks would find the addresses of the previous ranks in the launcher's store, and hang.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ["PYTHONSAFEPATH"] = "1"  # a torch.py in the working folder must not shadow torch in the ranks
    os.environ["TUNE_ALLOW"] = " ".join(sorted(model.current_trust().packages))
    root = os.path.dirname(folder_of("recipes"))  # noqa: PTH120 -- ranks must import the same torchtune
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    import logging

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    if "LOGLEVEL" not in os.environ:  # `_report_failure` replaces the launcher's messages about a failure
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("torch.distributed.elastic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
    files = [arg for file in model.current_trust().files for arg in ("--file", file)]
    try:
        with watch_launcher(call.launch, count_nodes(call.launch)):
            torchrun([*call.launch, "-m", "torchtune.cli._worker", call.recipe, str(frozen.config), *files])
    except SignalException as error:
        sys.stderr.write(f"tune: terminated by {error.sigval.name}\n")
        return 128 + error.sigval
    except ChildFailedError as error:
        return _report_failure(error.failures)
    runs.finish_run(frozen)
    return 0


def _threads_per_rank(cfg: object, local_ranks: int) -> int:
    """Return the number of CPU threads of each rank: torchrun's default of 1, or more if the optimizer runs on the CPU.

    Args:
        cfg: The checked config.
        local_ranks: Number of ranks on this machine, which share its cores if weights are offloaded.
    """
    from torchtune.training import FinetuneConfig

    sharding = cfg.placement.sharding if isinstance(cfg, FinetuneConfig) else None
    if sharding is None or not sharding.cpu_offload:
        return 1
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // local_ranks)


def _report_failure(failures: "dict[int, ProcessFailure]") -> int:
    """Print the rank that failed first and the reason; the other ranks failed as a consequence.

    Returns:
        The exit status.
    """
    import signal

    secondary = {rank for rank, f in failures.items() if f.error_file_data.get("is_secondary")}
    terminated = {
        rank for rank, f in failures.items() if f.exitcode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    }
    first = {rank: f for rank, f in failures.items() if rank not in secondary | terminated}
    first = first or {rank: f for rank, f in failures.items() if rank not in terminated} or failures
    rank, failure = min(first.items(), key=lambda item: (item[1].timestamp, item[0]))
    record = failure.error_file_data
    text, number = str(record.get("message", "")), abs(failure.exitcode) % 128
    if rank in secondary and record.get("summary"):
        sys.stderr.write(f"tune: {record['summary']}\n")
        return 1
    if rank in secondary:
        reason = "lost its connection to another rank, which has exited; see the output of the other nodes"
    elif record.get("summary"):
        reason = f"failed: {record['summary']}"
    elif text not in ("", "<NONE>"):  # torch's placeholder for a missing file
        reason = f"failed\n{text}".rstrip("\n")
    elif not 0 <= failure.exitcode <= 128 and number in list(signal.Signals):
        name = signal.Signals(number).name
        hint = "; the kernel sends this signal when memory runs out" if name == "SIGKILL" else ""
        reason = f"was terminated by {name}{hint}"
    else:
        reason = f"exited with status {failure.exitcode}"
    sys.stderr.write(f"tune: rank {rank} {reason}\n")
    return 2 if failure.exitcode == 2 else 1


COMMAND = Command(
    "run",
    run,
    forms=(Form((RECIPE,), (*CONFIG_OPTIONS, OVERWRITE, EXTEND, ACCEPT_CHANGES, JOIN_TIMEOUT)),),
    launch=LAUNCH_OPTIONS,
    show_recipe_help=show_help,
    description="""\
Checks a config, freezes it (writes it to its output_dir with all default values)
and runs the recipe. The word `run` is optional. To resume an interrupted run,
repeat the same command. torchrun options come before the recipe; all of them are
accepted, not only the ones below. With a recipe, --help lists the fields of its
config.""",
    examples=(
        "tune run lora_finetune --config smollm2_135m_lora",
        "tune lora_finetune --config smollm2_135m_lora optimizer.lr=1e-4 batch_size=4",
        "tune lora_finetune --config smollm2_135m_lora --help",
        "tune --nproc_per_node 2 full_finetune --config smollm2_135m_full",
    ),
)
