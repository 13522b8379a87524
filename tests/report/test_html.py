from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.results import RunReport
from n2q_edge.assessment.run import assess
from n2q_edge.dicom import scan
from n2q_edge.quality.noise import NOISE_DISAGREEMENT, NOISE_RATIO_LIMIT, noise_disagrees
from n2q_edge.report import charts, document, drawing, html
from n2q_edge.runtimes.base import Inference
from n2q_edge.spec import FeatureLimits
from tests.helpers.drawing import drawn
from tests.helpers.fakes import FakeRuntime, phantom, write_series

CtSeries = Callable[..., Path]
STYLE = Path(html.__file__).parent / "templates" / "style.css"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ATTACK = "</title><script>alert(1)</script><img src=x onerror=a>\"'{{7*7}}"


def by_brightness(hu: FloatArray) -> FloatArray:
    return np.clip(hu / 100, 0, 1)


class NoisyRuntime(FakeRuntime):
    """Says that the noise is 40 HU everywhere."""

    def infer(self, hu: FloatArray, reference_noise_hu: FloatArray | None = None) -> Inference:
        found = super().infer(hu)
        return Inference(
            found.quality_map, found.dose_probabilities, found.timing, noise_map=np.full_like(hu, 40)
        )


def page(*folders: Path, runtime: FakeRuntime | None = None) -> str:
    run = assess(scan(list(folders)), runtime or FakeRuntime(by_brightness), worst=2, keep_images=True)
    return to_html(run)


def to_html(run: RunReport) -> str:
    return "".join(html.html_pieces(document.build(run), run, drawn(run)))


