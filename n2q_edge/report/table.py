"""The table on stdout: what a person at the scanner wants to know, in 80 columns, with or without colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from n2q_edge.assessment.results import RunReport, SeriesReport, SliceResult
from n2q_edge.assessment.summary import Range, ReferenceSummary, SeriesSummary, Spread
from n2q_edge.quality.policy import Judgement, Verdict
from n2q_edge.quality.scores import QUALITY_THRESHOLD, to_percent
from n2q_edge.report.document import count_files
from n2q_edge.report.text import number, percent, printable, shorten
from n2q_edge.spec import ModelSpec

INDENT = (0, 0, 0, 2)
PATH_WIDTH = 24
VERDICT_STYLES = {
    Verdict.USABLE: "green",
    Verdict.DOES_NOT_MEET: "yellow",
    Verdict.UNUSABLE: "bold red",
    None: "",
}
REJECTED_SHOWN = 10
STAGE_NAMES = {"h2d": "  h2d", "compute": "  compute", "d2h": "  d2h", "total": "total (arrival to result)"}
PROTOCOL_UNITS = {"kvp": "kV", "ctdivol": "mGy", "slice_thickness_mm": "mm"}


def render(assessment: RunReport, console: Console) -> None:
    """Print series by series, then what was rejected and skipped."""
    for report in assessment.series:
        if report.slices:
            _render_series(report, console, assessment.spec)
    _render_left_out(assessment, console)


def _render_series(report: SeriesReport, console: Console, spec: ModelSpec) -> None:
    summary = report.summary
    console.print(
        Text(f"Series {report.number}  {printable(report.series.series_instance_uid)}", style="bold")
    )
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    verdict = summary.verdict
    facts.add_row("verdict", Text(_verdict(verdict), style=VERDICT_STYLES[verdict.verdict]))
    for label, text in _facts(report, summary, spec):
        facts.add_row(label, Text(text))
    console.print(Padding(facts, INDENT, expand=False))
    console.print()
    if summary.worst:
        console.print(Padding(_worst_table(summary.worst), INDENT, expand=False))
        console.print()
    console.print(Padding(_latency_table(summary), INDENT, expand=False))
    console.print()


def _verdict(judgement: Judgement) -> str:
    words = {
        Verdict.USABLE: "usable",
        Verdict.DOES_NOT_MEET: "usable, does not meet the standard",
        Verdict.UNUSABLE: "unusable",
        None: "not judged",
    }
    return f"{words[judgement.verdict]}: {'; '.join(map(printable, judgement.reasons))}"


def _facts(report: SeriesReport, summary: SeriesSummary, spec: ModelSpec) -> Iterable[tuple[str, str]]:
    protocol = _protocol(report.series.protocol, summary)
    if protocol:
        yield "protocol", protocol
    yield "slices", f"{summary.slices} in {summary.seconds:.1f} s"
    quality, noise, domain = summary.quality, summary.noise_hu, summary.domain
    if noise:
        yield "noise", f"{noise.min:.1f} to {noise.max:.1f} HU, median {noise.median:.1f}{_texture(summary)}"
    if summary.diameter_mm:
        yield "size", _size(summary.diameter_mm, summary)
    if summary.reference:
        yield "reference", _reference(summary.reference)
    if quality:
        known = spec.takes_reference and summary.reference and summary.reference.slices
        against = "the reference" if known else "an assumed full dose"
        yield (
            "quality",
            f"mean {quality.mean:.3f}, lowest slice {quality.min:.3f} (SSIM predicted against {against})",
        )
    if summary.dose:
        highest = to_percent(max(spec.predicted_doses))
        counts = (f"{_level(each.level, highest)} dose: {each.slices}" for each in summary.dose)
        yield "looks like", ", ".join(counts)
    if domain and domain.text:
        yield "domain", domain.text
    counts = (f"{flag} (in {count})" for flag, count in summary.flags.items())
    flags = [*report.series.flags, *counts]
    if flags:
        yield "flags", ", ".join(flags)


def _level(level: float, highest: float) -> str:
    """The highest level a model knows is where full-dose scans end up, too."""
    return f"{'at least ' if level == highest else ''}{percent(level)}"


def _texture(summary: SeriesSummary) -> str:
    frequency = summary.noise_frequency
    return f", mean frequency {frequency.median:.2f}/mm" if frequency else ""


def _size(diameter: Spread, summary: SeriesSummary) -> str:
    """Water-equivalent diameter, and the size-specific dose where CTDIvol is known."""
    parts = [f"water-equivalent diameter {diameter.min:.0f} to {diameter.max:.0f} mm"]
    if summary.truncated:
        parts.append(f"cut by the field of view in {summary.truncated}")
    if summary.ssde_mgy:
        parts.append(f"SSDE {summary.ssde_mgy.median:.1f} mGy")
    return ", ".join(parts)


def _reference(found: ReferenceSummary) -> str:
    """Noise and equivalent dose against the reference, or why there is none."""
    parts = []
    if found.ratio and found.equivalent_dose and found.interval and found.noise_hu:
        low, high = found.interval
        parts = [
            f"noise {found.ratio.median:.2f} times the {found.noise_hu.median:.1f} HU of the reference: "
            f"equivalent to {found.equivalent_dose.median:.0%} of its dose ({low:.0%} to {high:.0%})"
        ]
    parts += [f"unknown for {count}: {printable(reason)}" for reason, count in found.unknown.items()]
    return "; ".join(parts) or "no noise could be measured"


def _protocol(protocol: Mapping[str, Any], summary: SeriesSummary) -> str:
    """What most decides the noise of a scan, as far as the headers tell it."""
    parts = [printable(protocol[name]) for name in ("manufacturer", "model") if protocol.get(name)]
    parts += [f"{protocol[name]:g} {unit}" for name, unit in PROTOCOL_UNITS.items() if protocol.get(name)]
    ranges = ((summary.tube_current_ma, "mA"), (summary.exposure_mas, "mAs"))
    parts += [_range(values, unit) for values, unit in ranges if values]
    parts += [f"kernel {printable(protocol['kernel'])}"] if protocol.get("kernel") else []
    return ", ".join(parts)


def _range(values: Range, unit: str) -> str:
    """'9 to 115 mA', with a mark where the header contradicts itself."""
    ends = dict.fromkeys((f"{values.low:g}", f"{values.high:g}"))
    return f"{' to '.join(ends)} {unit}{' (doubtful)' if values.doubtful else ''}"


def _worst_table(results: Sequence[SliceResult]) -> Table:
    table = _table("worst slices")
    for heading in ("slice", "z mm", "mean", "p05", f"< {QUALITY_THRESHOLD:g}", "dose", "noise HU"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("file", no_wrap=True)
    for result in results:
        quality, dose = result.quality, result.dose
        assert quality is not None
        frame = "" if result.ref.frame is None else f" [{result.ref.frame}]"
        table.add_row(
            str(result.number),
            number(result.ref.position_mm, 1),
            f"{quality.mean:.3f}",
            f"{quality.p05:.3f}",
            f"{quality.below_threshold:.0%}",
            percent(dose.level) if dose else number(None, 0),
            number(result.noise_hu, 1),
            Text(shorten(result.ref.path, PATH_WIDTH - len(frame)) + frame),
        )
    return table


def _latency_table(summary: SeriesSummary) -> Table:
    latency = dict(summary.latency)
    table = _table("latency, ms")
    for heading in ("stage", "p50", "p90", "p99"):
        table.add_column(heading, justify="left" if heading == "stage" else "right", no_wrap=True)
    if "h2d" not in latency:
        latency.pop("compute", None)  # without transfers it is what `infer` is
    for stage, values in latency.items():
        name = STAGE_NAMES.get(stage, stage)
        table.add_row(name, number(values.p50, 1), number(values.p90, 1), number(values.p99, 1))
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


def _render_left_out(assessment: RunReport, console: Console) -> None:
    files = count_files(assessment)
    seen = files.pop("seen")
    parts = [f"{count} {name.replace('_', ' ')}" for name, count in files.items() if count]
    console.print(Text(f"{seen} file{'' if seen == 1 else 's'}: {', '.join(parts) or 'none assessed'}"))
    if assessment.rejected or assessment.skipped:
        console.print(Padding(_reasons_table(assessment), INDENT, expand=False))
    for item in assessment.rejected[:REJECTED_SHOWN]:
        console.print(Text(f"  rejected: {shorten(item.path, PATH_WIDTH)}: {printable(item.detail)}"))
    if len(assessment.rejected) > REJECTED_SHOWN:
        console.print(Text(f"  and {len(assessment.rejected) - REJECTED_SHOWN} more: --json lists them all"))
    if not assessment.complete:
        console.print(Text("Interrupted: the numbers above are of the slices done so far.", style="bold"))


def _reasons_table(assessment: RunReport) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for kind, items in (("rejected", assessment.rejected), ("skipped", assessment.skipped)):
        for reason, count in Counter(item.reason for item in items).most_common():
            table.add_row(kind, str(count), reason.value, Text(reason.description))
    return table
