"""Report verdicts to a URL that the policy names. Nothing is sent unless it names one."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

import n2q_edge
from n2q_edge.quality.policy import Verdict, Webhook
from n2q_edge.report.text import printable

MAX_REASON = 200  # characters of what a server says


def message(document: dict[str, Any], on: frozenset[Verdict]) -> dict[str, Any] | None:
    """What to send about a run, or None if no series has a verdict to report.

    Args:
        document: the run's JSON document.
        on: verdicts that are reported.

    Returns:
        Model, policy and, for every series with such a verdict, the UIDs that find it in the archive, the
        verdict with its reasons, and the summary of its quality. No name, no path, no free text of the
        headers.
    """
    wanted = {verdict.value for verdict in on}
    series = [
        {
            "study_instance_uid": entry["study_instance_uid"],
            "series_instance_uid": entry["series_instance_uid"],
            "verdict": entry["verdict"],
            "slices": entry["summary"]["slices"],
            "quality": entry["summary"]["quality"],
        }
        for entry in document["series"]
        if entry["verdict"]["code"] in wanted
    ]
    if not series:
        return None
    return {
        "schema_version": 1,
        "sender": f"n2q-edge {document['n2q_edge_version']}",
        "created": document["created"],
        "model": {key: document["model"][key] for key in ("name", "version", "sha256")},
        "policy": {key: document["policy"][key] for key in ("name", "sha256")},
        "series": series,
    }


def post(webhook: Webhook, content: dict[str, Any]) -> str | None:
    """POST `content` as JSON, once.

    `timeout_s` is for the whole exchange, name look-up included: a socket's timeout starts again with every
    byte, so the exchange is left to a thread that nobody waits for any longer than that.

    Returns:
        None if the server took it (2xx), else one line that says why not. Never raises for a network's
        failure: a result must not be lost because nobody listened.
    """
    answer: list[str | None] = []
    exchange = threading.Thread(
        target=lambda: answer.append(_exchange(webhook, content)), name="n2q-webhook", daemon=True
    )
    exchange.start()
    exchange.join(webhook.timeout_s)
    return answer[0] if answer else _late(webhook)


def _late(webhook: Webhook) -> str:
    return f"no answer within {webhook.timeout_s:g} s"


def _exchange(webhook: Webhook, content: dict[str, Any]) -> str | None:
    request = urllib.request.Request(
        webhook.url,
        data=json.dumps(content, allow_nan=False).encode("utf-8"),
        headers={"Content-Type": "application/json", "User-Agent": f"n2q-edge/{n2q_edge.__version__}"},
        method="POST",
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=webhook.timeout_s):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"the server answered {error.code}"
    except (OSError, HTTPException, ValueError) as error:  # URLError and TimeoutError are OSErrors
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            return _late(webhook)
        return printable(" ".join(str(reason).split()) or type(error).__name__)[:MAX_REASON]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A verdict goes to the URL in the policy and nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