class Reader(HTMLParser):
    """Elements in order, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._skip = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._skip += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def attacked(folder: Path) -> Path:
    """A series whose every free text is an attack on the page."""
    write_series(folder, [phantom(96, 60), phantom(96, 20)])
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        for keyword in ("SeriesDescription", "ProtocolName", "Manufacturer", "ManufacturerModelName"):
            setattr(dataset, keyword, ATTACK)
        dataset.save_as(path)
    return folder


def test_verdict_and_why_come_first(ct_series: CtSeries) -> None:
    words = Reader(page(ct_series(images=[phantom(96, 10)] * 2))).words
    assert (
        words.index("Unusable") < words.index("Measured") < words.index("Predicted") < words.index("Protocol")
    )
    assert "The mean quality is 0.10, below" in words


def test_scores_protocol_latency_provenance_and_rejections_are_there(ct_series: CtSeries) -> None:
    folder = ct_series(images=[phantom(96, 60), phantom(96, 80)])
    (folder / "empty.dcm").touch()
    words = Reader(page(folder)).words
    for text in (
        "0.70 against an assumed full dose; lowest slice 0.60",  # the mean of 0.6 and 0.8
        "about 25 % of an assumed full dose; 2 of 2 slices",
        "the program's own policy: not a clinical standard",
        "120 kV",
        "STANDARD",
        "5 mm",
        "total, arrival to result",
        "0" * 64,
        "empty_file",
        "Color: predicted SSIM",
        "n2q-edge default",
    ):
        assert text in words, text


def test_the_page_loads_nothing_and_runs_nothing(ct_series: CtSeries) -> None:
    found = Reader(page(ct_series()))
    assert not found.named("script")
    for _, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            if value := attributes.get(name):
                assert value.startswith(("data:", "#")), value
    policies = [meta["content"] for meta in found.named("meta") if meta.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "http://" not in STYLE.read_text() + page(ct_series(number=2))


def test_hostile_texts_are_shown_as_text(tmp_path: Path) -> None:
    found = Reader(page(attacked(tmp_path)))
    assert not found.named("script")
    assert all("onerror" not in attributes for attributes in found.named("img"))
    assert "<script>alert(1)</script>" in found.words
    assert "{{7*7}}" in found.words


def test_every_picture_and_chart_has_words(ct_series: CtSeries) -> None:
    found = Reader(page(ct_series(images=[phantom(96, 60), phantom(96, 20)])))
    assert len(found.named("img")) == 4  # slice and overlay of two
    assert all(image["alt"] for image in found.named("img"))
    for chart in found.named("svg"):
        assert chart.get("aria-label") or chart.get("aria-hidden") == "true"
    assert "Predicted SSIM along z, 2 slices: mean 0.40, lowest 0.20 at slice 2" in [
        chart.get("aria-label") for chart in found.named("svg")
    ]


def test_landmarks_and_table_headers(ct_series: CtSeries) -> None:
    found = Reader(page(ct_series()))
    names = [name for name, _ in found.elements]
    assert [names.count(name) for name in ("header", "main", "footer", "h1")] == [1, 1, 1, 1]
    assert found.named("html")[0]["lang"] == "en"
    assert all(cell.get("scope") in ("col", "row") for cell in found.named("th"))
    identifiers = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in found.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in identifiers


def test_regions_are_listed_the_worst_first(tmp_path: Path) -> None:
    image = phantom(192, 20)  # soft tissue, with a block of bone in the middle
    image[80:112, 80:112] = 80
    image[90:102, 90:102] = 600
    write_series(tmp_path, [image])
    words = Reader(page(tmp_path)).words
    assert 0 < words.index("soft tissue") < words.index("bone")


def test_several_series_have_an_index(ct_series: CtSeries) -> None:
    folders = [ct_series(images=[phantom(96, 30 * n)] * 2, number=n) for n in (1, 2, 3)]
    found = Reader(page(*folders))
    assert [link["href"] for link in found.named("a")][1:] == ["#series1", "#series2", "#series3"]
    assert "3 series" in found.words
    index = found.words[: found.words.index("Along the patient")]
    for number, folder in enumerate(folders, start=1):
        assert f"Study 1.2.826.0.1.3680043.8.498.{number}.1" in index
        assert str(folder)[-40:] in index  # the end tells series apart
    assert index.count("scanner unknown") == 3


def test_many_series_keep_a_picture_each(ct_series: CtSeries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MAX_ON_PAGE", 3)
    found = Reader(page(*(ct_series(number=n) for n in (1, 2, 3))))
    assert len(found.named("img")) == 2 * 3
    assert "1 of 2 shown" in found.words


def test_nothing_assessed_is_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "empty.dcm").touch()
    assert "Nothing assessed" in Reader(page(tmp_path)).words


def test_slices_without_a_body(tmp_path: Path) -> None:
    write_series(tmp_path, [np.full((96, 96), -1000, np.float32)] * 2)
    words = Reader(page(tmp_path)).words
    assert "Not judged" in words
    assert "No patient was found in 2 of 2 slices" in words


def test_noise_that_disagrees_is_a_caution(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 8, (192, 192)).astype(np.float32)
    write_series(
        tmp_path, [np.where(phantom(192) > 0, phantom(192) + noise, phantom(192)).astype(np.float32)]
    )
    run = assess(scan([tmp_path]), NoisyRuntime(by_brightness), worst=1, keep_images=True)
    (result,) = run.series[0].slices
    assert result.noise_hu == pytest.approx(8, rel=0.1)
    assert NOISE_DISAGREEMENT in result.flags
    assert "the model and a model-free measure disagree on the noise" in Reader(to_html(run)).words


THICK = "thick slice: slice thickness 5 mm, training 1 to 3 mm"


def out_of_domain(folder: Path, model_s_thickness_mm: tuple[float, float]) -> str:
    """The page of a series of 5 mm slices, by a model that knows these thicknesses."""
    domain = {"slice_mm": FeatureLimits(model_s_thickness_mm, model_s_thickness_mm)}
    return Reader(page(folder, runtime=FakeRuntime(by_brightness, domain=domain))).words


def test_a_series_unlike_the_training_data_is_a_caution_with_its_reason(ct_series: CtSeries) -> None:
    words = out_of_domain(ct_series(images=[phantom(96, 60)] * 3), (1.0, 3.0))
    caution = "3 of 3 slices are out of domain: thick slice (slice thickness 5 mm, training 1 to 3 mm)"
    assert words.index("Caution:") < words.index(caution) < words.index("Measured")
    assert "out_of_domain 3 slices" in words
    assert words.count(THICK) == 2 + 3  # under two pictures and in the table of all slices


def test_the_index_of_several_series_says_it_too(ct_series: CtSeries) -> None:
    domain = {"slice_mm": FeatureLimits((1.0, 3.0), (1.0, 3.0))}
    folders = [ct_series(number=number) for number in (1, 2)]
    words = Reader(page(*folders, runtime=FakeRuntime(by_brightness, domain=domain))).words
    assert words.count("out of domain") == 3 * 2  # index, verdict and cautions


def test_the_page_says_whether_the_domain_was_checked(ct_series: CtSeries) -> None:
    words = out_of_domain(ct_series(number=2), (1.0, 8.0))
    assert "out of domain" not in words
    assert "every slice was compared with what the model was trained on" in words
    assert "not checked: the model does not say" in Reader(page(ct_series(number=3))).words


@pytest.mark.parametrize(
    ("measured", "model", "disagree"),
    [
        (10, 10, False),
        (10, 10 * 0.99 * NOISE_RATIO_LIMIT, False),
        (10, 10 * 1.01 * NOISE_RATIO_LIMIT, True),
        (10 * 1.01 * NOISE_RATIO_LIMIT, 10, True),
        (0.0, 0.4, False),  # both far below what CT can have: rounding
        (None, 10, False),
        (10, None, False),
    ],
)
def test_disagreement(measured: float | None, model: float | None, disagree: bool) -> None:
    assert noise_disagrees(measured, model) is disagree


# ----------------------------------------------------------------------------------------- charts and colours


def test_axis_ticks_are_round_and_hold_the_values() -> None:
    found = charts.axis([3.2, 17.9], "x")
    assert [label for _, label in found.ticks] == ["0", "5", "10", "15", "20"]
    assert charts.axis([0.41, 0.47], "x").ticks[0] == (pytest.approx(0.40), "0.40")
    flat = charts.axis([7.0], "x")
    assert flat.low < 7 < flat.high
    assert charts.axis([None], "x").high > charts.axis([None], "x").low


def test_a_line_breaks_where_a_value_is_missing() -> None:
    plot = charts.Plot(charts.axis([0, 4], "x"), charts.axis([0, 1], "y"))
    plot.line([0, 1, 2, 3, 4], [0.1, 0.2, None, 0.3, 0.4])
    assert str(plot.svg("two")).count("<polyline") == 2


def luminance(colour: str) -> float:
    """WCAG 2 relative luminance."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", range(3))
