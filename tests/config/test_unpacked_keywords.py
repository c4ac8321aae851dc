"""The keys of `**kwargs: Unpack[SomeTypedDict]` are named, typed, documented and checked like other parameters."""

import io
from contextlib import redirect_stdout
from typing import Any

import pytest
from attrs import define

from tests.config import options
from torchtune import config
from torchtune.config import Component, ConfigError, InstantiationError, instantiate, lazy, load, render
from torchtune.config._docstrings import documentation
from torchtune.config._frozen import freeze
from torchtune.config._layers import Layers
from torchtune.config._signature import MISSING, NOT_PASSED, accepts_kwargs, parameters
from torchtune.runs._flags import print_help
from torchtune.runs._overrides import override


@define(kw_only=True)
class ReaderConfig:
    """A config whose component has unpacked keyword arguments."""

    output_dir: str = "out"
    """The output folder."""
    reader: Component[options.Reader] = lazy(options.reader)
    """The reader."""


def build_config(*overrides: str, cls: Any = ReaderConfig) -> Any:
    layers = Layers.of_defaults(cls)
    override(layers, [(text.partition("=")[0], text.partition("=")[2]) for text in overrides])
    return layers.build("the config")


def mistake(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(*overrides)
    return str(caught.value)


@pytest.mark.parametrize("fn", [options.reader, options.Reader])
def test_keys_of_the_typed_dict_are_parameters(fn: Any) -> None:
    params = parameters(fn)
    assert list(params) == ["path", "stop_words", "arguments", "depth"]
    assert not accepts_kwargs(fn)
    assert not any(params[name].positional for name in ("stop_words", "arguments", "depth"))
    assert params["stop_words"].default is None
    assert params["depth"].default is NOT_PASSED
    assert params["depth"].type is int


def test_keys_can_be_required() -> None:
    params = parameters(options.strict)
    assert params["size"].default is MISSING
    assert (params["name"].default, params["name"].type) == (None, str | None)
    assert parameters(options.mixed)["label"].required
    assert parameters(options.mixed)["stop_words"].default is None
    with pytest.raises(InstantiationError, match=r"strict requires 'size'"):
        instantiate(lazy(options.strict))


def test_untyped_keywords_are_not_checked() -> None:
    assert accepts_kwargs(options.loose)
    assert list(parameters(options.loose)) == ["path"]
    instantiate(lazy(options.loose, anything=3))


def test_keys_are_documented_by_the_typed_dict() -> None:
    assert documentation(options.reader)["stop_words"] == "Words that end an answer."
    assert documentation(options.Reader)["depth"].startswith("The depth")
    assert documentation(options.reader)["path"] == "The file to read."
    assert documentation(options.strict) == {"size": "The size.", "name": "The name of the reader."}
    assert documentation(options.reader) == documentation(options.reader)


def test_overrides_are_converted_to_the_types_of_their_keys() -> None:
    cfg = build_config("reader.stop_words=[a, b]", "reader.depth=3", "reader.arguments={think: false}")
    assert instantiate(cfg.reader).options == {
        "stop_words": ["a", "b"],
        "depth": 3,
        "arguments": {"think": False},
    }


def test_mapping_can_be_set_key_by_key() -> None:
    cfg = build_config("reader.arguments.think=false", "reader.arguments.level=high")
    assert instantiate(cfg.reader).options == {"arguments": {"think": False, "level": "high"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reader.stop_wordss=[a]", "reader has no argument 'stop_wordss'; did you mean 'stop_words'?"),
        (
            "reader.stop_words=a",
            "reader.stop_words: expected a list of text values or null, got 'a'",
        ),
        ("reader.stop_words=[1]", "reader.stop_words.0: expected text, got 1"),
        ("reader.depth=deep", "reader.depth: expected an int, got 'deep'"),
        ("reader.depth=null", "reader.depth: expected an int, got null"),
        ("reader.arguments=3", "reader.arguments: expected a mapping or null, got 3"),
    ],
)
def test_mistakes_are_reported_before_anything_is_built(text: str, expected: str) -> None:
    assert expected in mistake(text)


def test_lazy_components_in_python_are_checked() -> None:
    with pytest.raises(InstantiationError, match=r"has no argument 'stop_word'; did you mean 'stop_words'"):
        instantiate(lazy(options.reader, stop_word=["a"]))  # type: ignore[call-arg]  # under test
    with pytest.raises(ConfigError, match=r"stop_words: expected a list of text values or null, got 3"):
        config.resolve(ReaderConfig(reader=lazy(options.reader, stop_words=3)))  # type: ignore[arg-type]  # under test


def test_frozen_config_contains_the_defaults() -> None:
    layers = Layers.of_defaults(ReaderConfig)
    frozen = freeze(layers)
    assert frozen.tree["reader"] == {
        "_component_": "tests.config.options.reader",
        "path": "x",
        "stop_words": None,
        "arguments": None,
    }
    assert frozen.omitted == ["reader.depth (default of tests.config.options.reader: not passed)"]
    loaded = load(frozen.render(), ReaderConfig)
    assert instantiate(loaded.reader).options == {"stop_words": None, "arguments": None}
    assert render(load(render(loaded), ReaderConfig)) == render(loaded)


def test_help_lists_keys_with_type_and_documentation() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        print_help(Layers.of_defaults(ReaderConfig), "read", "Read.")
    text = " ".join(out.getvalue().split())
    assert "--reader.stop_words LIST|null Words" in text
    assert "Words that end an answer." in text
    assert "--reader.depth INT" in text
