import copy
import functools
import pickle
from collections.abc import Sequence
from typing import Annotated, Any

import pytest
from attrs import define
from hypothesis import given
from hypothesis import strategies as st

from tests.config.sample import Adam, Letters, Rows, Sgd
from torchtune.config import (
    Component,
    ConfigError,
    InstantiationError,
    Passed,
    instantiate,
    lazy,
    nested,
    ref,
    render,
    resolve,
)
from torchtune.config.model import Layers


def test_lazy_does_not_build_the_component() -> None:
    built: list[int] = []
    component = lazy(built.append, 1)
    assert built == []
    component()
    assert built == [1]


def test_lazy_components_with_the_same_function_and_arguments_are_equal() -> None:
    assert lazy(Sgd, lr=0.1) == lazy(Sgd, lr=0.1) == functools.partial(Sgd, lr=0.1)
    assert lazy(Letters, "a") == lazy(Letters, path="a")
    assert lazy(Sgd, lr=0.1) != lazy(Sgd, lr=0.2)
    other: object = lazy(Adam, lr=0.1)
    assert lazy(Sgd, lr=0.1) != other


def test_keywords_are_read_only_because_class_defaults_are_shared() -> None:
    keywords: Any = lazy(Sgd, lr=0.1).keywords
    with pytest.raises(TypeError):
        keywords["lr"] = 1


def test_lazy_of_a_lazy_adds_arguments() -> None:
    assert lazy(lazy(Sgd, lr=0.1), momentum=0.9) == lazy(Sgd, lr=0.1, momentum=0.9)


def test_lazy_can_be_copied_and_pickled() -> None:
    component = lazy(Adam, lr=1e-3, betas=(0.5, 0.6))
    assert copy.deepcopy(component) == component == pickle.loads(pickle.dumps(component))


def test_repr_looks_like_the_source_code() -> None:
    assert repr(lazy(Sgd, lr=0.1)) == "lazy(Sgd, lr=0.1)"


def test_ref_renders_as_an_interpolation() -> None:
    assert ref("a.b") == "${a.b}"


def test_instantiate_appends_positional_arguments_and_overrides_keywords() -> None:
    result = instantiate(lazy(Sgd, lr=0.1, momentum=0.5), ["w"], momentum=0.9)
    assert (result.params, result.lr, result.momentum) == (["w"], 0.1, 0.9)


def test_instantiate_returns_none_for_none() -> None:
    assert instantiate(None) is None


def test_instantiate_builds_nested_components_in_lists_and_mappings_first() -> None:
    inner = nested(Letters, path="x")
    result = instantiate(lazy(Rows, inner, source="s", options={"all": [lazy(Letters, path="y")]}))
    assert isinstance(result.tokenizer, Letters)
    assert result.options["options"]["all"][0].path == "y"


def test_instantiate_accepts_a_partial_and_a_mapping() -> None:
    assert instantiate(functools.partial(Sgd, lr=0.1), []).lr == 0.1
    allowed = {"_component_": "torchtune.utils.metric_logging.StdoutLogger"}
    assert type(instantiate(allowed)).__name__ == "StdoutLogger"


@define
class Wrapped:
    """A config with an untyped component."""

    part: Any


@define
class Trained:
    """A config with a component to which the recipe passes an argument."""

    optimizer: Annotated[Component[Sgd], Passed(1)]


def record_call(a: Any, b: Any = 0, *args: Any, c: Any = 0, **kwargs: Any) -> tuple[Any, ...]:
    """Return the arguments of the call."""
    return a, b, args, c, kwargs


def strict(a: Any, b: Any, c: Any = 0, *, d: Any = 0) -> tuple[Any, ...]:
    """Return the arguments of the call; additional arguments raise TypeError."""
    return a, b, c, d


NUMBERS = st.lists(st.integers(), max_size=3)
KEYWORDS = st.dictionaries(st.sampled_from("abcde"), st.integers(), max_size=3)
WRAPPERS = st.sampled_from([functools.partial, lazy])


