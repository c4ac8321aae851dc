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


def test_lazy_describes_without_building() -> None:
    built: list[int] = []
    component = lazy(built.append, 1)
    assert built == []
    component()
    assert built == [1]


def test_lazies_are_equal_by_function_and_arguments_however_written() -> None:
    assert lazy(Sgd, lr=0.1) == lazy(Sgd, lr=0.1) == functools.partial(Sgd, lr=0.1)
    assert lazy(Letters, "a") == lazy(Letters, path="a")
    assert lazy(Sgd, lr=0.1) != lazy(Sgd, lr=0.2)
    other: object = lazy(Adam, lr=0.1)
    assert lazy(Sgd, lr=0.1) != other


def test_keywords_are_read_only_since_class_defaults_are_shared() -> None:
    keywords: Any = lazy(Sgd, lr=0.1).keywords
    with pytest.raises(TypeError):
        keywords["lr"] = 1


def test_lazy_of_a_lazy_adds_arguments() -> None:
    assert lazy(lazy(Sgd, lr=0.1), momentum=0.9) == lazy(Sgd, lr=0.1, momentum=0.9)


def test_lazy_copies_and_pickles() -> None:
    component = lazy(Adam, lr=1e-3, betas=(0.5, 0.6))
    assert copy.deepcopy(component) == component == pickle.loads(pickle.dumps(component))


def test_repr_reads_like_the_source() -> None:
    assert repr(lazy(Sgd, lr=0.1)) == "lazy(Sgd, lr=0.1)"


def test_ref_is_written_as_interpolation() -> None:
    assert ref("a.b") == "${a.b}"


def test_instantiate_passes_positional_arguments_and_lets_keywords_win() -> None:
    made = instantiate(lazy(Sgd, lr=0.1, momentum=0.5), ["w"], momentum=0.9)
    assert (made.params, made.lr, made.momentum) == (["w"], 0.1, 0.9)


def test_instantiate_of_none_is_none() -> None:
    assert instantiate(None) is None


def test_instantiate_builds_nested_components_first_also_in_lists_and_mappings() -> None:
    inner = nested(Letters, path="x")
    made = instantiate(lazy(Rows, inner, source="s", options={"all": [lazy(Letters, path="y")]}))
    assert isinstance(made.tokenizer, Letters)
    assert made.rest["options"]["all"][0].path == "y"


def test_instantiate_takes_a_stock_partial_and_a_mapping() -> None:
    assert instantiate(functools.partial(Sgd, lr=0.1), []).lr == 0.1
    allowed = {"_component_": "torchtune.utils.metric_logging.StdoutLogger"}
    assert type(instantiate(allowed)).__name__ == "StdoutLogger"


@define
class Wrapped:
    """Holds any component."""

    part: Any


@define
class Trained:
    """Holds a component that gets an argument from the recipe."""

    optimizer: Annotated[Component[Sgd], Passed(1)]


def called(a: Any, b: Any = 0, *rest: Any, c: Any = 0, **others: Any) -> tuple[Any, ...]:
    """Return what it was called with."""
    return a, b, rest, c, others


def strictly(a: Any, b: Any, c: Any = 0, *, d: Any = 0) -> tuple[Any, ...]:
    """Return what it was called with, which can be called wrongly in every way."""
    return a, b, c, d


NUMBERS = st.lists(st.integers(), max_size=3)
KEYWORDS = st.dictionaries(st.sampled_from("abcde"), st.integers(), max_size=3)
MAKERS = st.sampled_from([functools.partial, lazy])


