"""The status page and the probes, without a node behind them."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from n2q_edge.errors import UsageError
from n2q_edge.service.index import Index, SeriesRow
from n2q_edge.service.outbox import Entry, make_folders
from n2q_edge.service.process import beat
from n2q_edge.service.settings import Destination, Node, Settings
from n2q_edge.service.settings import Spool as SpoolSettings
from n2q_edge.service.settings import Status as StatusSettings
from n2q_edge.service.web import StatusServer
from tests.helpers.node import CHROMIUM

KEY = "0123456789abcdef01234567"
ALL = {"receiver": True, "worker": True, "outbox": True}


class Page:
    """A status server over a folder that the test fills."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        metrics = folder / "metrics"
        metrics.mkdir()
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(metrics))
        pacs = Destination(name="pacs", kind="folder", folder="x")
        self.settings = Settings(
            node=Node(data=str(folder)),
            spool=SpoolSettings(**{"reserve_mb": 1, **changes}),
            status=StatusSettings(port=0),
            destination=(pacs,),
        )
        (folder / "run").mkdir()
        self.index = Index(folder)
        self.alive = dict(ALL)
        self.server = StatusServer(self.settings, lambda: self.alive)
        beat(
            folder, "receiver", associations=[], seen=[{"calling": "CT1", "address": "10.0.0.1", "time": 1.0}]
        )
        beat(folder, "worker", ready=True, waiting=3)

    def get(self, path: str = "") -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.server.url + path, timeout=10) as answer:
                self.headers = answer.headers
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def add(self, **changes: Any) -> None:
        now = time.time()
        summary = {
            "slices": 40,
            "verdict": "usable",
            "noise_hu": 14.6,
            "protocol": "Thorax",
            "scanner": "ACME",
        }
        summary |= changes.pop("summary", {})
        fields = {"state": "done", "first": now, "last": now, "revision": 1, "received": 40, "done": 40}
        row = {"key": KEY, **fields, "latency_s": 11.0, "summary": summary, **changes}
        self.index.set_series(SeriesRow(**row))
        self.index.commit()


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    made = Page(tmp_path, monkeypatch)
    with made.server:
        yield made


def test_verdict_noise_and_latency_are_on_the_page(page: Page) -> None:
    page.add()
    code, text = page.get()
    assert code == 200
    for shown in ("Ready", "✓ Usable", "Thorax", "15 HU", "11 s", "CT1", f"series/{KEY}/r001/report.html"):
        assert shown in text
    assert page.headers["Refresh"] == "5"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_progress_while_a_series_arrives(page: Page) -> None:
    page.add(state="arriving", received=40, done=12, summary={"slices": 0})
    text = page.get()[1]
    assert '<progress max="40" value="12">' in text
    assert "Arriving" in text


def test_what_comes_from_a_header_is_text(page: Page) -> None:
    page.add(summary={"protocol": "<script>alert(1)</script>", "scanner": "<b>"})
    text = page.get()[1]
    assert "<script" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("down", "said"),
    [("receiver", "scanner cannot send"), ("worker", "model is not running"), ("outbox", "Not delivering")],
)
def test_a_process_that_is_down_is_said_in_words(page: Page, down: str, said: str) -> None:
    page.alive[down] = False
    assert said in page.get()[1]
    assert page.get("healthz")[0] == 503
    code, text = page.get("readyz")
    assert code == 503
    assert not json.loads(text)["ready"]


def test_all_well_is_200(page: Page) -> None:
    assert page.get("healthz") == (200, json.dumps({"processes": ALL}) + "\n")
    assert page.get("readyz")[0] == 200


def test_a_full_disk_is_the_first_thing_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Page(tmp_path, monkeypatch, reserve_mb=10**9)
    with made.server:
        assert "images are refused" in made.get()[1]
        assert made.get("readyz")[0] == 503


def test_dead_letters_and_waiting_results(page: Page) -> None:
    page.add()
    root = make_folders(page.settings.data)
    entry = Entry(KEY, 1, "pacs", 1.0, 1.0, attempts=3, error="PACS does not answer")
    for folder in ("pending", "dead"):
        (root / folder / entry.file).write_text(json.dumps(entry.__dict__))
    text = page.get()[1]
    assert "1 results were given up" in text
    assert "PACS does not answer" in text
    assert "waits for pacs" in text


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        f"series/{KEY}/r001/../../../run/receiver.json",
        f"series/{KEY}/r001/%2e%2e/manifest.json",
        "series/../run/r001/receiver.json",
        f"series/{KEY}/r001/dicom/x.dcm",
    ],
)
def test_no_way_out_of_the_results(page: Page, path: str) -> None:
    assert page.get(path)[0] == 404


def test_metrics_are_prometheus_text(page: Page) -> None:
    code, text = page.get("metrics")
    assert code == 200
    assert re.search(r"^n2q_edge_waiting_slices 3\.0$", text, re.MULTILINE)
    assert re.search(r'^n2q_edge_up\{process="worker"\} 1\.0$', text, re.MULTILINE)


def test_an_address_in_use_is_named(page: Page) -> None:
    port = int(page.server.url.rpartition(":")[2].strip("/"))
    taken = Settings(node=page.settings.node, status=StatusSettings(port=port))
    with pytest.raises(UsageError, match=str(port)):
        StatusServer(taken, lambda: ALL)


@pytest.mark.peer
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_in_chromium_nothing_is_wider_than_the_window(page: Page, tmp_path: Path, width: int) -> None:
    page.add(
        summary={"protocol": "Abdomen portal venous with a long name", "reasons": ["the mean quality is 0.6"]}
    )
    picture = tmp_path / "page.png"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
    command += [
        f"--window-size={width},1200",
        f"--screenshot={picture}",
        "--hide-scrollbars",
        page.server.url,
    ]
    done = subprocess.run(command, capture_output=True, timeout=90)
    if not picture.exists():
        pytest.skip(f"chromium does not run here: {done.stderr.decode()[-200:]}")
    from PIL import Image

    with Image.open(picture) as image:
        pixels = image.convert("RGB")
        assert pixels.width == width
        background = pixels.getpixel((2, 2))
        edge = {pixels.getpixel((width - 3, y)) for y in range(0, pixels.height, 5)}
    assert edge == {background}  # nothing reaches into the margin
