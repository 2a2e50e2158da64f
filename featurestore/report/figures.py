"""Pictures in one style: Matplotlib's objects, without pyplot and its global figures.

The only module that imports Matplotlib; the others get what they need of it from here, so that a
missing Matplotlib is told in one place.
"""

from __future__ import annotations

import dataclasses
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import MissingDependency
from featurestore.report.files import check_picture_path, write_whole

try:
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
except ImportError as error:
    raise MissingDependency(
        "pictures need Matplotlib, which is not installed",
        next_step="pip install 'featurestore[report]'",
    ) from error

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = [
    "Figure",
    "FixedLocator",
    "FuncFormatter",
    "Line2D",
    "MaxNLocator",
    "NullLocator",
    "Rectangle",
]

INK, MUTED, GRID, PAPER = "#1f2933", "#697586", "#d9dee3", "#fefefe"
CELL, ON_CELL = "#00619b", "#fdfdfd"
# Source: Okabe and Ito (2008), Color Universal Design: told apart in every kind of colour
# blindness. Beyond the sixth line, dashes tell apart.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", ":", "-.")
# Matplotlib's own font, DejaVu Sans, has none of their characters.
_EAST_ASIAN_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
)
_DOTS_PER_INCH = 160

_STYLE: dict[str, object] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "text.parse_math": False,  # names may hold dollar signs
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "featurestore",
}
_CLEAR = {"figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none"}
# What an SVG inside a page is drawn in, and the page's own names for it: a dark page changes them.
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    PAPER: "--paper",
    CELL: "--cell",
    ON_CELL: "--on-cell",
} | {colour: f"--series-{number}" for number, colour in enumerate(PALETTE, 1)}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that can be written to a file or put into a page.

    Parameters
    ----------
    size
        Width and height in inches.
    alt
        What it shows, in words and numbers, for those who do not see it.
    paint
        Draws onto an empty figure of that size, whose layout engine then makes room for texts.
    """

    size: tuple[float, float]
    alt: str
    paint: Callable[[Figure], None]


def write_picture(picture: Picture, path: Path) -> None:
    """Write a picture as its file's ending says; equal pictures give equal bytes.

    Raises
    ------
    InvalidInput
        The name ends in neither .png nor .svg, or the file cannot be written.
    """
    check_picture_path(path)
    file_format = path.suffix.lower().removeprefix(".")
    write_whole(path, _rendered(picture, file_format, {"svg.fonttype": "path"}))


def inline_svg(picture: Picture, *, prefix: str) -> str:
    """Return a picture as an ``<svg>`` element of a page: transparent, in the page's colours.

    It holds no style sheet and no style, so that it is drawn where a page allows neither.

    Parameters
    ----------
    prefix
        Unique within the page: ids in the element begin with it.
    """
    # The browser has more fonts than Matplotlib, whose widths are only used to make room.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        text = _rendered(picture, "svg", {"svg.fonttype": "none"} | _CLEAR).decode()
    text = text[text.index("<svg") :]
    # Its metadata point to the web, and its style sheet would be that of the whole page.
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<style [^>]*>.*?</style>", "", text, flags=re.DOTALL)
    # Within tags only: what stands between them is names, which may hold anything.
    text = re.sub(r"<[^>]+>", lambda tag: _for_page(tag[0], prefix), text)
    width, height = (round(96 * inches) for inches in picture.size)
    opening = (
        f'<svg role="img" aria-label="{escape(picture.alt)}" viewBox="0 0 '
        f'{72 * picture.size[0]:g} {72 * picture.size[1]:g}" width="{width}" height="{height}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'stroke-linejoin="round" stroke-linecap="butt">'
    )
    return opening + text[text.index(">") + 1 :].strip()


def _for_page(tag: str, prefix: str) -> str:
    tag = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{prefix}-", tag)
    tag = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--sans)", tag)
    for colour, name in _VARIABLES.items():
        tag = tag.replace(colour, f"var({name})")
    return re.sub(r' style="([^"]*)"', _as_attributes, tag)


def _as_attributes(style: re.Match[str]) -> str:
    """Write a style as attributes, which mean the same; a page's policy may forbid styles."""
    pairs = (part.partition(":") for part in style[1].split(";") if part.strip())
    return "".join(f' {name.strip()}="{value.strip()}"' for name, _, value in pairs)


def _rendered(picture: Picture, file_format: str, settings: Mapping[str, object]) -> bytes:
    # Beginning at Matplotlib's own defaults: a person's matplotlibrc does not change a picture.
    fonts = {"font.family": ["DejaVu Sans", *_other_fonts()]}
    with style.context(["default", {**_STYLE, **fonts, **settings}]):
        figure = Figure(
            figsize=picture.size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        )
        picture.paint(figure)
        buffer = io.BytesIO()
        nothing = {"Date": None, "Creator": None} if file_format == "svg" else {"Software": None}
        figure.savefig(buffer, format=file_format, dpi=_DOTS_PER_INCH, metadata=nothing)
    return buffer.getvalue()


def _other_fonts() -> list[str]:
    """Return those fonts for Chinese, Japanese and Korean names that are installed."""
    installed = {font.name for font in fontManager.ttflist}
    return [name for name in _EAST_ASIAN_FONTS if name in installed]


def line_look(number: int) -> tuple[str, str]:
    """Return colour and dashes of the line at a position, unlike those of 23 others."""
    return PALETTE[number % len(PALETTE)], _DASHES[number // len(PALETTE) % len(_DASHES)]


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Put a legend under the axes, where it covers nothing."""
    # About what a handle and a character take, in inches.
    entry = 0.6 + 0.08 * max(map(len, labels))
    # Matplotlib leaves out labels that begin with an underscore.
    figure.legend(
        handles,
        [f" {label}" if label.startswith("_") else label for label in labels],
        loc="outside lower center",
        ncols=max(1, min(len(labels), int(figure.get_size_inches()[0] / entry))),
        handlelength=2.2,
    )


def plain_share(axes: Axes) -> None:
    """Bound both axes to shares of one, equally long, with a faint grid."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.grid(True)


def spread_out(positions: Sequence[float], *, least: float) -> list[float]:
    """Return positions moved as little as needed to lie `least` apart, in the same order.

    Ties keep the order they are given in. Neighbours that are too close share their distance
    equally, as pooled blocks (pool adjacent violators).
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    # A block starts at its total / members: the mean of its positions, each less its own offset.
    blocks: list[tuple[float, int]] = []  # (total, members)
    for index in order:
        blocks.append((positions[index], 1))
        while len(blocks) > 1:
            low, high = blocks[-2], blocks[-1]
            if low[0] / low[1] + least * low[1] <= high[0] / high[1]:
                break
            total = low[0] + high[0] - high[1] * least * low[1]
            blocks[-2:] = [(total, low[1] + high[1])]
    moved = [0.0] * len(positions)
    at = iter(order)
    for total, members in blocks:
        for place in range(members):
            moved[next(at)] = total / members + least * place
    return moved
