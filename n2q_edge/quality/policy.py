"""The policy file: what the scores of a series mean, and what is to be done about it.

A policy is a TOML file (docs/reference/policy.md); `policies/default.toml` is the default.
"""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from n2q_edge.errors import UsageError
from n2q_edge.quality.verdict import MATCHABLE, Judgement, Policy, Rule, Standard, Verdict, Webhook

__all__ = ["DEFAULT", "Judgement", "Policy", "Verdict", "Webhook", "load_policy"]

SCHEMA_VERSION = 1
DEFAULT_OUT_OF_DOMAIN_SHARE = 0.5
DEFAULT = Path(__file__).parent / "policies" / "default.toml"


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
