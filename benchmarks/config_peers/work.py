"""The same work for each config engine: load YAML, apply three overrides, build six components, dump YAML."""

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Work = Callable[[], str]
"""A function that does the work once and returns the dumped YAML."""


def write(folder: str) -> None:
    """Write the config in the format of each engine."""
    import yaml

    from benchmarks.config_peers.parts import COMPONENTS, YAML, Config
    from torchtune.config import render

    complete = yaml.safe_load(render(Config())) | YAML
    (Path(folder) / "torchtune.yaml").write_text(yaml.safe_dump(YAML, sort_keys=False))
    (Path(folder) / "complete.yaml").write_text(yaml.safe_dump(complete, sort_keys=False))
    jsonargparse_config = {
        key: {"class_path": v["_component_"], "init_args": {k: x for k, x in v.items() if k != "_component_"}}
        if key in COMPONENTS
        else v
        for key, v in _without_references(complete).items()
    }
    (Path(folder) / "jsonargparse.yaml").write_text(yaml.safe_dump(jsonargparse_config, sort_keys=False))
    flat = {
        k: {x: y for x, y in v.items() if x != "_component_"} if k in COMPONENTS else v
        for k, v in _without_references(complete).items()
    }
    (Path(folder) / "draccus.yaml").write_text(yaml.safe_dump(flat, sort_keys=False))


def _without_references(tree: Any) -> Any:
    """Replace references with their values, for engines without references."""
    if isinstance(tree, dict):
        return {k: _without_references(v) for k, v in tree.items()}
    return tree.replace("${output_dir}", "runs/bench") if isinstance(tree, str) else tree


def time_work(engine: str, folder: str, n_runs: int) -> list[float]:
    """Return the CPU time of each run of an engine in this process (seconds).

    Args:
        engine: The name of a function in this module, such as `torchtune_work`.
        folder: The folder that contains the files of `write`.
        n_runs: Number of runs.
    """
    work: Work = getattr(sys.modules[__name__], engine)(folder)
    seconds = []
    for _ in range(n_runs):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return seconds


def torchtune_work(folder: str) -> Work:
    """Return the work with torchtune; the overrides are pairs of field path and text, not a command line."""
    from benchmarks.config_peers.parts import COMPONENTS, OVERRIDES, Config
    from torchtune.config import instantiate, render
    from torchtune.runs import config_layers, override

    def work() -> str:
        layers = config_layers(f"{folder}/torchtune.yaml", Config)
        override(layers, OVERRIDES)
        cfg = layers.build()
        for name in COMPONENTS:
            instantiate(getattr(cfg, name))
        return render(cfg)

    return work


def omegaconf_work(folder: str) -> Work:
    """Return the work with OmegaConf and a minimal `instantiate`."""
    from omegaconf import OmegaConf

    from benchmarks.config_peers.parts import COMPONENTS, OVERRIDES

    dots = [f"{path}={text}" for path, text in OVERRIDES]

    def build(node: Any) -> Any:
        values = OmegaConf.to_container(node, resolve=True)
        assert isinstance(values, dict)
        module, _, name = values.pop("_component_").rpartition(".")
        return getattr(importlib.import_module(module), name)(**values)

    def work() -> str:
        cfg = OmegaConf.merge(OmegaConf.load(f"{folder}/complete.yaml"), OmegaConf.from_dotlist(dots))
        for name in COMPONENTS:
            build(cfg[name])
        return str(OmegaConf.to_yaml(cfg))

    return work


def _jsonargparse_parser() -> Any:
    import jsonargparse

    from benchmarks.config_peers import parts

    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--config", action="config")
    component_types = {name: getattr(parts, name.capitalize()) for name in parts.COMPONENTS}
    import typing

    hints = typing.get_type_hints(parts.Config)
    for attribute in parts.Config.__attrs_attrs__:
        if attribute.name in component_types:
            parser.add_subclass_arguments(component_types[attribute.name], attribute.name)
        else:
            parser.add_argument(f"--{attribute.name}", type=hints[attribute.name])
    return parser


