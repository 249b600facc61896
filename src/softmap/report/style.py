"""What all charts share: fixed colours, dashes and shapes, two parameters, one finish.

Two parameters let a page steer every chart at once: ``shown`` (the variants switched on) and
``focus`` (the one pointed at; the others fade). Colours come from the config (``theme.config``),
by the order of the variants, so that one specification serves both themes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt

from softmap.report import theme

Row = dict[str, Any]
LOSS = "Held-out loss (nats per token)"
DELTA = "Loss minus the control's (nats per token)"


@dataclass(frozen=True)
class Chart:
    """A specification with the words that belong to it."""

    key: str
    title: str
    caption: str
    spec: dict[str, Any]


class Style:
    """Encodings by variant, in the order of ``labels`` (the control first)."""

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        count = len(labels)
        # Colour, shape and dash share a domain and no title, so that legends merge into one.
        scale = alt.Scale(domain=labels)
        self.colour = alt.Color("variant:N", title=None, scale=scale)
        self.plain_colour = alt.Color("variant:N", legend=None, scale=scale)
        shapes, dashes = theme.shapes(count), theme.dashes(count)
        self.shape = alt.Shape(
            "variant:N", title=None, scale=alt.Scale(domain=labels, range=shapes)
        )
        self.dash = alt.StrokeDash(
            "variant:N", title=None, scale=alt.Scale(domain=labels, range=dashes)
        )
        self.plain_shape = alt.Shape(
            "variant:N", legend=None, scale=alt.Scale(domain=labels, range=shapes)
        )
        self.rows = alt.Y("variant:N", title=None, sort=labels)

    def base(self, data: list[Row]) -> alt.Chart:
        """A chart over the records of the variants that are switched on."""
        chart = alt.Chart(alt.Data(values=data))
        return chart.transform_filter("indexof(shown, datum.variant) >= 0")

    def opacity(self, value: float = 1.0) -> Any:
        """``value``, faded while another variant is in focus."""
        near = "focus === null || datum.variant === focus"
        return alt.condition(near, alt.value(value), alt.value(0.12 * value))

    def finish(self, layers: list[alt.Chart], height: int) -> dict[str, Any]:
        """The layers as one specification that fills the width it is given."""
        shown = alt.param(name="shown", value=self.labels)
        focus = alt.param(name="focus", value=None)
        chart = alt.layer(*layers).properties(width="container", height=height)
        spec: dict[str, Any] = chart.add_params(shown, focus).to_dict()
        return spec


def zero(**channel: Any) -> alt.Chart:
    """A rule at zero: ``zero(x=alt.datum(0))``."""
    return alt.Chart(alt.Data(values=[{}])).mark_rule(strokeWidth=1).encode(**channel)
