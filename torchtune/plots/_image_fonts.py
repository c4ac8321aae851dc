"""Select fonts for the image of `tune plot`, and replace characters without a glyph, to avoid warnings."""

from functools import cache

_DEFAULT = "DejaVu Sans"
"""The font that comes with matplotlib."""
_CJK = (
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
"""Common system fonts with CJK characters."""


@cache
def families() -> list[str]:
    """Return the installed fonts, in the order in which they are searched for a character."""
    from matplotlib.font_manager import fontManager

    installed = {entry.name for entry in fontManager.ttflist}
    return [_DEFAULT, *(name for name in _CJK if name in installed)]


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    files = [findfont(FontProperties(family=name)) for name in families()]
    return frozenset(code for file in files for code in get_font(file).get_charmap())


def replace_missing_characters(text: str) -> str:
    """Return text in which a box replaces each character without a glyph in any font."""
    return "".join(c if ord(c) in _characters() else "\N{WHITE SQUARE}" for c in text)
