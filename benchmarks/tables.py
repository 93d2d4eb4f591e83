"""Tables of rows that are readable as plain text and as Markdown."""

from benchmarks.rows import Row
from stgt.markdown import table

HEADER = ("provider", "median (20-80%)", "TFLOP/s", "GB/s", "of the limit", "peak memory")


def case_table(rows: list[Row]) -> str:
    """A table of those rows of one case that have a time. Columns without any value are left out."""
    here = [row for row in rows if row.median is not None]
    details = list(dict.fromkeys(name for row in here for name in row.details))
    lines = [[*cells(row), *(number(row.details.get(name)) for name in details)] for row in here]
    header = [*HEADER, *details]
    used = [i for i in range(len(header)) if any(line[i] for line in lines)]
    text = table([header[i] for i in used], [[line[i] for i in used] for line in lines]) if here else ""
    parts = [f"- {row.provider}: {shares(row.parts)}" for row in here if row.parts]
    return "\n".join([text, "", *parts] if parts else [text])


def caption(rows: list[Row]) -> str:
    """The name of the case, and the density of its graph if it is known."""
    row = next((row for row in rows if row.edge_density is not None), None)
    if row is None:
        return rows[0].case
    live = "" if row.live_tiles is None else f", {share(row.live_tiles)} of tiles hold one"
    return f"{rows[0].case}: {share(row.edge_density)} of the band are edges{live}"


def overview(cases: list[list[Row]]) -> str:
    """A table of the time and memory of many cases, with a line per case and a column per provider."""
    providers = list(dict.fromkeys(row.provider for rows in cases for row in rows if row.median is not None))
    lines = []
    for rows in cases:
        found = {row.provider: row for row in rows}
        edges, live = (share(getattr(rows[0], name)) for name in ("edge_density", "live_tiles"))
        lines.append([rows[0].case, edges, live, *(summary(found.get(provider)) for provider in providers)])
    return table(["", "edges", "live tiles", *providers], lines)


def share(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0%}" if value == 0 or value >= 0.01 else f"{100 * value:.1g}%"


def summary(row: Row | None) -> str:
    """The time, the share of the limit and the memory, or the reason why there is no time."""
    if row is None:
        return ""
    if row.median is None:
        return row.missing.partition(":")[0]
    return ", ".join(filter(None, (duration(row.median), share(row.limit_share), nbytes(row.peak_memory))))


def missing_list(rows: list[Row]) -> str:
    """A list of the providers that did not run with their reasons, without repetitions."""
    return "\n".join(dict.fromkeys(f"- {row.provider}: {row.missing}" for row in rows if row.missing))


def shares(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in parts.items() if share >= 0.005)


def cells(row: Row) -> list[str]:
    return [
        row.provider + (" (a bound: computes less)" if row.bound else ""),
        f"{duration(row.median)} ({duration(row.low)}-{duration(row.high)})",
        number(row.tflops),
        number(row.gbytes),
        share(row.limit_share),
        nbytes(row.peak_memory),
    ]


def spoken(question: str) -> str:
    return question.replace("_", " ").replace("forward backward", "forward + backward")


def number(value: float | None) -> str:
    """Formats a number with three digits."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale or unit == "µs":
            return f"{number(seconds / scale)} {unit}"
    raise AssertionError


def nbytes(count: float | None) -> str:
    if count is None:
        return ""
    return f"{number(count / 2**30)} GiB" if count >= 2**30 else f"{number(count / 2**20)} MiB"
