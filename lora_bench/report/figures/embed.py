"""A figure inside a page: an image whose address holds its SVG.

A browser runs no script of an image, lets it load nothing, and keeps its ids and styles apart from the page's.
"""

from __future__ import annotations

from urllib.parse import quote

# The colour that replaces another where the reader prefers dark pages. The first two are the page's own.
DARK = {
    "#ffffff": "#15181c",
    "#000000": "#e4e7eb",
    "#333333": "#d5dae0",
    "#404040": "#c3c9d1",
    "#595959": "#aab2bb",
    "#8c8c8c": "#7f8893",
    "#e6e6e6": "#31373f",
    "#0072b2": "#2b79e2",
    "#d55e00": "#fb8e22",
    "#009e73": "#43c098",
    "#993279": "#c8478e",
    "#6c5828": "#8b7605",
    "#8c87b8": "#b8a0fa",
}

# Everything else that is no letter or digit becomes a percent sign and its bytes, above all `"`, `&`, `#` and line ends. Base64
# would be a sixth longer, and nearly incompressible.
_PLAIN = " !$'()*+,/:;<=>?@[]{|}"


def data_address(svg: bytes, *, dark: bool = True) -> str:
    """Return an address that holds *svg*, with its colours for dark pages unless *dark* is false."""
    if not dark:
        return f"data:image/svg+xml,{quote(svg, safe=_PLAIN)}"
    drawing, end = svg.rsplit(b"</svg>", 1)
    return f"data:image/svg+xml,{quote(drawing + _dark_style().encode() + b'</svg>' + end, safe=_PLAIN)}"


def _dark_style() -> str:
    rules = "".join(
        f'[style*="{part}: {light}"]{{{part}:{dark}!important}}'
        for light, dark in DARK.items()
        for part in ("fill", "stroke")
    )
    # Text without a colour of its own is black, which it inherits.
    inherited = f"svg{{fill:{DARK['#000000']}}}"
    return f"<style>@media screen and (prefers-color-scheme: dark){{{inherited}{rules}}}</style>"
