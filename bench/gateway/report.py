"""From what was measured to the report: raw.json, report.md and plot.svg."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import plot
from arms import ARMS, BARE, LITELLM, NGINX, OURS, OURS_DIRECT, RAY, ROUTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

Record = dict[str, Any]
# What a value may be worse by and still count as no worse: less than what the same arm differs by between rounds.
_NOISE = 0.02


def cpu_all(record: Record) -> float:
    """CPU seconds per 1,000 output tokens, gateway and engine."""
    return float(record["cpu"]["gateway_s"] + record["cpu"]["engine_s"]) / _thousands(record)


def cpu_gateway(record: Record) -> float:
    """CPU seconds per 1,000 output tokens, of the gateway's processes."""
    return float(record["cpu"]["gateway_s"]) / _thousands(record)


def _thousands(record: Record) -> float:
    return max(float(record["total_output_tokens"]), 1.0) / 1000


def _busy(record: Record) -> float:
    return float(record["cpu"]["busy_s"] / max(record["cpu"]["total_s"], 1e-9))


def progress(record: Record) -> str:
    """A line about a cell that has just ended."""
    name = f"{record['prompts']} {'stream' if record['stream'] else 'plain'} {record['concurrency']}"
    ttft = f"TTFT {record['p50_ttft_ms']:7.1f} ms, " if record["stream"] else " " * 17
    failed = f", {record['failed']} FAILED" if record["failed"] else ""
    return (
        f"{record['arm']:11} {name:17} {ttft}E2E {record['p50_e2el_ms']:8.1f} ms, "
        f"{record['request_throughput']:6.2f} req/s, machine {_busy(record):4.0%} busy{failed}"
    )


@dataclass(frozen=True)
class Spread:
    """A value over the rounds.

    Attributes:
        values: one a round.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Over the rounds."""
        return median(self.values)

    def text(self, digits: int) -> str:
        """The median, and from where to where the rounds went if they differ."""
        low, high = (f"{value:.{digits}f}" for value in (min(self.values), max(self.values)))
        return f"{self.median:.{digits}f}" + (f" ({low}–{high})" if low != high else "")


class Results:
    """The cells of a run, by engine, arm and cell.

    Args:
        cells: the records.
    """

    def __init__(self, cells: Iterable[Record]) -> None:
        self._by_key: dict[tuple[Any, ...], dict[int, Record]] = defaultdict(dict)
        for record in cells:
            self._by_key[_key(record)][record["round"]] = record

    def spread(self, value: Callable[[Record], float], *key: Any) -> Spread | None:
        """A value of a cell: of an engine, an arm, prompts, stream, concurrency; None where it wasn't measured."""
        rounds = self._by_key.get(key)
        return Spread(tuple(value(record) for record in rounds.values())) if rounds else None

    def against(self, value: Callable[[Record], float], *key: Any, base: str = BARE.name) -> Spread | None:
        """A value as ratio to another arm's in the same round."""
        return self._compare(lambda mine, theirs: mine / theirs if theirs else float("nan"), value, key, base)

    def difference(self, value: Callable[[Record], float], *key: Any, base: str) -> Spread | None:
        """A value minus another arm's in the same round."""
        return self._compare(lambda mine, theirs: mine - theirs, value, key, base)

    def _compare(
        self,
        compare: Callable[[float, float], float],
        value: Callable[[Record], float],
        key: tuple[Any, ...],
        base: str,
    ) -> Spread | None:
        engine, _, *cell = key
        mine, theirs = self._by_key.get(key, {}), self._by_key.get((engine, base, *cell), {})
        found = [compare(value(mine[number]), value(theirs[number])) for number in mine if number in theirs]
        return Spread(tuple(found)) if found else None

    def records(self, **wanted: Any) -> list[Record]:
        """Every record with these values."""
        every = (record for rounds in self._by_key.values() for record in rounds.values())
        return [record for record in every if all(record[name] == value for name, value in wanted.items())]

    def concurrencies(self, **wanted: Any) -> list[int]:
        """Those of the records with these values, in order."""
        return sorted({record["concurrency"] for record in self.records(**wanted)})


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("engine", "arm", "prompts", "stream", "concurrency"))


