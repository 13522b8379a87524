from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from n2q_edge.cli import main
from n2q_edge.errors import UsageError
from n2q_edge.quality.policy import DEFAULT, Policy, Verdict, Webhook, load_policy
from n2q_edge.report.webhook import message, post
from tests.helpers.fakes import FakeRuntime
from tests.helpers.paths import ROOT

CtSeries = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
DOCS = ROOT / "docs" / "reference" / "policy.md"

TWO_RULES = """
schema_version = 1
name = "site A"
[[rule]]
name = "head"
body_part = ["HEAD", "*BRAIN*"]
kernel = "H*"
usable = { series_mean = 0.5 }
meets = { series_mean = 0.9 }
[[rule]]
name = "rest"
usable = { series_mean = 0.4, slice_mean = 0.2, slices_tolerated = 0.25 }
meets = { series_mean = 0.6, slice_mean = 0.5, slices_tolerated = 0.25 }
[actions.exit_code]
on = ["unusable"]
"""


def policy(tmp_path: Path, text: str = TWO_RULES) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return load_policy(path)


def test_dicom_codes_are_those_of_the_standard() -> None:
    sr = pytest.importorskip("pydicom.sr.codedict")
    for verdict in Verdict:
        code = next(
            concept
            for concept in (getattr(sr.codes.DCM, name) for name in dir(sr.codes.DCM))
            if concept.value == verdict.dicom_code
        )
        assert code.meaning == verdict.meaning


# Means that reach or miss each standard of the rule "rest", by arithmetic.
@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ([0.7, 0.7, 0.7, 0.7], Verdict.USABLE),
        ([0.6, 0.6, 0.6, 0.6], Verdict.USABLE),  # a limit that is just reached is reached
        ([0.8, 0.8, 0.8, 0.4], Verdict.USABLE),  # mean 0.7; one of four low, 25 % tolerated
        ([0.9, 0.9, 0.45, 0.45], Verdict.DOES_NOT_MEET),  # mean 0.675; two of four below 0.5
        ([0.5, 0.5, 0.5, 0.5], Verdict.DOES_NOT_MEET),  # mean below 0.6
        ([0.9, 0.9, 0.1, 0.1], Verdict.UNUSABLE),  # mean 0.5, but two of four below 0.2
        ([0.3, 0.3, 0.3, 0.3], Verdict.UNUSABLE),  # mean below 0.4
    ],
)
def test_verdict(tmp_path: Path, means: list[float], verdict: Verdict) -> None:
    judgement = policy(tmp_path).judge({"body_part": "ABDOMEN"}, means)
    assert judgement.verdict is verdict
    assert judgement.rule == "rest"
    assert judgement.reasons


def test_the_tolerance_is_exact(tmp_path: Path) -> None:
    """In floating point 0.29 * 100 is less than 29."""
    text = TWO_RULES.replace("slices_tolerated = 0.25", "slices_tolerated = 0.29")
    tolerated, too_many = ([0.1] * low + [0.9] * (100 - low) for low in (29, 30))
    assert policy(tmp_path, text).judge({}, tolerated).verdict is Verdict.USABLE
    assert policy(tmp_path, text).judge({}, too_many).verdict is Verdict.UNUSABLE


def test_reasons_name_both_sides(tmp_path: Path) -> None:
    judgement = policy(tmp_path).judge({}, [0.9, 0.9, 0.1, 0.1])
    assert judgement.reasons == ("2 of 4 slices are below 0.2 (25 % tolerated)",)
    judgement = policy(tmp_path).judge({}, [0.599] * 4)
    assert judgement.reasons == ("the mean quality is 0.599, below 0.6",)


@pytest.mark.parametrize(("strange", "judged"), [(0, True), (2, True), (3, False), (4, False)])
def test_more_than_half_out_of_domain_is_not_judged(tmp_path: Path, strange: int, judged: bool) -> None:
    """Two of four are half, three are more."""
    judgement = policy(tmp_path).judge({}, [0.9] * 4, strange)
    assert judgement.verdict is (Verdict.USABLE if judged else None)
    if not judged:
        assert judgement.reasons == (f"{strange} of 4 scored slices are out of domain (50 % tolerated)",)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("not_judged", None),
        ("usable_does_not_meet", Verdict.DOES_NOT_MEET),
        ("unusable", Verdict.UNUSABLE),
    ],
)
def test_the_policy_says_what_is_out_of_domain(tmp_path: Path, name: str, verdict: Verdict | None) -> None:
    chosen = f'[out_of_domain]\nshare = 0.25\nverdict = "{name}"\n[[rule]]\nname = "head"'
    rules = policy(tmp_path, TWO_RULES.replace('[[rule]]\nname = "head"', chosen))
    assert rules.judge({}, [0.9] * 4, 1).verdict is Verdict.USABLE
    assert rules.judge({}, [0.9] * 4, 2).verdict is verdict


@pytest.mark.parametrize("line", ['verdict = "usable"', "verdict = 1", "share = 1.5", "shares = 0.5"])
def test_what_is_out_of_domain_cannot_be_usable(tmp_path: Path, line: str) -> None:
    text = TWO_RULES.replace('[[rule]]\nname = "head"', f'[out_of_domain]\n{line}\n[[rule]]\nname = "head"')
    with pytest.raises(UsageError, match="out_of_domain"):
        policy(tmp_path, text)


