"""Numbers as people read them: as many digits as an interval allows, and none that claims too much."""

from __future__ import annotations

import math

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
ROUNDING = 1e-8
"""What is nearer than this to all or nothing is all or nothing, but for the rounding of a mean."""
MOST = 6
"""Digits behind the point, of which an interval seldom allows more than two."""


def decimals(low: float, high: float, scale: float = 100.0) -> int:
    """Digits behind the point that half an interval allows: of 0.25 to 2.5, after multiplication by ``scale``, one."""
    half = scale * (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return 1 if scale == 100 else 3
    return min(max(math.ceil(-math.log10(half / 2.5) - 1e-9), 0), MOST)


def number(value: float, digits: int, scale: float = 100.0) -> str:
    """``scale * value`` with so many digits.

    What is less than all of a share, or more than nothing, is never shown as all or nothing: it gets more digits.
    """
    if not math.isfinite(value):
        return MISSING
    for places in range(digits, MOST + 1):
        text = f"{scale * value:.{places}f}"
        if not _claims_too_much(value, float(text) / scale):
            return signed(text)
    return signed(
        f"{math.floor(scale * value * 10**MOST) / 10**MOST:.{MOST}f}" if value > 0 else f"{scale * value:.1e}"
    )


def triple(value: float, low: float, high: float, percent: bool = True) -> tuple[str, str, str]:
    """A figure and the ends of its interval with the same digits, in percent or as it is."""
    scale = 100.0 if percent else 1.0
    digits = decimals(low, high, scale)
    if low == high and not percent and abs(value) > 1:
        digits = int(value != round(value))
    while digits < MOST and any(
        math.isfinite(x) and _claims_too_much(x, round(scale * x, digits) / scale) for x in (value, low, high)
    ):
        digits += 1
    first, second, third = (number(x, digits, scale) for x in (value, low, high))
    return first, second, third


def sentence(value: float, low: float, high: float, percent: bool = True) -> str:
    """``99.1 % (98.8 to 99.4)``."""
    shown, below, above = triple(value, low, high, percent)
    if shown == MISSING:
        return "not measured"
    unit = "\N{NO-BREAK SPACE}%" if percent else ""
    return f"{shown}{unit}" + ("" if MISSING in (below, above) else f" ({below} to {above})")


def difference(value: float, low: float, high: float, percent: bool = True) -> tuple[str, str, str]:
    """A difference and the ends of its interval, each with its sign."""
    scale = 100.0 if percent else 1.0
    digits = decimals(low, high, scale)

    def shown(x: float) -> str:
        return MISSING if not math.isfinite(x) else signed(f"{scale * x:+.{digits}f}")

    return shown(value), shown(low), shown(high)


def signed(text: str) -> str:
    """With a true minus sign, and without one before nothing."""
    if text.lstrip("+-").strip("0.") == "" and text[:1] in ("+", "-"):
        text = text[1:]
    return text.replace("-", MINUS)


def count(value: float) -> str:
    """``1,234,567`` or, of what is no whole number, three significant digits."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def large(value: float) -> str:
    """``768 million``: three significant digits and a word."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if abs(value) >= 0.9995 * size:
            return f"{_three(value / size)}\N{NO-BREAK SPACE}{word.strip()}"
    return count(float(f"{value:.3g}")) if math.isfinite(value) else MISSING


def memory(value: float) -> str:
    """Bytes with three significant digits: ``3.07 GB``, in powers of a thousand."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= 0.9995 * size:
            return f"{_three(value / size)}\N{NO-BREAK SPACE}{unit}"
    return f"{count(value)}\N{NO-BREAK SPACE}bytes" if math.isfinite(value) else MISSING


def money(value: float) -> str:
    """Three significant digits, and two behind the point at least."""
    if not math.isfinite(value):
        return MISSING
    places = 2 if value == 0 else min(max(2 - math.floor(math.log10(abs(value))), 2), MOST)
    return f"{value:,.{places}f}"


def _three(value: float) -> str:
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if "e" in text else text


def _claims_too_much(value: float, shown: float) -> bool:
    return (value < 1 - ROUNDING and shown >= 1) or (abs(value) > ROUNDING and shown == 0)
