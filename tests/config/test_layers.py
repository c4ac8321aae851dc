import inspect
from pathlib import Path
from typing import Any

import pytest

from tests.config import sample
from torchtune.config import ConfigError, lazy, load, nested, render, resolve
from torchtune.config.model import Layers

HERE = "tests/config/sample.py"


def line_of(text: str) -> int:
    """Return the line number of a string in the sample."""
    return 1 + next(i for i, line in enumerate(inspect.getsource(sample).splitlines()) if text in line)


def rich(*overrides: str) -> Layers:
    return sample.main.layers(f"{HERE}:rich", overrides)


def origins(layers: Layers, *paths: str) -> list[str]:
    return [
        str(layers.origin(tuple(int(p) if p.isdigit() else p for p in path.split(".")))) for path in paths
    ]


def test_origin_of_a_value_in_a_config_function_is_its_file_and_line() -> None:
    layers = rich()
    source_lines = {
        "output_dir": 'return Config(output_dir="out"',
        "batch_size": 'return Config(output_dir="out"',
        "shade": "cfg.shade = Shade.DARK",
        "optimizer._component_": "        Adam,",
        "optimizer.lr": "        lr=1e-5,",
        "optimizer.betas": "        betas=(0.8, 0.9),",
        "dataset.parts": "        parts=[",
        "extra.0.source": "cfg.extra = [",
        "validation.interval": "cfg.validation = Validation(interval=3)",
        "validation.source": "cfg.validation.source = ref",
    }
    assert origins(layers, *source_lines) == [f"{HERE}:{line_of(text)}" for text in source_lines.values()]


def test_origin_of_an_unset_value_is_the_default() -> None:
    assert origins(rich(), "seed", "tokenizer.path", "shuffle") == ["default of Config"] * 3


def test_origins_are_the_yaml_line_or_the_override(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("output_dir: x\n\noptimizer:\n  lr: 0.5\n")
    layers = sample.main.layers(str(file), ["seed=3"])
    assert origins(layers, "output_dir", "optimizer.lr", "seed", "optimizer.betas") == [
        f"{file}:1",
        f"{file}:4",
        "--override seed=3",
        "default of Config",
    ]


def test_config_object_is_unchanged_by_the_layers() -> None:
    built = rich().build()
    assert built == resolve(sample.rich())


def test_rendered_config_round_trips() -> None:
    for build in (sample.plain, sample.rich):
        text = render(build())
        assert load(text, sample.Config) == build()
        assert render(load(text, sample.Config)) == text


def test_fields_missing_from_a_yaml_file_are_set_by_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "output_dir: x\nbatch_size: 2\nvalidation: {interval: 5, source: s}\n"
    )
    (tmp_path / "my.yaml").write_text("_base_: base.yaml\nvalidation: {interval: 7}\n")
    cfg = sample.main.layers(str(tmp_path / "my.yaml")).build()
    assert (cfg.batch_size, cfg.validation.interval, cfg.validation.source) == (2, 7, "s")


