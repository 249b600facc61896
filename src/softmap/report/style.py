"""What all charts share: fixed colours, dashes and shapes, two parameters, one finish.

Two parameters let a page steer every chart at once: ``shown`` (the variants switched on) and
``focus`` (the one pointed at; the others fade). Colours come from the config (``theme.config``),
by the order of the variants, so that one specification serves the page and its pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from softmap.report.marks import Mark

Row = dict[str, Any]
LOSS = "Held-out loss (nats per token)"
DELTA = "Loss minus the control's (nats per token)"
VARIANT = alt.Tooltip("variant:N", title="Variant")
# A long label in two lines: before its first bracket, else after its first slash.
LINES = (
    "length(datum.label) < (width < 320 ? 15 : 26) ? datum.label : "
    "split(indexof(datum.label, '(') > 0 ? replace(datum.label, '(', '\\n(') "
    ": replace(datum.label, '/', '/\\n'), '\\n')"
)
FEW = 3  # variants whose bands are shown together


@dataclass(frozen=True)
class Chart:
    """A specification with the words that belong to it."""

    key: str
    title: str
    caption: str
    spec: dict[str, Any]


class Style:
    """Encodings by variant, in the order of ``labels`` (the control first)."""

    def __init__(self, labels: list[str], marks: Sequence[Mark]) -> None:
        self.labels = labels
        # Colour, shape and dash share a domain and no title, so that legends merge into one.
        scale = alt.Scale(domain=labels)
        self.colour = alt.Color("variant:N", title=None, scale=scale)
        self.plain_colour = alt.Color("variant:N", legend=None, scale=scale)
        shapes = alt.Scale(domain=labels, range=[mark.shape for mark in marks])
        dashes = alt.Scale(domain=labels, range=[mark.dash for mark in marks])
        self.shape = alt.Shape("variant:N", title=None, scale=shapes)
        self.dash = alt.StrokeDash("variant:N", title=None, scale=dashes)
        self.plain_shape = alt.Shape("variant:N", legend=None, scale=shapes)
        axis = alt.Axis(labelExpr=LINES, labelLineHeight=13)
        self.rows = alt.Y("variant:N", title=None, sort=labels, axis=axis)

    def base(self, data: list[Row]) -> alt.Chart:
        """Returns a chart of the records of the variants that are switched on."""
        chart = alt.Chart(alt.Data(values=data))
        return chart.transform_filter("indexof(shown, datum.variant) >= 0")

    def opacity(self, value: float = 1.0) -> Any:
        """Returns ``value``, reduced while another variant is in focus."""
        near = "focus === null || datum.variant === focus"
        return alt.condition(near, alt.value(value), alt.value(0.12 * value))

    def band(self) -> Any:
        """Returns the opacity of a band: with many variants only the one in focus has one, since
        bands hide each other.
        """
        seen = f"datum.variant === focus || (focus === null && length(shown) <= {FEW})"
        return alt.condition(seen, alt.value(0.15), alt.value(0))

    def finish(self, layers: list[alt.Chart], height: int) -> dict[str, Any]:
        """Returns the layers as one specification that fills the available width."""
        shown = alt.param(name="shown", value=self.labels)
        focus = alt.param(name="focus", value=None)
        chart = alt.layer(*layers).properties(width="container", height=height)
        spec: dict[str, Any] = chart.add_params(shown, focus).to_dict(validate=False)
        return spec


def zero(**channel: Any) -> alt.Chart:
    """Returns a rule at a fixed value: ``zero(x=alt.datum(0))``."""
    return alt.Chart(alt.Data(values=[{}])).mark_rule(strokeWidth=1).encode(**channel)


def around(data: list[Row], field: str) -> alt.Scale:
    """Returns a linear scale with room for marks at both ends, also where all values are equal."""
    values = [row[field] for row in data]
    room = 0.08 * (max(values) - min(values)) or 0.02 * abs(max(values))
    return alt.Scale(domain=[min(values) - room, max(values) + room], zero=False, nice=False)


def log_axis(low: float, high: float, **axis: Any) -> dict[str, Any]:
    """Returns scale and axis of a logarithmic channel from ``low`` to ``high``; ticks are round."""
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return {"scale": scale, "axis": alt.Axis(**({"values": ticks(low, high)} | axis))}


def ticks(low: float, high: float) -> list[float]:
    """Returns the round numbers of an interval: 1, 2 and 5 times powers of ten, and finer ones
    where these are few.

    An interval too narrow for any has its ends.
    """
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), [n / 10 for n in range(10, 100)]):
        found = [float(f"{step}e{power}") for power in range(-12, 31) for step in steps]
        inside = [value for value in found if low <= value <= high]
        if len(inside) >= 3:
            return inside
    return inside or [low, high]
