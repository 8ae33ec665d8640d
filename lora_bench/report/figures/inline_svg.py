"""A figure inside a page: its SVG without anything that could act, clash with another figure, or be styled from outside.

Elements and attributes are those that our figures have, and a further one is an error. Styles become classes, since a page
that forbids every style but its own sheet would not heed them, and their colours variables with themselves as the default, so
that the sheet can give a dark page others.
"""

from __future__ import annotations

import re
from html import escape
from xml.etree import ElementTree

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"

_ELEMENTS = {"svg", "g", "defs", "path", "use", "clipPath", "rect", "text"}
_ATTRIBUTES = {"viewBox", "d", "x", "y", "width", "height", "transform", "clip-path", "id", "style", _HREF}
_LEFT_OUT = {"title", "metadata", "style"}  # elements: the page says what is in them, or its sheet does

_REFERENCE = re.compile(r"url\(#([\w-]+)\)")
_COLOUR = re.compile(r"#([0-9a-f]{6})\b")
_STYLE = re.compile(r"[\w\s:;.,'%#-]*")


class Inliner:
    """Figures for one page, with the classes that they share.

    Args:
        sheet: The CSS of the classes, complete once every figure is drawn.
    """

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}
        self._figures = 0

    @property
    def sheet(self) -> str:
        """The CSS of the classes of every figure so far."""
        variables = {style: _COLOUR.sub(r"var(--figure-\1,#\1)", style) for style in self._classes}
        return "".join(f".{name}{{{variables[style]}}}\n" for style, name in self._classes.items())

    def draw(self, svg: bytes, label: str) -> str:
        """The figure as an element of HTML that is called *label*.

        Raises:
            ValueError: If it has an element or an attribute that figures do not have, or refers to anything but itself.
        """
        self._figures += 1
        root = ElementTree.fromstring(svg)
        referred = {target for element in root.iter() for target in _referred(element)}
        parts: list[str] = []
        self._write(root, referred, parts, label)
        return "".join(parts)

    def _write(self, element: ElementTree.Element, referred: set[str], parts: list[str], label: str = "") -> None:
        name = _name(element)
        if name in _LEFT_OUT:
            return
        if name not in _ELEMENTS:
            raise ValueError(f"a figure has an element <{name}>, which no page shows")
        attributes = self._attributes(element, referred)
        if name == "svg":
            attributes = {**attributes, "role": "img", "aria-label": label}
        bare = name == "g" and not attributes
        if not bare:
            written = (f' {key}="{escape(value)}"' for key, value in attributes.items())
            parts.append(f"<{name}{''.join(written)}>")
        if name == "text":
            parts.append(escape(element.text or "", quote=False))
        for child in element:
            self._write(child, referred, parts)
        if not bare:
            parts.append(f"</{name}>")

    def _attributes(self, element: ElementTree.Element, referred: set[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for key, value in element.attrib.items():
            if key == "version" or (key == "id" and value not in referred):
                continue
            if key not in _ATTRIBUTES:
                raise ValueError(f"a figure has an attribute {key!r}, which no page shows")
            if key == "id":
                found["id"] = self._own(value)
            elif key == "style":
                found["class"] = self._class(value)
            elif key == _HREF:
                found["href"] = f"#{self._own(value[1:])}"
            elif key in ("width", "height") and _name(element) == "svg":
                found[key] = _pixels(value)
            else:
                found[key] = self._referring(" ".join(value.split()))
        return found

    def _own(self, identifier: str) -> str:
        """An id that no other figure has; no heading has an underscore in its own."""
        return f"f{self._figures}_{identifier}"

    def _referring(self, value: str) -> str:
        if "url(" not in value:
            return value
        if value.count("url(") != len(_REFERENCE.findall(value)):
            raise ValueError(f"a figure refers to {value!r}, outside of itself")
        return _REFERENCE.sub(lambda match: f"url(#{self._own(match[1])})", value)

    def _class(self, style: str) -> str:
        """The class of a style; one style has one class in all figures, so it cannot refer to a part of one."""
        if style not in self._classes:
            if _STYLE.fullmatch(style) is None:
                raise ValueError(f"a figure has a style {style!r}, which no page shows")
            self._classes[style] = f"f{len(self._classes)}"
        return self._classes[style]


def _name(element: ElementTree.Element) -> str:
    return element.tag.removeprefix(_SVG)


def _referred(element: ElementTree.Element) -> list[str]:
    """The ids that an element refers to.

    Raises:
        ValueError: If it refers to anything outside of its figure.
    """
    link = element.get(_HREF)
    if link is not None and not link.startswith("#"):
        raise ValueError(f"a figure refers to {link!r}, outside of itself")
    others = [found for value in element.attrib.values() if "url(" in value for found in _REFERENCE.findall(value)]
    return [*([link[1:]] if link is not None else []), *others]


def _pixels(points: str) -> str:
    """A length in points as whole CSS pixels, of which 96 are an inch."""
    return str(round(float(points.removesuffix("pt")) * 96 / 72))
