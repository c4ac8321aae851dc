"""`**kwargs: Unpack[SomeTypedDict]` are parameters like any other: named, typed, documented and checked."""

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
from torchtune.config._signature import MISSING, NOT_PASSED, parameters, swallows_keywords
from torchtune.runs._flags import print_help
from torchtune.runs._overrides import override


@define(kw_only=True)
class ReaderConfig:
    """A config with such a component."""

    output_dir: str = "out"
    """Where the run writes."""
    reader: Component[options.Reader] = lazy(options.reader)
    """What reads."""


def built(*overrides: str, cls: Any = ReaderConfig) -> Any:
    layers = Layers.of_defaults(cls)
    override(layers, [(text.partition("=")[0], text.partition("=")[2]) for text in overrides])
    return layers.build("the config")


def mistake(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        built(*overrides)
    return str(caught.value)


@pytest.mark.parametrize("fn", [options.reader, options.Reader])
def test_the_keys_are_parameters(fn: Any) -> None:
    known = parameters(fn)
    assert list(known) == ["path", "stop_words", "arguments", "depth"]
    assert not swallows_keywords(fn)
    assert not any(known[name].positional for name in ("stop_words", "arguments", "depth"))
    assert known["stop_words"].default is None
    assert known["depth"].default is NOT_PASSED
    assert known["depth"].type is int


def test_keys_may_be_required() -> None:
    known = parameters(options.strict)
    assert known["size"].default is MISSING
    assert (known["name"].default, known["name"].type) == (None, str | None)
    assert parameters(options.mixed)["label"].required
    assert parameters(options.mixed)["stop_words"].default is None
    with pytest.raises(InstantiationError, match=r"strict needs 'size'"):
        instantiate(lazy(options.strict))


def test_other_keywords_stay_unchecked() -> None:
    assert swallows_keywords(options.loose)
    assert list(parameters(options.loose)) == ["path"]
    instantiate(lazy(options.loose, anything=3))


def test_each_is_documented_by_the_typed_dict() -> None:
    assert documentation(options.reader)["stop_words"] == "Words that end an answer."
    assert documentation(options.Reader)["depth"].startswith("How deep")
    assert documentation(options.reader)["path"] == "Where from."
    assert documentation(options.strict) == {"size": "How large.", "name": "What it is called."}
    assert documentation(options.reader) == documentation(options.reader)


def test_overrides_are_read_by_their_types() -> None:
    cfg = built("reader.stop_words=[a, b]", "reader.depth=3", "reader.arguments={think: false}")
    assert instantiate(cfg.reader).options == {
        "stop_words": ["a", "b"],
        "depth": 3,
        "arguments": {"think": False},
    }


def test_a_mapping_is_filled_key_by_key() -> None:
    cfg = built("reader.arguments.think=false", "reader.arguments.level=high")
    assert instantiate(cfg.reader).options == {"arguments": {"think": False, "level": "high"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reader.stop_wordss=[a]", "reader takes no 'stop_wordss'; did you mean 'stop_words'?"),
        ("reader.stop_words=a", "reader.stop_words: expected a list, each text or null, got 'a'"),
        ("reader.stop_words=[1]", "reader.stop_words.0: expected text, got 1"),
        ("reader.depth=deep", "reader.depth: expected an int, got 'deep'"),
        ("reader.depth=null", "reader.depth: expected an int, got null"),
        ("reader.arguments=3", "reader.arguments: expected a mapping or null, got 3"),
    ],
)
def test_mistakes_are_found_before_anything_is_built(text: str, expected: str) -> None:
    assert expected in mistake(text)


def test_python_is_checked_as_well() -> None:
    with pytest.raises(InstantiationError, match=r"takes no 'stop_word'; did you mean 'stop_words'"):
        instantiate(lazy(options.reader, stop_word=["a"]))  # type: ignore[call-arg]  # the mistake
    with pytest.raises(ConfigError, match=r"stop_words: expected a list, each text or null, got 3"):
        config.resolve(ReaderConfig(reader=lazy(options.reader, stop_words=3)))  # type: ignore[arg-type]  # the mistake


def test_a_frozen_config_spells_the_defaults_out() -> None:
    layers = Layers.of_defaults(ReaderConfig)
    frozen = freeze(layers)
    assert frozen.tree["reader"] == {
        "_component_": "tests.config.options.reader",
        "path": "x",
        "stop_words": None,
        "arguments": None,
    }
    assert frozen.left_out == ["reader.depth (default of tests.config.options.reader: not passed)"]
    again = load(frozen.render(), ReaderConfig)
    assert instantiate(again.reader).options == {"stop_words": None, "arguments": None}
    assert render(load(render(again), ReaderConfig)) == render(again)


def test_help_shows_each_with_type_and_documentation() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        print_help(Layers.of_defaults(ReaderConfig), "read", "Read.")
    text = " ".join(out.getvalue().split())
    assert "--reader.stop_words LIST|null Words" in text
    assert "Words that end an answer." in text
    assert "--reader.depth INT" in text
