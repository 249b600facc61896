"""What was compared, in a sentence, and in which form each method ran."""

from __future__ import annotations

from typing import Any

from softmap.report import words

Row = dict[str, Any]


def lead(report: Row) -> str:
    """Returns the page's second sentence: how many variants in what models, on what data and for
    how long.
    """
    model, data, training = (report[key] or {} for key in ("model", "data", "training"))
    rows = report["variants"]
    runs = {row["variant"]: len(row["seeds"]) for row in rows}
    heldout = data.get("heldout_documents")
    alike = len(rows) > 1 and not report["runs"]
    parts = [
        f"{_subject(report)} trained on {'the same ' * alike}{_tokens(rows)} of "
        f"{_source(data)}{' in the same order' * alike}",
        f"context {model['context']}" if model.get("context") else "",
        training.get("precision") or "",
        words.runs_a_variant(runs, report["control"]),
        f"judged by {words.count(heldout, 'held-out document').lower()}" if heldout else "",
        f"on {(report['device'] or {}).get('name', 'one device')}",
    ]
    return ", ".join(part for part in parts if part) + "."


def _subject(report: Row) -> str:
    rows = report["variants"]
    size = f"{_range(*map(words.si, _sizes(rows)))} parameters"
    if report["runs"]:
        return f"{words.count(len(report['runs']), 'comparison')} side by side, models of {size},"
    if len(rows) == 1:
        return f"One way to compute attention, in a model of {size},"
    return f"{words.count(len(rows), 'way')} to compute attention, each in a model of {size},"


def _sizes(rows: list[Row]) -> tuple[int, int]:
    """Returns the fewest and the most parameters; equal by design unless runs of other models are
    included.
    """
    sizes = sorted(row["parameters"] for row in rows)
    first = rows[0]["parameters"]
    return (first, first) if sizes[-1] <= 1.03 * sizes[0] else (sizes[0], sizes[-1])


def _tokens(rows: list[Row]) -> str:
    tokens = rows[0]["budgets"][-1]["tokens"]
    least, most = (f"{tokens / size:.2g}" for size in reversed(_sizes(rows)))
    return f"{words.si(tokens)} tokens ({_range(least, most)} a parameter)"


def _source(data: Row) -> str:
    return f"text from {data['source']}" if data.get("source") else "text"


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def form(row: Row) -> str:
    """Returns the form of a method that ran: its title, options, other fields of the backbone,
    the backend.
    """
    spec, fields = row["spec"], row["backbone"]
    parts = [row["title"] or "", f"as {spec}" if spec and spec != row["variant"] else ""]
    if fields:
        parts.append("with " + words.listed([_field(*item) for item in fields.items()]))
    elif fields is not None:
        parts.append("in the plain backbone of Transformer++")
    parts.append(f"by the backend {row['impl']}" if row["impl"] else "")
    return ", ".join(part for part in parts if part)


def _field(name: str, value: Any) -> str:
    name = name.replace("qk_", "QK ").replace("_", " ")
    return name if value is True else f"{name} {str(value).lower()}"
