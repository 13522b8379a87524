"""What a series is good for: a policy's rules, and the verdict they come to.

Rules are tried from the top, the first that matches a series decides. Judging needs the slices' mean
qualities and how many of them the tool itself doubts, so stored scores can be judged again with other
thresholds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

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
