"""What an explainer says of a picture, as colours over it. Plain data in, HTML out."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.explain.shades import FOR, OVER_PICTURE, colour, decided, figure, legend, strongest, told

STYLE = """
.overlay { max-width: 480px; background: #fff; } .overlay .picture { filter: grayscale(1) contrast(.6) brightness(1.15); }
.overlay.coarse .picture { image-rendering: pixelated; }
.overlay path { vector-effect: none; } .overlay path.region { fill: transparent; shape-rendering: crispEdges; }
.overlay path.region:hover { stroke: var(--text); stroke-width: .3%; }
.overlay .box { fill: none; stroke: #fff; stroke-width: 2; stroke-dasharray: 5 3; vector-effect: non-scaling-stroke; }
.overlay .halo { fill: none; stroke: #000; stroke-width: 4; stroke-opacity: .7; vector-effect: non-scaling-stroke; }
"""
COARSE = 64  # pixels of a side up to which they are drawn as squares


def overlay(
    title: str,
    shown: Mapping[str, Any],
    values: Sequence[float],
    deviation: Sequence[float] | None = None,
    heat: Sequence[Sequence[float]] | None = None,
) -> str:
    """A figure: the picture in pale grey with each region in its colour, or with `heat` over it, and the box that is explained.

    shown: as `ImageDecisions.shown` gives it; values: of each region, which it tells on hover; heat: (h, w), `Attribution.map`.
    """
    width, height = shown["width"], shown["height"]
    most = max(map(abs, values), default=0.0)
    coarse = " coarse" if max(width, height) <= COARSE else ""
    parts = [f'<image class="picture" href="{html.escape(shown["image"])}" width="{width}" height="{height}"/>']
    if heat is not None:
        most = max(max(map(abs, row)) for row in heat)
        parts.append(f'<image href="{_png(heat, most)}" width="{width}" height="{height}" preserveAspectRatio="none"/>')
    for number, (path, value) in enumerate(zip(shown["regions"], values, strict=True)):
        fill = "" if heat is not None else f' style="fill:{colour(value, most, OVER_PICTURE)}"'
        said = f"{shown['names'][number]}: {told(value, None if deviation is None else deviation[number])}"
        parts.append(f'<path class="region"{fill} d="{path}"><title>{html.escape(said)}</title></path>')
    if "box" in shown:
        left, top, right, bottom = shown["box"]
        edge = f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z"
        parts.append(f'<path class="halo" d="{edge}"/><path class="box" d="{edge}"/>')
    words = f"{decided(dict(shown))}; {strongest(shown['names'], values)}"
    label = html.escape(f"{title}. {words}")
    body = f'<svg class="overlay{coarse}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    lowest = min(values, default=0.0) if heat is None else min(min(row) for row in heat)
    return figure(title, legend(most, lowest, OVER_PICTURE), body, words)


def _png(heat: Sequence[Sequence[float]], most: float) -> str:
    """A data URI: red where `heat` is high, clear where it is 0 (and below: Grad-CAM has none there). The browser scales it up smoothly."""
    rows = b"".join(b"\0" + b"".join(bytes((*FOR, round(255 * OVER_PICTURE * max(value, 0.0) / (most or 1.0)))) for value in row) for row in heat)
    head = struct.pack(">IIBBBBB", len(heat[0]), len(heat), 8, 6, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG (W3C PNG specification, section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
