"""What an administrator installs: unit, alert rules, dashboard; read by the programs they are for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.helpers.node import free_port, wait_for

DEPLOY = Path(__file__).parents[2] / "deploy"
METRIC = re.compile(r"n2q_edge_\w+")

# All that a node counts, counted once, and what holds at this moment.
EXPOSITION = """
import sys, time
from n2q_edge.service import metrics, status, web
from prometheus_client.metrics import MetricWrapperBase
for each in vars(metrics).values():
    if isinstance(each, MetricWrapperBase):
        one = each.labels(*["disk"] * len(each._labelnames)) if each._labelnames else each
        one.observe(1) if hasattr(one, "observe") else one.inc()
deliveries = [status.Delivery("pacs", "dicom", 1, 1, "")]
now = status.Status(time.time(), [], None, 3, 5e4, 1024, [], [], deliveries, {}, {"disk": True}, [], False)
running = {name: True for name in ("receiver", "worker", "outbox")}
sys.stdout.buffer.write(web.exposition(now, running)[1])
"""


@pytest.mark.peer
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "n2q-edge.service").read_text()
    unit = tmp_path / "n2q-edge.service"
    unit.write_text(text.replace("/opt/n2q-edge/bin/n2q-edge", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    if "Failed to" in done.stderr and "unit" not in done.stderr:
        pytest.skip("systemd-analyze does not run here")
    assert (done.returncode, done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0  # exposure at most 2.0


def expressions() -> list[str]:
    """Of all rules and all panels."""
    rules = re.findall(r"^\s+expr: (.+)$", (DEPLOY / "prometheus-rules.yml").read_text(), re.MULTILINE)
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return rules + [each.replace("$instance", ".*") for each in panels]


@pytest.mark.peer
@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool")
def test_the_rules_are_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(DEPLOY / "prometheus-rules.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "11 rules found" in done.stdout


@pytest.mark.peer
@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs prometheus")
def test_every_expression_is_about_metrics_that_there_are(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "metrics").mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))
    text = subprocess.run([sys.executable, "-c", EXPOSITION], capture_output=True, check=True).stdout

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    node = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=node.serve_forever, daemon=True).start()
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"rule_files: ['{DEPLOY / 'prometheus-rules.yml'}']\n"
        "scrape_configs:\n  - job_name: n2q-edge\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{node.server_address[1]}']}}]\n"
    )
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
    prometheus = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(path: str, **query: str):
        url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it is starting
                return None
            raise AssertionError(f"{query}: {error.read().decode()}") from None
        except OSError:
            return None

    try:
        wait_for("a scrape", lambda: (ask("query", query="n2q_edge_ready") or {}).get("result"), 40)
        known = set(ask("label/__name__/values"))
        for expression in expressions():
            assert set(METRIC.findall(expression)) <= known, expression
            assert ask("query", query=expression)["resultType"] == "vector"
        assert len(ask("rules")["groups"][0]["rules"]) == 11
    finally:
        prometheus.terminate()
        prometheus.wait(20)
        node.shutdown()


def test_every_metric_is_watched_or_shown() -> None:
    """A counter nobody looks at is one nobody needs; those for looking up are named here."""
    from n2q_edge.service import metrics

    for_looking_up = {
        "bytes_received",
        "associations",
        "own_results_dropped",
        "dose_reports",
        "watched_files",
    }
    names = {each._name for each in vars(metrics).values() if hasattr(each, "_name")}
    seen = " ".join(expressions())
    assert {name for name in names if name not in seen} == {f"n2q_edge_{name}" for name in for_looking_up}


def test_orthanc_script_names_a_call_that_takes_series() -> None:
    text = (DEPLOY / "integrations" / "orthanc.lua").read_text()
    assert "RestApiPost('/modalities/n2q/store', seriesId)" in text


@pytest.mark.parametrize("name", ["mercure-module.json", "xnat-command.json"])
def test_json_of_other_platforms_is_json(name: str) -> None:
    assert json.loads((DEPLOY / "integrations" / name).read_text())
