"""The page and the table of a report: whole, readable by anybody, and with the numbers of its rows."""

import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from report_cases import METHODS, METRICS, SIZES, make_curve, make_plan, make_report

from mrl.report import digits
from mrl.report.card import to_markdown
from mrl.report.page import to_html
from mrl.report.scales import Scale, across, size_ticks, upwards
from mrl.report.style import DARK, KINDS, LIGHT, TEXT
from mrl.report.values import Finding, ReportRow
from mrl.report.words import METHOD_WORDS

VOID = {"meta", "br", "link", "img", "hr", "input"}
SHAPES = {"line", "circle", "path", "polyline", "polygon"}
NAUGHTY = 'x<script>alert("1")</script> & <b>"\'</b> ' + "W" * 180


def nothing(row: ReportRow) -> ReportRow:
    return row._replace(value=math.nan, low=math.nan, high=math.nan)


def gaps(row: ReportRow) -> ReportRow:
    return nothing(row) if row.dim in (64, 768) or row.method == "pca" else row


def without_intervals(row: ReportRow) -> ReportRow:
    return row._replace(low=math.nan, high=math.nan)


def at_the_top(row: ReportRow) -> ReportRow:
    return row._replace(value=1.0, low=1.0, high=1.0)


CASES = {
    "whole": lambda: make_report(funnel=make_plan(), cascade=make_curve()),
    "every_method": lambda: make_report(methods=(*METHODS, "rotation", "adaptor", "my_own_way")),
    "no_labels": lambda: make_report(metrics=("recall_at_k", "rank_correlation"), price=None, findings=()),
    "labels_only": lambda: make_report(metrics=("nn_accuracy", "map_at_k", "an_unknown_metric")),
    "one_size": lambda: make_report(sizes=(768,), cascade=make_curve(1)),
    "one_method": lambda: make_report(methods=("prefix",), metrics=("recall_at_k",)),
    "one_figure": lambda: make_report(methods=("prefix",), metrics=("recall_at_k",), sizes=(64,), verdict=("Yes.",)),
    "no_prefix": lambda: make_report(methods=("pca", "random")),
    "forty_sizes": lambda: make_report(sizes=tuple(range(24, 985, 24)), metrics=("recall_at_k", "nn_accuracy")),
    "nan": lambda: make_report(change=nothing, metrics=METRICS[:3]),
    "gaps": lambda: make_report(change=gaps, metrics=METRICS[:3]),
    "no_intervals": lambda: make_report(change=without_intervals, metrics=METRICS[:3]),
    "at_the_top": lambda: make_report(change=at_the_top, metrics=METRICS[:3]),
    "long_words": lambda: make_report(
        title=NAUGHTY, verdict=(NAUGHTY, NAUGHTY), findings=(Finding("naughty", NAUGHTY),), metrics=METRICS[:2]
    ),
    "nothing": lambda: make_report(
        methods=(), sizes=(), metrics=(), verdict=(), findings=(), price=None, title="embeddings"
    ),
}


@pytest.fixture(scope="module")
def pages():
    made = {name: make() for name, make in CASES.items()}
    return {name: (report, to_html(report)) for name, report in made.items()}


