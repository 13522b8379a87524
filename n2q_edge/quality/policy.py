"""The quality policy: what the scores of a series mean, and what is to be done about it.

A policy is a TOML file (docs/reference/policy.md); `policies/default.toml` is the default. Its rules are
tried from the top, the first that matches a series decides. Judging needs the slices' mean qualities and how
many of them the tool itself doubts, so stored scores can be judged again with other thresholds.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from n2q_edge.errors import UsageError

SCHEMA_VERSION = 1
DEFAULT_OUT_OF_DOMAIN_SHARE = 0.5
DEFAULT = Path(__file__).parent / "policies" / "default.toml"
MATCHABLE = (
    "body_part",
    "protocol_name",
    "series_description",
    "manufacturer",
    "model",
    "station",
    "kernel",
)
"""What a rule can match: texts of `n2q_edge.dicom.protocol`."""


class Verdict(str, Enum):
    """What a series is good for: the three values of DCM 111050 "Quality Assessment" (PS3.16 CID 6044)."""

    USABLE = "usable"
    DOES_NOT_MEET = "usable_does_not_meet"
    UNUSABLE = "unusable"

    @property
    def dicom_code(self) -> str:
        """Code value in the coding scheme DCM."""
        return {Verdict.USABLE: "111237", Verdict.DOES_NOT_MEET: "111236", Verdict.UNUSABLE: "111235"}[self]

    @property
    def meaning(self) -> str:
        """Code meaning, as PS3.16 has it."""
        return {
            Verdict.USABLE: "Usable - Meets the quality control standard",
            Verdict.DOES_NOT_MEET: "Usable - Does not meet the quality control standard",
            Verdict.UNUSABLE: "Unusable - Quality renders image unusable",
        }[self]


@dataclass(frozen=True)
class Standard:
    """What a series must reach.

    Attributes:
        series_mean: least mean quality of the series, SSIM.
        slice_mean: least mean quality of a slice, SSIM.
        slices_tolerated: fraction of the slices that may be below `slice_mean`.
    """

    series_mean: float
    slice_mean: float = 0.0
    slices_tolerated: float = 0.0

    def shortfalls(self, slice_means: Sequence[float]) -> tuple[str, ...]:
        """What `slice_means`, which are not empty, fall short of, each as a clause; empty if of nothing."""
        mean = statistics.fmean(slice_means)
        low = sum(value < self.slice_mean for value in slice_means)
        found = []
        if mean < self.series_mean:
            found.append(f"the mean quality is {_two_sides(mean, self.series_mean)}")
        if low / len(slice_means) > self.slices_tolerated + 1e-9:  # 29 of 100 are not more than 0.29
            found.append(
                f"{low} of {len(slice_means)} slices are below {self.slice_mean:g} "
                f"({100 * self.slices_tolerated:g} % tolerated)"
            )
        return tuple(found)


def _two_sides(value: float, limit: float) -> str:
    """'0.48, below 0.5' with as many digits as it takes to tell the two apart."""
    digits = next((d for d in (2, 3, 4) if round(value, d) != round(limit, d)), 6)
    return f"{value:.{digits}f}, below {limit:g}"


@dataclass(frozen=True)
class Rule:
    """Standards for the series it matches.

    Attributes:
        name: for the report.
        patterns: field of `MATCHABLE` to patterns, of which one must match; every field must.
        usable: below it the series is unusable.
        meets: below it the series does not meet the standard.
        out_of_scope: instead of standards: why such a series is not judged.
    """

    name: str
    patterns: Mapping[str, tuple[str, ...]]
    usable: Standard | None = None
    meets: Standard | None = None
    out_of_scope: str | None = None

    def matches(self, protocol: Mapping[str, Any]) -> bool:
        """Whether the series' protocol fits: patterns with * and ?, case ignored, whole value."""
        return all(
            any(fnmatchcase(str(protocol.get(name) or "").upper(), pattern.upper()) for pattern in patterns)
            for name, patterns in self.patterns.items()
        )


@dataclass(frozen=True)
class Webhook:
    """Where to report verdicts to; nothing is sent unless the policy names a URL."""

    url: str
    on: frozenset[Verdict]
    timeout_s: float


