"""The README's picture, two screens of a phone: ``python docs/site/figure.py docs/report.png``.

With Chromium and PyTorch. It trains the demo's nested model, and reports on its embeddings: the test images ask among
those trained on. ``python docs/site/figure.py docs/report.png PAGE.html`` shows another report's page.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

WIDTH, HEIGHT, GAP = 390, 700, 28
FRAMES = """<!doctype html><meta charset="utf-8"><style>
body{{margin:0;padding:{gap}px;display:flex;gap:{gap}px;background:#e9e6df}}
iframe{{width:{width}px;height:{height}px;border:0;border-radius:14px;background:#fbfaf7;
box-shadow:0 1px 2px #0003,0 8px 24px #0002}}
</style><iframe srcdoc="{page}"></iframe><iframe srcdoc="{page}" onload="this.contentWindow.scrollTo({{
top:this.contentDocument.getElementById('sizes').getBoundingClientRect().top-24,behavior:'instant'}})"></iframe>"""


def make_page() -> str:
    """The report of the demo's model, which takes about a minute."""
    import mrl
    from mrl.demo.data import load
    from mrl.demo.encoder import embed, init_encoder
    from mrl.demo.settings import DIMS, SETTINGS
    from mrl.demo.train_torch import train

    data, settings, nesting = load("digits", None, 0), SETTINGS["digits"], mrl.Nesting(DIMS)
    sizes = (data.train.images.shape[1], settings.hidden, nesting.width)
    head = mrl.init_head(nesting, data.classes, tied=False, backend="numpy", seed=1)
    encoder, _ = train(init_encoder(sizes, 0), head, data.train, nesting, settings, lambda: None)
    rows, queries = (embed(encoder, part.images).astype("float32") for part in (data.train, data.test))
    title = "Digits, an MRL encoder of 2 to 64 dimensions"
    found = mrl.report(
        rows, labels=data.train.labels, queries=queries, query_labels=data.test.labels, dims=DIMS, title=title
    )
    return found.to_html()


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