def test_text_has_the_contrast_that_wcag_asks_for(theme: int) -> None:
    """At least 4.5 in light, dark and print; lines and marks at least 3."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.S)
    assert len(blocks) == 3
    full = {"#fff": "#ffffff", "#000": "#000000"}
    colours = {
        name: full.get(value, value) for name, value in re.findall(r"--([\w-]+): (#\w+)", blocks[theme])
    }
    for ink in ("text", "muted", "link", "mark"):
        assert contrast(colours[ink], colours["card"]) >= 4.5, ink
        assert contrast(colours[ink], colours["page"]) >= 4.5, ink
    for name in ("good", "fair", "bad", "none"):
        for ink in (name, "text"):
            assert contrast(colours[ink], colours[f"{name}-bg"]) >= 4.5, (name, ink)
    for line in ("line", "second", "limit"):
        assert contrast(colours[line], colours["card"]) >= 3, line


# ---------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def in_browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Open a page in headless Chromium with every host name unresolvable; its log."""
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    profile = tmp_path_factory.mktemp("profile")

    def run(path: Path, *options: str) -> str:
        done = subprocess.run(
            [
                str(CHROMIUM),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-proxy-server",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                f"--user-data-dir={profile}",
                "--enable-logging=stderr",
                "--v=0",
                *options,
                path.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def requests(net_log: Path) -> set[str]:
    """URLs asked for, without those that Chromium asks of its maker by itself."""
    urls = re.findall(r'"url":"((?:https?|ftp|ws)[^"]*)"', net_log.read_text("utf-8", "replace"))
    own = re.compile(r"https?://[^/]*\.(google|googleapis|gstatic|gvt1)\.com/")
    return {url for url in urls if not own.match(url)}


@pytest.mark.peer
def test_a_browser_shows_it_without_a_message_or_a_request(
    in_browser: Callable[..., str], tmp_path: Path
) -> None:
    path, net = tmp_path / "report.html", tmp_path / "net.json"
    path.write_text(page(attacked(tmp_path / "series")), "utf-8")
    log = in_browser(path, "--screenshot=" + str(tmp_path / "shot.png"), f"--log-net-log={net}")
    assert "CONSOLE" not in log, log
    assert (tmp_path / "shot.png").read_bytes().startswith(b"\x89PNG")
    assert requests(net) == set()


@pytest.mark.peer
def test_the_browser_check_would_notice(in_browser: Callable[..., str], tmp_path: Path) -> None:
    """A page that breaks its policy leaves a message, one that loads a request: silence means something."""
    path, net = tmp_path / "bad.html", tmp_path / "net.json"
    path.write_text(
        "<meta http-equiv=Content-Security-Policy content=\"script-src 'none'\"><script>alert(1)</script>"
        '<img src="http://n2q-edge.invalid/x.png">'
    )
    assert "CONSOLE" in in_browser(path, f"--screenshot={tmp_path / 'shot.png'}", f"--log-net-log={net}")
    assert requests(net) == {"http://n2q-edge.invalid/x.png"}


@pytest.mark.peer
def test_it_prints_on_a4(in_browser: Callable[..., str], ct_series: CtSeries, tmp_path: Path) -> None:
    path, pdf = tmp_path / "report.html", tmp_path / "report.pdf"
    path.write_text(page(ct_series()), "utf-8")
    in_browser(path, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    boxes = {
        tuple(round(float(side)) for side in match.split())
        for match in re.findall(r"/MediaBox \[([^\]]*)\]", pdf.read_bytes().decode("latin-1"))
    }
    assert boxes == {(0, 0, 595, 842)}  # 210 x 297 mm in points


def pictures_of(text: str) -> list[bytes]:
    found: list[Any] = re.findall(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)", text)
    return [base64.b64decode(item) for item in found]


def test_pictures_are_whole(ct_series: CtSeries) -> None:
    from io import BytesIO

    from PIL import Image

    for data in pictures_of(page(ct_series(slices=2))):
        Image.open(BytesIO(data)).load()