def field(name: str) -> Callable[[Record], float]:
    """What reads a number of a record."""
    return lambda record: float(record[name])


_RATIOS = {
    "TTFT p50": field("p50_ttft_ms"),
    "TTFT p95": field("p95_ttft_ms"),
    "TPOT p50": field("p50_tpot_ms"),
    "E2E p50": field("p50_e2el_ms"),
    "E2E p95": field("p95_e2el_ms"),
    "req/s": field("request_throughput"),
    "CPU, gateway and engine": cpu_all,
}
_STREAM_ONLY = ("TTFT", "TPOT")


def write(directory: Path, data: dict[str, Any]) -> None:
    """Write raw.json, report.md and plot.svg.

    Args:
        directory: made if it isn't there.
        data: what ``__main__`` collected.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "raw.json").write_text(json.dumps(data, indent=1) + "\n")
    results = Results(data["cells"])
    (directory / "plot.svg").write_text(plot.svg(_panels(results)))
    (directory / "report.md").write_text(_markdown(data, results))


def _markdown(data: dict[str, Any], results: Results) -> str:
    machine, mock = data["machine"], data["mock"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(data["versions"].items()))
    parts = [
        "# The way through the gateway, against what a user would pick instead",
        "What is measured, and how to read it: [README.md](../README.md). Every number: [raw.json](raw.json).",
        "\n".join(
            [
                f"- Command: `{data['command']}`",
                f"- Date: {data['date']}; it took {data['seconds'] / 60:.0f} min"
                + ("" if data["complete"] else ". **It did not go to its end: what follows is a part.**"),
                f"- Machine: {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['cpu']}, "
                f"Linux {machine['kernel']}; everything ran on it, the load too",
                f"- Versions: {versions}",
                f"- Mock engine: TTFT {mock['ttft_ms']:g} ms, TPOT {mock['tpot_ms']:g} ms",
            ]
        ),
        "![TTFT, requests per second and CPU by concurrency](plot.svg)",
        "## Targets",
        _targets(results),
    ]
    for engine in ("mock", "real"):
        if results.records(engine=engine):
            parts.append(f"## The {'mock' if engine == 'mock' else 'small real'} engine")
            for prompts, what in (("random", "random prompts"), ("prefix", "prompts with a shared prefix")):
                for stream, how in ((True, "Streamed"), (False, "Not streamed")):
                    if results.records(engine=engine, prompts=prompts, stream=stream):
                        parts += [f"### {how}, {what}", *_tables(results, engine, prompts, stream)]
    parts += [_long(results), _errors(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


# -- targets ----------------------------------------------------------------------------------------------------------


def _targets(results: Results) -> str:
    rows = []
    for engine in ("mock", "real"):
        rows += [(engine, *row) for row in _targets_of(results, engine) if row is not None]
    long = results.difference(field("p50_e2el_ms"), "mock", OURS.name, "long", False, 1, base=OURS_DIRECT.name)
    if long is not None:
        rows.append(
            (
                "mock",
                "nginx with routing by model on a 100 kB body, p50",
                "≤ 1 ms",
                f"{long.text(2)} ms",
                long.median <= 1,
            )
        )
    failed = sum(record["failed"] for record in results.records(arm=OURS.name))
    sent = sum(record["requests"] for record in results.records(arm=OURS.name))
    if sent:
        rows.append(("both", "no errors", "0", f"{failed} of {sent} requests", failed == 0))
    return _table(
        ["engine", "target", "limit", "measured, median of rounds (min–max)", ""],
        [[*row[:4], "met" if row[4] else "**missed**"] for row in rows],
    )


_Target = tuple[str, str, str, bool]


def _targets_of(results: Results, engine: str) -> list[_Target | None]:
    def of(name: str, concurrency: int) -> tuple[Any, ...]:
        return (engine, name, "random", True, concurrency)

    ttft, ttft95, rate = field("p50_ttft_ms"), field("p95_ttft_ms"), field("request_throughput")
    found: list[_Target | None] = []
    mine, bare = results.spread(ttft, *of(OURS.name, 1)), results.spread(ttft, *of(BARE.name, 1))
    if mine and bare:
        limit = 1.1 * bare.median + 2
        text = f"{mine.text(1)} ms; bare {bare.text(1)} ms"
        found.append(("TTFT p50 at 1", f"≤ 1.10 × bare + 2 ms = {limit:.1f} ms", text, mine.median <= limit))
    found.append(_ratio(results.against(rate, *of(OURS.name, 32)), "req/s at 32", 0.97, at_least=True))
    found.append(_ratio(results.against(ttft95, *of(OURS.name, 32)), "TTFT p95 at 32", 1.2, at_least=False))
    for name, value, limit, at_least in (
        ("req/s", rate, 1 - _NOISE, True),
        ("TTFT p50", ttft, 1 + _NOISE, False),
        ("E2E p95", field("p95_e2el_ms"), 1 + _NOISE, False),
    ):
        ratio = results.against(value, *of(OURS.name, 128), base=ROUTER.name)
        found.append(_ratio(ratio, f"{name} at 128, to {ROUTER.title}", limit, at_least=at_least))
    for other in (RAY, LITELLM):
        found.append(_ahead(results, engine, other.name, other.title))
    return found


def _ratio(spread: Spread | None, name: str, limit: float, *, at_least: bool) -> _Target | None:
    if spread is None:
        return None
    met = spread.median >= limit if at_least else spread.median <= limit
    return name, f"{'≥' if at_least else '≤'} {limit:g} ×", f"{spread.text(3)} ×", met


def _ahead(results: Results, engine: str, other: str, title: str) -> _Target | None:
    """Whether ours is ahead of another arm in every cell: in req/s, E2E and TTFT."""
    compared, behind = 0, []
    for key in {
        _key(record) for record in results.records(engine=engine, arm=OURS.name) if record["prompts"] != "long"
    }:
        _, _, prompts, stream, concurrency = key
        for name in ("req/s", "E2E p50", "E2E p95", *(("TTFT p50", "TTFT p95") if stream else ())):
            ratio = results.against(_RATIOS[name], *key, base=other)
            if ratio is None:
                continue
            compared += 1
            if (1 / ratio.median if name == "req/s" else ratio.median) > 1 + _NOISE:
                behind.append(f"{name}, {prompts} {'stream' if stream else 'plain'} {concurrency}")
    if not compared:
        return None
    text = f"{compared - len(behind)} of {compared}" + (f"; behind in {'; '.join(sorted(behind))}" if behind else "")
    return f"ahead of {title}, or within 2 %, in every cell", "all", text, not behind


# -- tables -----------------------------------------------------------------------------------------------------------


def _tables(results: Results, engine: str, prompts: str, stream: bool) -> list[str]:
    ratios = {name: value for name, value in _RATIOS.items() if stream or not name.startswith(_STREAM_ONLY)}
    ratio_rows, rows = [], []
    for concurrency in results.concurrencies(engine=engine, prompts=prompts, stream=stream):
        for arm in ARMS.values():
            key = (engine, arm.name, prompts, stream, concurrency)
            if results.spread(cpu_all, *key) is None:
                continue
            rows.append([str(concurrency), arm.title, *_absolute(results, key, stream)])
            if arm is not BARE:
                found = [results.against(value, *key) for value in ratios.values()]
                ratio_rows.append([str(concurrency), arm.title, *(f.text(2) if f else "" for f in found)])
    latencies = [f"{name}, ms: p50 / p95 / p99" for name in (("TTFT", "TPOT", "E2E") if stream else ("E2E",))]
    cpu = "CPU s per 1,000 tokens: gateway, engine"
    head = [*latencies, "req/s", "tokens/s", "errors", cpu, "gateway's RSS, PSS, MiB", "machine busy"]
    return [
        "As ratio to the bare engine in the same round, median (min–max):",
        _table(["in flight", "arm", *ratios], ratio_rows),
        "Medians of the rounds:",
        _table(["in flight", "arm", *head], rows),
    ]


def _absolute(results: Results, key: tuple[Any, ...], stream: bool) -> list[str]:
    def value(read: Callable[[Record], float]) -> float:
        spread = results.spread(read, *key)
        assert spread is not None
        return spread.median

    cells = []
    for metric, digits in (("ttft", 1), ("tpot", 2), ("e2el", 0)) if stream else (("e2el", 0),):
        cells.append(" / ".join(f"{value(field(f'p{p}_{metric}_ms')):.{digits}f}" for p in (50, 95, 99)))
    failed = sum(record["failed"] for record in _at(results, key))
    gateway = value(cpu_gateway)
    return [
        *cells,
        f"{value(field('request_throughput')):.2f}",
        f"{value(field('output_throughput')):.0f}",
        str(failed),
        f"{gateway:.3f}, {value(cpu_all) - gateway:.3f}",
        f"{value(field('rss_mib')):.0f}, {value(field('pss_mib')):.0f}",
        f"{value(_busy):.0%}",
    ]


def _at(results: Results, key: tuple[Any, ...]) -> list[Record]:
    names = ("engine", "arm", "prompts", "stream", "concurrency")
    return results.records(**dict(zip(names, key, strict=True)))


def _long(results: Results) -> str:
    rows = []
    for arm in (BARE, NGINX, OURS_DIRECT, OURS):
        spread = results.spread(field("p50_e2el_ms"), "mock", arm.name, "long", False, 1)
        if spread is not None:
            rows.append([arm.title, f"{spread.text(2)} ms"])
    if not rows:
        return ""
    text = "One request at a time with a body of about 100 kB, one token back, and no wait in the mock engine."
    return f"## A big body\n\n{text}\n\n" + _table(["arm", "E2E p50, median of rounds (min–max)"], rows)


def _errors(results: Results) -> str:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for record in results.records():
        for kind, count in record["errors"].items():
            counts[record["arm"], kind] += count
    rows = [[arm, str(count), f"`{kind}`"] for (arm, kind), count in sorted(counts.items())]
    return "## Errors\n\n" + (_table(["arm", "requests", "what"], rows) if rows else "None, in any arm.")


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


# -- plot -------------------------------------------------------------------------------------------------------------


def _panels(results: Results) -> list[list[plot.Panel]]:
    """A row for each engine; streams of random prompts."""
    wanted: list[tuple[str, Callable[[Record], float], bool, bool]] = [
        ("TTFT p50, ms", field("p50_ttft_ms"), False, True),
        ("TTFT p95, ms", field("p95_ttft_ms"), False, True),
        ("req/s, ratio to bare", field("request_throughput"), True, False),
        ("CPU s per 1,000 tokens, all", cpu_all, False, True),
    ]
    rows = []
    for engine in ("mock", "real"):
        concurrencies = results.concurrencies(engine=engine, prompts="random", stream=True)
        if not concurrencies:
            continue
        row = []
        for title, value, relative, logarithmic in wanted:
            lines = []
            for arm in ARMS.values():
                keys = [(engine, arm.name, "random", True, concurrency) for concurrency in concurrencies]
                found = [(results.against if relative else results.spread)(value, *key) for key in keys]
                if any(found):
                    points = [(f.median, min(f.values), max(f.values)) if f else None for f in found]
                    lines.append(plot.Line(arm.title, points))
            row.append(plot.Panel(f"{engine}: {title}", [str(c) for c in concurrencies], lines, logarithmic))
        rows.append(row)
    return rows
