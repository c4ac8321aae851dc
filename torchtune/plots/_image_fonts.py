"""Fonts of `tune plot`'s picture: what no installed font can write is replaced, so that nothing warns."""

from functools import cache

_OWN = "DejaVu Sans"
"""Comes with matplotlib."""
_WIDER = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans CJK KR",
    "Noto Sans JP",
    "Noto Sans SC",
    "Noto Sans KR",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Hiragino Sans",
    "PingFang SC",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
)
"""Fonts with ideographs, as systems have them."""


@cache
def families() -> list[str]:
    """Return the fonts that are installed, in the order in which a character is looked for."""
    from matplotlib.font_manager import fontManager

    there = {entry.name for entry in fontManager.ttflist}
    return [_OWN, *(name for name in _WIDER if name in there)]


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    files = [findfont(FontProperties(family=name)) for name in families()]
    return frozenset(code for file in files for code in get_font(file).get_charmap())


def writable(text: str) -> str:
    """Return text in which a box stands for each character that no font has."""
    return "".join(c if ord(c) in _characters() else "\N{WHITE SQUARE}" for c in text)