@given(
    fn=st.sampled_from([called, strictly]),
    layers=st.lists(st.tuples(MAKERS, NUMBERS, KEYWORDS), min_size=1, max_size=3),
    args=NUMBERS,
    kwargs=KEYWORDS,
)
def test_instantiate_calls_what_python_calls_with_a_partial(
    fn: Any, layers: list[tuple[Any, list[int], dict[str, int]]], args: list[int], kwargs: dict[str, int]
) -> None:
    mine = theirs = fn
    for make, its_args, its_kwargs in layers:
        mine = make(mine, *its_args, **its_kwargs)
        theirs = functools.partial(theirs, *its_args, **its_kwargs)
    try:
        expected = theirs(*args, **kwargs)
    except TypeError:
        with pytest.raises(InstantiationError):
            instantiate(mine, *args, **kwargs)
    else:
        assert instantiate(mine, *args, **kwargs) == expected


def test_partial_of_a_lazy_builds_the_components_in_both_and_is_written_as_one() -> None:
    inner: Any = lazy(Rows, nested(Letters, path="x"), source="s")
    both = functools.partial(inner, options=lazy(Letters, path="y"))
    made = instantiate(both)
    assert (made.tokenizer.path, made.rest["options"].path) == ("x", "y")
    assert lazy(Rows, nested(Letters, path="x"), source="s", options=lazy(Letters, path="y")) == both
    assert render(Wrapped(both)) == (
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


def test_partial_that_fills_what_the_recipe_passes_is_a_mistake_of_the_config() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Trained(functools.partial(Sgd, [], lr=0.1)))
    assert [(m.path, m.sentence) for m in caught.value.mistakes] == [
        (("optimizer", "params"), "the recipe passes 'params' itself; leave it out")
    ]


def make_all(parts: Sequence[Component[Letters]], first: str = "") -> list[str]:
    """Build each of several components, as one that passes something to each does."""
    return [first + instantiate(part).path for part in parts]


def test_components_that_a_callable_asks_for_are_left_to_it_by_position_as_by_name() -> None:
    parts: list[Component[Letters]] = [lazy(Letters, "x"), lazy(Letters, "y")]
    assert instantiate(lazy(make_all, parts=parts)) == ["x", "y"]
    assert instantiate(lazy(make_all, parts), "+") == ["+x", "+y"]


def test_instantiate_does_not_let_the_built_object_change_the_config() -> None:
    component: Any = lazy(Rows, Letters("x"), source="s", tags=["a"])
    instantiate(component).rest["tags"].append("b")
    assert component.keywords["tags"] == ["a"]


def test_missing_argument_is_named_before_anything_is_called() -> None:
    with pytest.raises(InstantiationError, match=r"tests\.config\.sample\.Sgd needs 'lr'"):
        instantiate(lazy(Sgd), [])


def test_argument_given_twice_is_named() -> None:
    with pytest.raises(InstantiationError, match="'params' is passed by position and by name"):
        instantiate(lazy(Sgd, params=[], lr=1.0), [])


def test_unknown_argument_is_named_with_the_nearest() -> None:
    with pytest.raises(InstantiationError, match="takes no 'momentm'; did you mean 'momentum'"):
        instantiate(lazy(Sgd, lr=1.0), [], momentm=1)


def test_exception_of_a_component_is_kept_as_cause() -> None:
    def fails() -> None:
        raise OSError("no disk")

    with pytest.raises(InstantiationError, match="fails: no disk") as caught:
        instantiate(lazy(fails))
    assert isinstance(caught.value.__cause__, OSError)


def test_error_in_a_nested_component_says_which_argument_it_is() -> None:
    broken: Any = lazy(Letters)
    with pytest.raises(
        InstantiationError,
        match=r"test_component.py:\d+: tokenizer: tests.config.sample.Letters needs 'path'",
    ):
        instantiate(lazy(Rows, tokenizer=broken))


def test_unresolved_reference_says_to_resolve() -> None:
    with pytest.raises(InstantiationError, match=r"call torchtune.config.resolve"):
        instantiate(lazy(Sgd, lr=ref("lr_scale")), [])


def test_something_that_is_no_component_is_refused() -> None:
    with pytest.raises(InstantiationError, match="takes a component"):
        instantiate(Layers)  # type: ignore[call-overload]  # the mistake under test