class Page(HTMLParser):
    """Sees to balance while it reads, and remembers elements with their attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[dict] = []
        self.elements: list[dict] = []
        self.feed(text)
        self.close()
        assert not self.open, [one["tag"] for one in self.open]

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", "inside": [one["tag"] for one in self.open], **dict(attributes)}
        assert len(attributes) == len(dict(attributes)), (tag, attributes)
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        assert tag in SHAPES, tag
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag, tag

    def handle_data(self, text):
        for element in self.open:
            element["text"] += text

    def all(self, tag: str) -> list[dict]:
        return [one for one in self.elements if one["tag"] == tag]


@pytest.mark.parametrize("name", CASES)
def test_a_page_is_whole_and_stands_alone(name, pages) -> None:
    report, text = pages[name]
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & {one["tag"] for one in page.elements}
    for element in page.elements:
        assert not {"src", "srcset", "action", "onload", "onclick", "style"} & set(element), element
        assert element.get("href", "#").startswith("#")
    assert "url(" not in text and "@import" not in text
    ids = [one["id"] for one in page.elements if "id" in one]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for reference in (*element.get("aria-labelledby", "").split(), element.get("href", "")[1:]):
            assert not reference or reference in ids, element
    assert page.all("html")[0]["lang"] == "en"
    assert any(one.get("name") == "viewport" and "width=device-width" in one["content"] for one in page.all("meta"))
    assert page.all("title")[0]["text"].startswith(report.title)
    assert [one["text"] for one in page.all("h1")] == [report.title]
    levels = [int(one["tag"][1]) for one in page.elements if re.fullmatch("h[1-6]", one["tag"])]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("main")) == 1


@pytest.mark.parametrize("name", CASES)
def test_figures_have_a_text_and_tables_a_place_to_scroll(name, pages) -> None:
    page = Page(pages[name][1])
    drawings = [one for one in page.all("svg") if "svg" not in one["inside"]]
    for one in drawings:
        if one.get("aria-hidden") == "true":  # the key of a legend stands beside its words
            assert "ul" in one["inside"]
            continue
        assert one["role"] == "img"
        named = [next(e for e in page.elements if e.get("id") == i) for i in one["aria-labelledby"].split()]
        assert [e["tag"] for e in named] == ["title", "desc"] and all(len(e["text"]) > 10 for e in named)
    if name != "nothing":
        assert any(one.get("role") == "img" for one in drawings)
    places = [one for one in page.all("div") if one.get("class") == "scroll"]
    assert len(places) == len(page.all("table")) == len(page.all("caption"))
    assert all(one["tabindex"] == "0" and one["role"] == "region" and one["aria-label"] for one in places)
    for cell in page.all("th"):
        assert cell["scope"] in ("col", "row", "rowgroup")
    for number in re.findall(r'(?:x|y|x1|x2|y1|y2|points)="([^"]*)"', pages[name][1]):
        assert "nan" not in number and "inf" not in number


@pytest.mark.parametrize("name", CASES)
def test_every_row_is_in_the_page(name, pages) -> None:
    report, text = pages[name]
    found = re.findall(r'<data value="([^"]+)">([^<]*)</data>(?:<small>([^<]*)</small>)?', text)
    cells = {(float(value), shown, interval) for value, shown, interval in found if value != "nan"}
    for row in report.rows:
        percent = row.metric != "rank_correlation"
        shown, low, high = digits.triple(row.value, row.low, row.high, percent)
        if math.isnan(row.value):
            assert any(value == "nan" for value, _, _ in found)
        else:
            assert (row.value, shown, "" if math.isnan(row.low) else f"{low} to {high}") in cells, row
    for one in report.differences:
        assert f'<data value="{one.value!r}">' in text
    for sentence in (*report.verdict, *(finding.text for finding in report.findings)):
        words = html.unescape(re.sub(r"</?(?!script|b>|/)[a-z][^>]*>|</span>", "", text)).replace("\xa0", " ")
        assert sentence in words


def test_what_users_write_is_escaped(pages) -> None:
    _, text = pages["long_words"]
    assert "<script" not in text and "<b>" not in text
    assert "x&lt;script&gt;" in text
    assert "\\<script\\>" in to_markdown(pages["long_words"][0])


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ((0.991, 0.988, 0.994), ("99.1", "98.8", "99.4")),
        ((0.9996, 0.999, 1.0), ("99.96", "99.90", "100.00")),
        ((0.9996, 0.96, 1.0), ("99.96", "96.00", "100.00")),
        ((0.99999998, 0.9, 1.0), ("99.999998", "90.000000", "100.000000")),
        ((1.0, 0.994, 1.0), ("100.0", "99.4", "100.0")),
        ((1.0, 1.0, 1.0), ("100.0", "100.0", "100.0")),
        ((1 - 1e-16, 0.996, 1.0), ("100.00", "99.60", "100.00")),
        ((0.4213, 0.36, 0.48), ("42", "36", "48")),
        ((0.0004, 0.0, 0.004), ("0.04", "0.00", "0.40")),
        ((0.0, 0.0, 0.006), ("0.0", "0.0", "0.6")),
        ((math.nan, math.nan, math.nan), (digits.MISSING,) * 3),
    ],
)
def test_digits_are_those_that_an_interval_allows(figures, shown) -> None:
    assert digits.triple(*figures) == shown


def test_no_share_is_rounded_to_all_or_nothing() -> None:
    rng = np.random.default_rng(0)
    for exponent, half in zip(rng.uniform(-12, 0, 500), rng.uniform(0, 0.1, 500), strict=True):
        for value in (1 - 10**exponent, 10**exponent):
            for shown, exact in zip(
                digits.triple(value, max(value - half, 0), min(value + half, 1)),
                (value, max(value - half, 0), min(value + half, 1)),
                strict=True,
            ):
                assert float(shown) < 100 or exact >= 1 - digits.ROUNDING
                assert float(shown) > 0 or exact <= digits.ROUNDING


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (digits.large(768e6), "768\xa0million"),
        (digits.large(999_999), "1\xa0million"),
        (digits.large(12_345), "12,300"),
        (digits.memory(3.072e9), "3.07\xa0GB"),
        (digits.memory(2e6), "2\xa0MB"),
        (digits.money(9.8304), "9.83"),
        (digits.money(0.0064), "0.00640"),
        (digits.difference(-0.004, -0.0069, -0.0011)[0], "\N{MINUS SIGN}0.4"),
        (digits.difference(0.0, -0.003, 0.003)[0], "0.0"),
        (digits.sentence(0.62, 0.61, 0.63, percent=False), "0.620 (0.610 to 0.630)"),
    ],
)
def test_large_and_small_numbers(shown, text) -> None:
    assert shown == text


def test_axes_hold_their_values() -> None:
    rng = np.random.default_rng(1)
    for low, width in zip(rng.uniform(0, 1, 200), 10 ** rng.uniform(-6, 0, 200), strict=True):
        values = [low, min(low + width, 1.0)]
        scale, ticks = upwards(values, 200.0, share=True)
        assert scale.low <= min(values) + 1e-9 and scale.high >= max(values) - 1e-9
        assert 2 <= len(ticks) <= 9 and np.all(np.diff(ticks) > 0)
        assert scale.low >= 0 and scale.high <= 1 + 1e-12
    sizes = list(range(1, 1025, 7))
    scale = across(sizes)
    for kept in (
        [t for t in size_ticks(sizes, scale) if t.text],
        [t for t in size_ticks(sizes, scale) if t.text and not t.wide],
    ):
        room = 5.5 if any(t.wide for t in kept) else 11.5
        assert {t.text for t in kept} >= {"1", "1023"} and min(np.diff([t.place for t in kept])) >= room - 0.1
    assert Scale(64, 64, 3, 97, log=True)(64) == 50


def luminance(hue: str) -> float:
    parts = [int(hue[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("hues", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(hues) -> None:
    for text, ground in TEXT:
        assert contrast(hues[text], hues[ground]) >= 4.5, (text, ground)
    for kind in KINDS:
        assert contrast(hues[kind], hues["ground"]) >= 3, kind
    assert set(METHOD_WORDS) - {"full"} <= set(KINDS)


@pytest.mark.parametrize("name", CASES)
def test_a_card_is_one_table(name, pages) -> None:
    report, _ = pages[name]
    text = to_markdown(report)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1
    if name in ("whole", "no_labels"):
        assert len(rows) == len(SIZES) + 2
        for row in report.rows:
            if row.method == "prefix" and row.metric == "recall_at_k":
                shown, low, high = digits.triple(row.value, row.low, row.high)
                assert f"| {row.dim} | {shown} ({low} to {high}) |" in text
    for sentence in report.verdict if name != "long_words" else ():
        assert text.count(sentence) == 1


MEASURE = """
<script>
const measured = {};
let left = PAGES.length;
for (const [name, width, text] of PAGES) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.srcdoc = text;
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement;
    for (const details of page.querySelectorAll("details")) details.open = true;
    const words = [...page.querySelectorAll("svg text, h1, p, li, dd, caption span")].filter(
      (one) => one.getClientRects().length && !one.closest(".scroll table td"));
    const outside = words.filter((one) => {
      const box = one.getBoundingClientRect();
      return box.left < -0.5 || box.right > root.clientWidth + 0.5;
    });
    measured[`${name} ${width}`] = {
      scroll: root.scrollWidth, client: root.clientWidth, words: words.length,
      outside: outside.map((one) => one.textContent.slice(0, 60)),
      tables: [...page.querySelectorAll(".scroll")].every((one) => one.getBoundingClientRect().right <= width),
    };
    if (--left === 0) {
      const out = document.createElement("pre");
      out.id = "measured";
      out.textContent = JSON.stringify(measured);
      document.body.replaceChildren(out);
    }
  };
  document.body.append(frame);
}
</script>
"""


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(chromium() is None, reason="no Chromium here: the page's width is not measured")
def test_nothing_is_wider_than_a_phone_or_a_screen(pages, tmp_path) -> None:
    frames = json.dumps([(name, width, text) for name, (_, text) in pages.items() for width in (360, 1280)])
    file = tmp_path / "frames.html"
    script = MEASURE.replace("PAGES", "pages").replace("const measured", "const pages = FRAMES;\nconst measured")
    written = script.replace("FRAMES", frames.replace("<", "\\u003c"))
    file.write_text(f'<!doctype html><meta charset="utf-8"><body>{written}', encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command = [chromium(), *flags, "--virtual-time-budget=20000", "--timeout=60000", "--dump-dom", file.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="measured">(.*?)</pre>', result.stdout, re.DOTALL)
    assert found, (result.stdout[-500:], result.stderr[-2000:])
    measured = json.loads(html.unescape(found[1]))
    assert len(measured) == 2 * len(CASES)
    for name, sizes in measured.items():
        assert sizes["scroll"] <= sizes["client"] == int(name.split()[1]), (name, sizes)
        assert sizes["outside"] == [] and sizes["tables"] and sizes["words"] > 5, (name, sizes)