@given(
    fn=st.sampled_from([record_call, strict]),
    layers=st.lists(st.tuples(WRAPPERS, NUMBERS, KEYWORDS), min_size=1, max_size=3),
    args=NUMBERS,
    kwargs=KEYWORDS,
)
def test_instantiate_makes_the_same_call_as_a_partial(
    fn: Any, layers: list[tuple[Any, list[int], dict[str, int]]], args: list[int], kwargs: dict[str, int]
) -> None:
    component = reference = fn
    for wrapper, extra_args, extra_kwargs in layers:
        component = wrapper(component, *extra_args, **extra_kwargs)
        reference = functools.partial(reference, *extra_args, **extra_kwargs)
    try:
        expected = reference(*args, **kwargs)
    except TypeError:
        with pytest.raises(InstantiationError):
            instantiate(component, *args, **kwargs)
    else:
        assert instantiate(component, *args, **kwargs) == expected


def test_partial_around_a_lazy_component_is_equivalent_to_one_component() -> None:
    inner: Any = lazy(Rows, nested(Letters, path="x"), source="s")
    combined = functools.partial(inner, options=lazy(Letters, path="y"))
    result = instantiate(combined)
    assert (result.tokenizer.path, result.options["options"].path) == ("x", "y")
    assert lazy(Rows, nested(Letters, path="x"), source="s", options=lazy(Letters, path="y")) == combined
    assert render(Wrapped(combined)) == (
        "part:\n"
        "  _component_: tests.config.sample.Rows\n"
        "  tokenizer:\n"
        "    _component_: tests.config.sample.Letters\n"
        "    path: x\n"
        "  source: s\n"
        "  options:\n"
        "    _component_: tests.config.sample.Letters\n"
        "    path: y\n"
    )


def test_partial_that_sets_an_argument_passed_by_the_recipe_is_rejected() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Trained(functools.partial(Sgd, [], lr=0.1)))
    assert [(m.path, m.sentence) for m in caught.value.mistakes] == [
        (("optimizer", "params"), "the recipe passes 'params'; remove it")
    ]


def build_all(parts: Sequence[Component[Letters]], first: str = "") -> list[str]:
    """Build multiple components and add a prefix to each result."""
    return [first + instantiate(part).path for part in parts]


def test_component_parameters_receive_components_by_position_and_by_name() -> None:
    parts: list[Component[Letters]] = [lazy(Letters, "x"), lazy(Letters, "y")]
    assert instantiate(lazy(build_all, parts=parts)) == ["x", "y"]
    assert instantiate(lazy(build_all, parts), "+") == ["+x", "+y"]


def test_built_object_cannot_modify_the_config() -> None:
    component: Any = lazy(Rows, Letters("x"), source="s", tags=["a"])
    instantiate(component).options["tags"].append("b")
    assert component.keywords["tags"] == ["a"]


def test_missing_argument_is_reported_before_the_call() -> None:
    with pytest.raises(InstantiationError, match=r"tests\.config\.sample\.Sgd requires 'lr'"):
        instantiate(lazy(Sgd), [])


def test_duplicate_argument_is_reported() -> None:
    with pytest.raises(InstantiationError, match="'params' is passed by position and by name"):
        instantiate(lazy(Sgd, params=[], lr=1.0), [])


def test_unknown_argument_is_reported_with_a_suggestion() -> None:
    with pytest.raises(InstantiationError, match="has no argument 'momentm'; did you mean 'momentum'"):
        instantiate(lazy(Sgd, lr=1.0), [], momentm=1)


def test_component_exception_is_the_cause_of_the_error() -> None:
    def fails() -> None:
        raise OSError("no disk")

    with pytest.raises(InstantiationError, match="fails: no disk") as caught:
        instantiate(lazy(fails))
    assert isinstance(caught.value.__cause__, OSError)


def test_error_in_a_nested_component_names_the_argument() -> None:
    broken: Any = lazy(Letters)
    with pytest.raises(
        InstantiationError,
        match=r"test_component.py:\d+: tokenizer: tests.config.sample.Letters requires 'path'",
    ):
        instantiate(lazy(Rows, tokenizer=broken))


def test_unresolved_reference_suggests_resolve() -> None:
    with pytest.raises(InstantiationError, match=r"call torchtune.config.resolve"):
        instantiate(lazy(Sgd, lr=ref("lr_scale")), [])


def test_value_that_is_not_a_component_is_rejected() -> None:
    with pytest.raises(
        InstantiationError, match=r"expected a lazy partial, a functools\.partial or a mapping"
    ):
        instantiate(Layers)  # type: ignore[call-overload]  # the mistake under test