def jsonargparse_work(folder: str) -> Work:
    """Return the work with jsonargparse; each run builds a new parser, as a program would."""
    from benchmarks.config_peers.parts import OVERRIDES

    def work() -> str:
        parser = _jsonargparse_parser()
        args = [f"--config={folder}/jsonargparse.yaml"]
        args += [
            f"--{path.replace('optimizer.lr', 'optimizer.init_args.lr')}={text}" for path, text in OVERRIDES
        ]
        cfg = parser.parse_args(args)
        parser.instantiate_classes(cfg)
        return str(parser.dump(cfg))

    return work


def draccus_work(folder: str) -> Work:
    """Return the work with draccus, on dataclasses with the same fields."""
    import dataclasses
    import typing

    import draccus

    from benchmarks.config_peers import parts

    component_types = {name: getattr(parts, name.capitalize()) for name in parts.COMPONENTS}
    sections = {name: _as_dataclass(component_type) for name, component_type in component_types.items()}
    hints = typing.get_type_hints(parts.Config)
    fields: list[Any] = []
    for attribute in parts.Config.__attrs_attrs__:
        t = sections.get(attribute.name, hints[attribute.name])
        fields.append((attribute.name, t, dataclasses.field(default=None)))
    config_class = dataclasses.make_dataclass("CompleteConfig", fields)

    def work() -> str:
        args = [f"--{path}={text}" for path, text in parts.OVERRIDES]
        cfg = draccus.parse(config_class, f"{folder}/draccus.yaml", args=args)
        for name, component_type in component_types.items():
            component_type(**vars(getattr(cfg, name)))
        return str(draccus.dump(cfg))

    return work


def _as_dataclass(component_type: type) -> type:
    import dataclasses
    import inspect
    import typing

    hints = typing.get_type_hints(component_type.__init__)  # type: ignore[misc]  # the constructor of this class, not of a subclass
    fields: list[Any] = []
    for p in list(inspect.signature(component_type).parameters.values()):
        default = p.default if p.default is not p.empty else ""
        fields.append((p.name, hints[p.name], dataclasses.field(default=default)))
    return dataclasses.make_dataclass(component_type.__name__, fields)


def torchtune_process(folder: str, args: Sequence[str]) -> None:
    """Build the components from a file and arguments with torchtune, including validation."""
    from benchmarks.config_peers.parts import main
    from torchtune.runs import Resume

    main.run(
        main.layers(
            f"{folder}/torchtune.yaml",
            [arg.replace("output_dir=o", f"output_dir={folder}/o") for arg in args],
        ),
        Resume(overwrite=True),
    )


def hydra_process(folder: str, args: Sequence[str]) -> None:
    """Build the components with `hydra.main`, with output folders and logging disabled."""
    import hydra

    from benchmarks.config_peers.parts import COMPONENTS

    text = (Path(folder) / "complete.yaml").read_text().replace("_component_", "_target_")
    (Path(folder) / "hydra.yaml").write_text(text)
    sys.argv = [
        "app",
        *args,
        "hydra.run.dir=.",
        "hydra.output_subdir=null",
        "hydra/job_logging=disabled",
        "hydra/hydra_logging=disabled",
    ]

    @hydra.main(version_base=None, config_path=folder, config_name="hydra")  # type: ignore[untyped-decorator]  # hydra is not among the test dependencies
    def app(cfg: Any) -> None:
        for name in COMPONENTS:
            hydra.utils.instantiate(cfg[name])

    app()


def jsonargparse_process(folder: str, args: Sequence[str]) -> None:
    """Build the components from a file and arguments with jsonargparse."""
    parser = _jsonargparse_parser()
    args = [arg.replace("optimizer.lr", "optimizer.init_args.lr") for arg in args]
    parser.instantiate_classes(parser.parse_args([f"--config={folder}/jsonargparse.yaml", *args]))