@pytest.mark.parametrize(
    ("protocol", "rule"),
    [
        ({"body_part": "HEAD", "kernel": "H30s"}, "head"),
        ({"body_part": "head", "kernel": "h30s"}, "head"),
        ({"body_part": "THE BRAINSTEM", "kernel": "H"}, "head"),
        ({"body_part": "HEAD", "kernel": "B30s"}, "rest"),  # every field must match
        ({"body_part": "HEADNECK", "kernel": "H30s"}, "rest"),  # the whole value must match
        ({"body_part": None, "kernel": "H30s"}, "rest"),
        ({}, "rest"),
    ],
)
def test_the_first_rule_that_matches_decides(tmp_path: Path, protocol: dict[str, Any], rule: str) -> None:
    assert policy(tmp_path).judge(protocol, [0.7]).rule == rule


def test_not_judged_says_why(tmp_path: Path) -> None:
    text = TWO_RULES.replace('name = "rest"', 'name = "rest"\nbody_part = "ABDOMEN"')
    assert policy(tmp_path).judge({}, []).reasons == ("no slice has a score",)
    unmatched = policy(tmp_path, text).judge({"body_part": "FOOT"}, [0.7])
    assert (unmatched.verdict, unmatched.rule) == (None, None)
    text = 'schema_version = 1\nname = "x"\n[[rule]]\nname = "sharp"\nout_of_scope = "not learned"\n'
    sharp = policy(tmp_path, text).judge({}, [0.7])
    assert (sharp.verdict, sharp.rule, sharp.reasons) == (None, "sharp", ("not learned",))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ("schema_version = 1", "schema_version = ", "not TOML"),
        ('name = "site A"', "", "name"),
        ("[[rule]]", "[rule]", "not TOML"),
        ("series_mean = 0.5 }", "series_men = 0.5 }", "series_men"),
        ("series_mean = 0.5 }", "series_mean = 1.5 }", "1.5"),
        ("series_mean = 0.5 }", "series_mean = nan }", "nan"),
        ("series_mean = 0.5 }", 'series_mean = "0.5" }', "0.5"),
        ("series_mean = 0.5 }", "slice_mean = 0.5 }", "series_mean is missing"),
        ("usable = { series_mean = 0.5 }", "usable = { series_mean = 0.95 }", "asks more of `usable`"),
        ("usable = { series_mean = 0.5 }", "", "usable is missing"),
        ('kernel = "H*"', "kernel = 3", "kernel"),
        ('kernel = "H*"', 'kernal = "H*"', "kernal"),
        ('kernel = "H*"', 'out_of_scope = "no"', "choose one"),
        ('on = ["unusable"]', 'on = ["bad"]', "list of verdicts"),
        ('on = ["unusable"]', "when = 3", "when"),
        ("[actions.exit_code]", '[actions.webhook]\nurl = "ftp://x/y"\n[actions.exit_code]', "http://"),
        ("[actions.exit_code]", '[actions.webhook]\nurl = "http://"\n[actions.exit_code]', "http://"),
        (
            "[actions.exit_code]",
            '[actions.webhook]\nurl = "http://a"\ntimeout_s = 0\n[actions.exit_code]',
            "60",
        ),
    ],
)
def test_a_bad_policy_is_one_line_with_the_file(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in TWO_RULES
    with pytest.raises(UsageError, match=r"policy\.toml") as caught:
        policy(tmp_path, TWO_RULES.replace(old, new, 1))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_policy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml"):
        load_policy(tmp_path / "nowhere.toml")


def test_the_default_policy_acts_on_nothing_and_judges_everything() -> None:
    default = load_policy()
    assert default.source is None
    assert default.exit_code_on == frozenset()
    assert default.webhook is None
    assert default.judge({}, [0.99]).verdict is Verdict.USABLE
    assert default.judge({}, [0.01]).verdict is Verdict.UNUSABLE
    assert default.judge({"kernel": "LUNG"}, [0.99]).verdict is None
    assert default.judge({"kernel": "STANDARD"}, [0.99]).verdict is Verdict.USABLE
    assert default.judge({"kernel": "B31f"}, [0.99]).verdict is Verdict.USABLE
    assert default.judge({"kernel": "B60f"}, [0.99]).verdict is None
    assert default.judge({"kernel": "Br36"}, [0.99]).verdict is Verdict.USABLE
    assert default.judge({"kernel": "Br68"}, [0.99]).verdict is None


def test_the_documentation_shows_the_default_policy() -> None:
    assert DEFAULT.read_text("utf-8").strip() in DOCS.read_text("utf-8")


# ---------------------------------------------------------------------------------------------------- webhook


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


class Server:
    """A receiver on loopback: keeps what it gets, answers what it is told."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.types: list[str | None] = []
        self.answer = 200
        self.hang = threading.Event()
        self.hang.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.types.append(self.headers["Content-Type"])
                outer.hang.wait(5)
                self.send_response(outer.answer)
                if outer.answer in (302, 307):
                    self.send_header("Location", f"{outer.url}/elsewhere")
                self.end_headers()

            def do_GET(self) -> None:
                outer.bodies.append("redirected")
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()


def webhook(url: str, timeout_s: float = 5) -> Webhook:
    return Webhook(url, frozenset(Verdict), timeout_s)


def test_a_message_arrives_as_json(server: Server) -> None:
    assert post(webhook(server.url), {"series": [1, "ü"]}) is None
    assert server.bodies == [{"series": [1, "ü"]}]
    assert server.types == ["application/json"]


@pytest.mark.parametrize("answer", [302, 307, 404, 500])
def test_a_refusal_is_a_line_and_is_not_followed(server: Server, answer: int) -> None:
    server.answer = answer
    assert post(webhook(server.url), {}) == f"the server answered {answer}"
    assert server.bodies == [{}]


def test_a_server_that_hangs_is_left(server: Server) -> None:
    server.hang.clear()
    assert post(webhook(server.url, timeout_s=0.2), {}) == "no answer within 0.2 s"


def test_nobody_there() -> None:
    assert "refused" in str(post(webhook("http://127.0.0.1:9"), {})).lower()
    assert post(webhook("http://no-such-host.invalid/x"), {})


def document(*codes: str | None) -> dict[str, Any]:
    return {
        "n2q_edge_version": "1",
        "created": "2026-01-01T00:00:00Z",
        "model": {"name": "m", "version": "1", "sha256": "0", "path": "/secret"},
        "policy": {"name": "p", "sha256": "1", "source": "/secret"},
        "series": [
            {
                "study_instance_uid": "1.2",
                "series_instance_uid": f"1.2.{index}",
                "protocol": {"series_description": "SMITH^JOHN"},
                "verdict": {"code": code, "reasons": ["why"]},
                "summary": {"slices": 3, "quality": {"mean": 0.4}},
            }
            for index, code in enumerate(codes)
        ],
    }


def test_only_the_verdicts_asked_for_are_reported_without_names_or_paths() -> None:
    built = document("usable", "unusable", None)
    content = message(built, frozenset({Verdict.UNUSABLE}))
    assert content
    assert [item["series_instance_uid"] for item in content["series"]] == ["1.2.1"]
    assert content["series"][0]["verdict"] == {"code": "unusable", "reasons": ["why"]}
    assert "SMITH" not in json.dumps(content)
    assert "secret" not in json.dumps(content)
    assert message(document("usable"), frozenset({Verdict.UNUSABLE})) is None


# ---------------------------------------------------------------------------------------------- command line


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """Quality is 0.3 everywhere: with the rule "rest" that is unusable."""
    runtime = FakeRuntime(lambda hu: np.full_like(hu, 0.3))
    monkeypatch.setattr("n2q_edge.runtimes.open_model", lambda *_, **__: runtime)
    return runtime


def write_policy(tmp_path: Path, more: str = "") -> str:
    path = tmp_path / "site.toml"
    path.write_text(TWO_RULES + more)
    return str(path)


def test_the_policy_decides_the_exit_code(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["assess", str(ct_series()), "--json", "--policy", write_policy(tmp_path)]) == 10
    built = json.loads(capsys.readouterr().out)
    assert built["exit_code"] == 10
    assert built["policy"]["name"] == "site A"
    verdict = built["series"][0]["verdict"]
    assert (verdict["code"], verdict["dicom_code"], verdict["rule"]) == ("unusable", "111235", "rest")
    assert verdict["limits"]["meets"] == {"series_mean": 0.6, "slice_mean": 0.5, "slices_tolerated": 0.25}


def test_the_default_policy_changes_no_exit_code(
    fake: FakeRuntime, ct_series: CtSeries, capsys: Capture
) -> None:
    assert main(["assess", str(ct_series())]) == 0
    assert "verdict     unusable: the mean quality is 0.30, below" in capsys.readouterr().out


def test_a_bad_policy_ends_the_run_before_it_begins(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text("nonsense")
    assert main(["assess", str(ct_series()), "--policy", str(tmp_path / "bad.toml")]) == 2
    assert fake.calls == []


def test_the_webhook_is_told(fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, server: Server) -> None:
    policy_file = write_policy(tmp_path, f'[actions.webhook]\nurl = "{server.url}"\n')
    assert main(["assess", str(ct_series()), "--policy", policy_file]) == 10
    (body,) = server.bodies
    assert body["series"][0]["verdict"]["code"] == "unusable"
    assert "SECRET" not in json.dumps(body)


def test_a_webhook_that_fails_is_a_warning_and_loses_nothing(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, server: Server, capsys: Capture
) -> None:
    server.answer = 500
    policy_file = write_policy(tmp_path, f'[actions.webhook]\nurl = "{server.url}"\n')
    out = tmp_path / "out"
    assert main(["assess", str(ct_series()), "-o", str(out), "--policy", policy_file]) == 10
    assert "warning: the webhook of the policy was not reached: the server answered 500" in (
        capsys.readouterr().err
    )
    assert (out / "report.html").is_file()
