"""Random configs are unchanged after rendering and loading, and render to the same bytes again."""

from pathlib import Path
from typing import Annotated, Any

import torch
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from tests.config import sample
from torchtune.config import Component, Passed, lazy, load, nested, ref, render


class Cast(sample.Optimizer):
    """A component with arguments of many types."""

    def __init__(
        self,
        params: list[Any],
        dtype: torch.dtype = torch.float32,
        shade: sample.Shade = sample.Shade.LIGHT,
        folder: Path | None = None,
        sizes: tuple[int, ...] = (),
        inner: sample.Letters | None = None,
        options: dict[str, float] | None = None,
    ) -> None: ...


@define(kw_only=True)
class Drawn(sample.Config):
    """The sample config with more field types."""

    precision: torch.dtype = torch.float32
    """A dtype."""
    maybe: Annotated[Component[sample.Optimizer] | None, Passed(1)] = None
    """An optional component."""
    scales: list[float] = field(factory=list)
    """Floats."""
    pair: tuple[str, float | None] = ("a", None)
    """A tuple of two types."""


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(
    lambda t: t.replace("${", "$").replace("_component_", "component")
)
number = st.floats(allow_nan=False)
path = st.lists(st.text("abc.é -", min_size=1, max_size=4), min_size=1, max_size=3).map(lambda p: Path(*p))
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int8])
letters = st.builds(lambda p, low: nested(sample.Letters, p, lower=low), text, st.booleans())
rows = st.builds(lambda t, s, p: lazy(sample.Rows, t, source=s, packed=p), letters, text, st.booleans())
plain_rows = st.builds(lambda s: lazy(sample.Rows, source=s), text | st.just("${output_dir}/x"))
joined = st.builds(
    lambda parts, weights: lazy(sample.concatenate, parts=parts, weights=weights),
    st.lists(rows, max_size=3),
    st.none() | st.lists(number, max_size=3),
)
optimizers = st.one_of(
    st.builds(lambda lr: lazy(sample.Sgd, lr=lr), number),
    st.builds(
        lambda lr, b, f: lazy(sample.Adam, lr=lr, betas=(b, b), fused=f),
        number,
        number,
        st.none() | st.booleans(),
    ),
    st.builds(
        lambda d, s, f, z, i, o: lazy(Cast, dtype=d, shade=s, folder=f, sizes=z, inner=i, options=o),
        dtypes,
        st.sampled_from(sample.Shade),
        st.none() | path,
        st.lists(st.integers(), max_size=3).map(tuple),
        st.none() | letters,
        st.none() | st.dictionaries(text, number, max_size=2),
    ),
)

configs = st.builds(
    Drawn,
    output_dir=text,
    seed=st.none() | st.integers() | st.builds(lambda: ref("batch_size")),
    batch_size=st.integers(1) | st.builds(lambda: ref("epochs")),
    lr_scale=number,
    shuffle=st.booleans(),
    dtype=st.sampled_from(["fp32", "bf16"]),
    shade=st.sampled_from(sample.Shade),
    folder=path,
    tags=st.lists(text, max_size=4),
    sizes=st.lists(st.integers(), max_size=4).map(tuple),
    limits=st.dictionaries(text, st.integers(), max_size=3),
    optimizer=optimizers,
    tokenizer=st.builds(lambda p: lazy(sample.Letters, path=p), text),
    dataset=plain_rows | joined,
    extra=st.lists(plain_rows, max_size=3),
    validation=st.none() | st.builds(sample.Validation, interval=st.integers(1), source=st.none() | text),
    precision=dtypes,
    maybe=st.none() | optimizers,
    scales=st.lists(number, max_size=4),
    pair=st.tuples(text, st.none() | number),
)


@given(configs)
def test_random_config_round_trips_through_yaml(cfg: Drawn) -> None:
    rendered = render(cfg)
    loaded = load(rendered, Drawn)
    assert loaded == cfg
    assert render(loaded) == rendered