def test_circular_base_is_reported_as_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("_base_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("_base_: a.yaml\n")
    with pytest.raises(ConfigError, match="leads back to this file"):
        sample.main.layers(str(tmp_path / "a.yaml"))


def test_yaml_with_a_component_key_replaces_all_arguments(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "output_dir: x\noptimizer:\n  _component_: tests.config.sample.Adam\n  fused: true\n"
    )
    assert sample.main.layers(str(tmp_path / "my.yaml")).build().optimizer == lazy(sample.Adam, fused=True)


def test_yaml_without_a_component_key_changes_individual_arguments(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("output_dir: x\noptimizer:\n  fused: true\n")
    assert sample.main.layers(str(tmp_path / "my.yaml")).build().optimizer == lazy(
        sample.Adam, lr=2e-5, fused=True
    )


# Tests of overrides


VALUES: list[tuple[str, str, object]] = [
    ("batch_size=16", "batch_size", 16),
    ("lr_scale=1e-4", "lr_scale", 1e-4),
    ("lr_scale=3", "lr_scale", 3.0),
    ("shuffle=false", "shuffle", False),
    ("seed=null", "seed", None),
    ("seed=7", "seed", 7),
    ("output_dir=123", "output_dir", "123"),
    ("output_dir=What is 2: 3?", "output_dir", "What is 2: 3?"),
    ("output_dir=a=b", "output_dir", "a=b"),
    ("output_dir=null", "output_dir", "null"),
    ("output_dir=[x", "output_dir", "[x"),
    ("output_dir=", "output_dir", ""),
    ("folder=a/b", "folder", Path("a/b")),
    ("shade=dark", "shade", sample.Shade.DARK),
    ("tags=[a, b]", "tags", ["a", "b"]),
    ("sizes=[3,4]", "sizes", (3, 4)),
    ("limits={a: 2}", "limits", {"a": 2}),
    ("limits.a=3", "limits", {"a": 3}),
    ("optimizer.lr=1e-3", "optimizer", lazy(sample.Adam, lr=1e-3, betas=(0.8, 0.9))),
    ("optimizer.betas=[0.1,0.2]", "optimizer", lazy(sample.Adam, lr=1e-5, betas=(0.1, 0.2))),
    ("optimizer.betas=default", "optimizer", lazy(sample.Adam, lr=1e-5)),
    ("optimizer.fused=null", "optimizer", lazy(sample.Adam, lr=1e-5, betas=(0.8, 0.9), fused=None)),
    ("batch_size=default", "batch_size", 4),
    ("batch_size=${epochs}", "batch_size", 1),
    ("output_dir=$${x}", "output_dir", "${x}"),
    ("validation=null", "validation", None),
    ("level=2", "level", sample.Level.HIGH),
    ("tone=cool", "tone", sample.Tone.COOL),
    ("output_dir=runs/${epochs}-${lr_scale}", "output_dir", "runs/1-1.0"),
]


@pytest.mark.parametrize(("argument", "field", "value"), VALUES)
def test_override_is_converted_to_the_field_type_in_every_spelling(
    argument: str, field: str, value: object
) -> None:
    key, _, text = argument.partition("=")
    for overrides in ([argument], ["--override", argument], [f"--{argument}"], [f"--{key}", text]):
        result = getattr(rich(*overrides).build(), field)
        assert result == value
        assert type(result) is type(value) or argument.startswith("output_dir=$$")


def test_setting_a_field_of_a_null_section_creates_the_section() -> None:
    cfg = sample.main.layers(f"{HERE}:plain", ["validation.source=rows"]).build()
    assert cfg.validation == sample.Validation(source="rows")


def test_replacing_a_component_drops_its_arguments_and_adds_a_note_whatever_the_order_of_overrides() -> None:
    overrides = ["optimizer=tests.config.sample.Sgd", "optimizer.lr=0.1"]
    for order in (overrides, overrides[::-1]):
        layers = rich(*order)
        assert layers.build().optimizer == lazy(sample.Sgd, lr=0.1)
        (note,) = layers.notes
        assert note.endswith("tests.config.sample.Sgd replaces tests.config.sample.Adam and drops its betas")


def test_an_argument_that_is_set_again_is_not_reported_as_dropped() -> None:
    overrides = ["optimizer=tests.config.sample.Sgd", "optimizer.lr=0.1"]
    for order in (overrides, overrides[::-1]):
        assert sample.main.layers(f"{HERE}:plain", order).notes == []


def test_components_in_lists_can_be_replaced_changed_and_added() -> None:
    extra = (
        rich(
            "extra.1.packed=false", "extra.0.source=s", "+extra=tests.config.sample.Rows", "extra.2.source=t"
        )
        .build()
        .extra
    )
    assert extra == [
        lazy(sample.Rows, source="s"),
        lazy(sample.Rows, packed=False),
        lazy(sample.Rows, source="t"),
    ]


def test_nested_component_can_be_changed() -> None:
    cfg = rich("dataset.parts.0.tokenizer.lower=true", "dataset.parts.0.source=z").build()
    part = cfg.dataset.keywords["parts"][0]
    assert part == lazy(sample.Rows, nested(sample.Letters, "x", lower=True), source="z")


def test_overriding_the_component_key_has_the_same_effect_as_overriding_the_field() -> None:
    cfg: Any = rich("optimizer._component_=tests.config.sample.Sgd", "optimizer.lr=0.1").build()
    assert cfg.optimizer == lazy(sample.Sgd, lr=0.1)


def test_outer_override_is_applied_before_inner_overrides_whatever_their_order_on_the_command_line() -> None:
    for overrides in (
        ["validation.interval=3", "validation={source: s}"],
        ["validation={source: s}", "validation.interval=3"],
    ):
        assert rich(*overrides).build().validation == sample.Validation(interval=3, source="s")


# Tests of interpolation


def test_interpolation_keeps_the_type_unless_it_is_part_of_a_string() -> None:
    cfg = rich("tags=['${batch_size}-${shuffle}', '$${raw}', '${folder}']").build()
    assert cfg.tags == ["8-true", "${raw}", "data"]
    assert rich("epochs=${batch_size}").build().epochs == 8


def test_reference_to_a_component_copies_the_component() -> None:
    assert rich().build().dataset.keywords["parts"][1] == rich().build().dataset.keywords["parts"][0]


def test_circular_reference_is_reported_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"circular references: folder -> output_dir -> folder"):
        rich("folder=${output_dir}", "output_dir=${folder}").build()