@dataclass(frozen=True)
class Judgement:
    """What the policy says about a series.

    Attributes:
        verdict: None if it was not judged.
        rule: the rule that decided, if one did.
        reasons: why, each a clause without a full stop.
        standards: `usable` and `meets` of that rule; None if it has none.
    """

    verdict: Verdict | None
    rule: str | None
    reasons: tuple[str, ...]
    standards: Mapping[str, Standard] | None = None


@dataclass(frozen=True)
class Policy:
    """A policy file.

    Attributes:
        name: for the report.
        source: the file; None for the default.
        sha256: of the file.
        rules: in order; the first that matches decides.
        out_of_domain_share: of the scored slices; a series with more of them out of domain is not judged by
            its scores.
        out_of_domain_verdict: what such a series gets instead; None is not judged. Never usable.
        exit_code_on: verdicts that end the run with exit code 10.
        webhook: where to report to, if asked for.
    """

    name: str
    source: Path | None
    sha256: str
    rules: tuple[Rule, ...]
    out_of_domain_share: float
    out_of_domain_verdict: Verdict | None
    exit_code_on: frozenset[Verdict]
    webhook: Webhook | None

    def judge(self, protocol: Mapping[str, Any], slice_means: Sequence[float], doubted: int = 0) -> Judgement:
        """Judge a series.

        Args:
            protocol: its protocol, see `n2q_edge.dicom.protocol`.
            slice_means: mean quality of every slice that has one.
            doubted: how many of these slices are unlike what models are trained on.
        """
        rule = next((rule for rule in self.rules if rule.matches(protocol)), None)
        if rule is None:
            return Judgement(None, None, ("no rule of the policy matches this series",))
        if rule.out_of_scope:
            return Judgement(None, rule.name, (rule.out_of_scope,))
        assert rule.usable
        assert rule.meets
        standards = {"usable": rule.usable, "meets": rule.meets}
        if not slice_means:
            return Judgement(None, rule.name, ("no slice has a score",), standards)
        if doubted / len(slice_means) > self.out_of_domain_share + 1e-9:
            reason = (
                f"{doubted} of {len(slice_means)} scored slices are out of domain "
                f"({100 * self.out_of_domain_share:g} % tolerated)"
            )
            return Judgement(self.out_of_domain_verdict, rule.name, (reason,), standards)
        if reasons := rule.usable.shortfalls(slice_means):
            return Judgement(Verdict.UNUSABLE, rule.name, reasons, standards)
        if reasons := rule.meets.shortfalls(slice_means):
            return Judgement(Verdict.DOES_NOT_MEET, rule.name, reasons, standards)
        reached = (
            f"the mean quality is {statistics.fmean(slice_means):.2f}, at or above {rule.meets.series_mean:g}"
        )
        return Judgement(Verdict.USABLE, rule.name, (reached,), standards)


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file, or the default policy.

    Raises:
        UsageError: it cannot be read, is no TOML, or something in it is unknown, missing or out of range.
    """
    file = path or DEFAULT
    try:
        data = file.read_bytes()
        content = _parse(data.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the policy {file}: {error.strerror}") from None
    except ValueError as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise UsageError(f"the policy {file} is not TOML: {error}") from None
    try:
        return _policy(content, path, hashlib.sha256(data).hexdigest())
    except _Invalid as error:
        raise UsageError(f"the policy {file}: {error}; see docs/reference/policy.md") from None


class _Invalid(Exception):  # noqa: N818 - becomes a UsageError with the file's name
    pass


def _parse(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    content: dict[str, Any] = tomllib.loads(text)
    return content


def _policy(content: dict[str, Any], source: Path | None, sha256: str) -> Policy:
    _only(content, "the file", {"schema_version", "name", "out_of_domain", "rule", "actions"})
    if content.get("schema_version") != SCHEMA_VERSION:
        raise _Invalid(f"schema_version is {content.get('schema_version')!r}, not {SCHEMA_VERSION}")
    rules = content.get("rule")
    if not isinstance(rules, list) or not rules:
        raise _Invalid("there is no [[rule]]")
    domain = _table(content.get("out_of_domain", {}), "out_of_domain")
    _only(domain, "[out_of_domain]", {"share", "verdict"})
    actions = _table(content.get("actions", {}), "actions")
    _only(actions, "[actions]", {"exit_code", "webhook"})
    exit_code = _table(actions.get("exit_code", {}), "actions.exit_code")
    _only(exit_code, "[actions.exit_code]", {"on"})
    return Policy(
        name=_text(content.get("name"), "name"),
        source=source,
        sha256=sha256,
        rules=tuple(_rule(_table(rule, "rule")) for rule in rules),
        out_of_domain_share=_fraction(
            domain.get("share", DEFAULT_OUT_OF_DOMAIN_SHARE), "out_of_domain.share"
        ),
        out_of_domain_verdict=_domain_verdict(domain.get("verdict", "not_judged")),
        exit_code_on=_verdicts(exit_code.get("on", []), "actions.exit_code.on"),
        webhook=_webhook(_table(actions["webhook"], "actions.webhook")) if "webhook" in actions else None,
    )


def _rule(table: dict[str, Any]) -> Rule:
    name = _text(table.get("name"), "the name of a [[rule]]")
    where = f"rule {name!r}"
    _only(table, where, {"name", "usable", "meets", "out_of_scope", *MATCHABLE})
    patterns = {field: _patterns(table[field], f"{where}, {field}") for field in MATCHABLE if field in table}
    if "out_of_scope" in table:
        if "usable" in table or "meets" in table:
            raise _Invalid(f"{where} has out_of_scope and standards: choose one")
        return Rule(name, patterns, out_of_scope=_text(table["out_of_scope"], f"{where}, out_of_scope"))
    usable, meets = (_standard(table.get(key), f"{where}, {key}") for key in ("usable", "meets"))
    if usable.series_mean > meets.series_mean or usable.slice_mean > meets.slice_mean:
        raise _Invalid(f"{where} asks more of `usable` than of `meets`")
    return Rule(name, patterns, usable, meets)


def _standard(value: Any, where: str) -> Standard:
    table = _table(value, where)
    _only(table, where, {"series_mean", "slice_mean", "slices_tolerated"})
    if "series_mean" not in table:
        raise _Invalid(f"{where}: series_mean is missing")
    return Standard(**{key: _fraction(item, f"{where}, {key}") for key, item in table.items()})


def _webhook(table: dict[str, Any]) -> Webhook:
    _only(table, "[actions.webhook]", {"url", "on", "timeout_s"})
    url = _text(table.get("url"), "actions.webhook.url")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise _Invalid("actions.webhook.url is no http:// or https:// URL")
    timeout = table.get("timeout_s", 5)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 60:
        raise _Invalid("actions.webhook.timeout_s is not between 0 and 60")
    on = _verdicts(table.get("on", [verdict.value for verdict in Verdict]), "actions.webhook.on")
    return Webhook(url, on, float(timeout))


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Invalid(f"{where} is missing or not a table")
    return value


def _only(table: dict[str, Any], where: str, known: set[str]) -> None:
    """A misspelt key must not be a standard that silently does not hold."""
    if unknown := sorted(set(table) - known):
        raise _Invalid(f"{where} has the unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Invalid(f"{where} is missing or not a text")
    return value


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    patterns = value if isinstance(value, list) else [value]
    return tuple(_text(pattern, where) for pattern in patterns)


def _fraction(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise _Invalid(f"{where} is {value!r}, not a number from 0 to 1")
    return float(value) if math.isfinite(value) else 0.0


def _domain_verdict(value: Any) -> Verdict | None:
    """A verdict of usable cannot be chosen: it would rest on what the tool itself doubts."""
    known = {
        "not_judged": None,
        Verdict.DOES_NOT_MEET.value: Verdict.DOES_NOT_MEET,
        Verdict.UNUSABLE.value: Verdict.UNUSABLE,
    }
    if not isinstance(value, str) or value not in known:
        raise _Invalid(f"out_of_domain.verdict is none of {', '.join(known)}")
    return known[value]


def _verdicts(value: Any, where: str) -> frozenset[Verdict]:
    try:
        return frozenset(Verdict(item) for item in value)
    except (ValueError, TypeError):
        known = ", ".join(verdict.value for verdict in Verdict)
        raise _Invalid(f"{where} is not a list of verdicts ({known})") from None
