"""``mrl report``: from files to a page, the same numbers as JSON, and a table for a model card."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..posthoc import load_transform
from .arguments import check_dims_text
from .measure import report
from .reading import encode, read_array, read_labels, read_texts
from .values import Report


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    files = ".npy, .npz, .parquet or .safetensors"
    parser.add_argument("--embeddings", metavar="E.npy", help=f"the rows: {files}; FILE:NAME for one of several")
    parser.add_argument("--labels", metavar="y.npy", help="their classes, integers or strings; or .txt, one a line")
    parser.add_argument("--queries", metavar="Q.npy", help="what will be asked (default: a sample of the rows)")
    parser.add_argument("--query-labels", metavar="y.npy", help="the classes of the queries")
    parser.add_argument("--relevant", metavar="R.npy", help="the rows relevant to each query, filled up with -1")
    parser.add_argument("--texts", metavar="texts.txt", help="a text a line, in place of --embeddings; with --model")
    parser.add_argument("--model", metavar="DIR", help="the folder of a sentence-transformers model for --texts")
    parser.add_argument("--dims", metavar="16,32,...", help="the sizes (default: powers of two, and the full width)")
    parser.add_argument("--k", metavar="K", default="10", help="how many neighbours count (default: 10)")
    parser.add_argument("--metric", metavar="M", default="cosine", help="cosine, dot or l2 (default: cosine)")
    parser.add_argument(
        "--transform", metavar="T", action="append", help="what mrl.save_transform wrote, to compare; repeat for more"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for report.html, report.json and report.md")
    parser.add_argument("--backend", help="where to search, such as torch (default: numpy)")
    parser.add_argument("--sample", metavar="N", help="how many queries to ask (default: 1000, fewer of many rows)")
    parser.add_argument("--seed", metavar="N", default="0", help="of all draws (default: 0)")
    parser.add_argument("--price", metavar="P", help="of a gigabyte of memory, in your currency (default: none)")
    parser.add_argument("--title", help="the name of the data (default: that of the file)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no text")


def run(given: argparse.Namespace) -> int:
    """Read, measure, render, and only then write."""
    if given.out is None:
        raise ValueError("--out: expected a folder for the report, got none; name one")
    out = Path(given.out)
    check_out(out)
    found = measure(given)
    pages = {"report.json": found.to_json(), "report.md": found.to_markdown(), "report.html": found.to_html()}
    write_together(out, pages)
    if not given.quiet:
        print(*(f"- {sentence}" for sentence in found.verdict), sep="\n")
        print(*(out / name for name in pages), sep="\n")
    return 0


def measure(given: argparse.Namespace) -> Report:
    if (given.embeddings is None) == (given.texts is None):
        both = "neither" if given.embeddings is None else "both"
        raise ValueError(f"--embeddings: expected a file, or --texts with --model, got {both}; give one of them")
    if (given.texts is None) != (given.model is None):
        raise ValueError("--model: expected --texts and --model together, got one of them; give both")
    dims = check_dims_text(given.dims)
    numbers: dict[str, Any] = {
        name: None if text is None else number(f"--{name}", text, kind)
        for name, text, kind in (
            ("k", given.k, int),
            ("sample", given.sample, int),
            ("seed", given.seed, int),
            ("price", given.price, float),
        )
    }
    progress = not given.quiet and sys.stderr.isatty()
    if given.texts is None:
        embeddings: Any = read_array("--embeddings", given.embeddings)
    else:
        embeddings = encode(read_texts("--texts", given.texts), given.model, progress=progress)
    optional: dict[str, Any] = {
        name: None if path is None else read(f"--{name.replace('_', '-')}", path)
        for name, path, read in (
            ("labels", given.labels, read_labels),
            ("queries", given.queries, read_array),
            ("query_labels", given.query_labels, read_labels),
            ("relevant", given.relevant, read_array),
        )
    }
    return report(
        embeddings,
        **optional,
        transforms=read_transforms(given.transform or ()),
        **numbers,
        dims=dims,
        metric=given.metric,
        backend=given.backend,
        progress=progress and has_tqdm(),
        title=given.title or Path(given.embeddings or given.texts).stem,
    )


def read_transforms(paths: Sequence[str]) -> dict[str, Any]:
    """Rotations and adaptors, by the names that a report has for them."""
    found: dict[str, Any] = {}
    for path in paths:
        try:
            transform = load_transform(path)
        except ValueError as error:
            raise ValueError(f"--transform: {str(error).removeprefix('path: ')}") from error
        name = type(transform).__name__.lower()
        if name in found:
            raise ValueError(f"--transform: expected one {name}, got {path} beside another; report them one by one")
        found[name] = transform
    return found


def number(option: str, text: str, kind: type[int] | type[float]) -> float:
    """A number as a command line has it."""
    try:
        return kind(text)
    except ValueError:
        wanted = "an integer" if kind is int else "a number"
        raise ValueError(f"{option}: expected {wanted}, got {text!r}; write it in digits") from None


def has_tqdm() -> bool:
    """Bars are shown where they can be; nobody is refused a report for the lack of them."""
    from importlib.util import find_spec

    return find_spec("tqdm") is not None


def check_out(out: Path) -> None:
    """Before minutes are spent: a folder, or a place for one."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: expected a folder, got the file {str(out)!r}; name another")
    parent = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK):
        raise ValueError(f"--out: expected a folder that can be written to, got {str(out)!r}; name another")


def write_together(folder: Path, pages: dict[str, str]) -> None:
    """All files or none: a folder that is new appears with all of them in it, in an old one each is replaced whole.

    Where one cannot be replaced, those before it are what they were.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".mrl-", dir=folder.parent))
        try:
            for name, text in pages.items():
                write_atomically(made / name, text)
            made.chmod(0o777 & ~umask())
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        return
    before = {name: (folder / name).read_bytes() if (folder / name).exists() else None for name in pages}
    try:
        for name, text in pages.items():
            write_atomically(folder / name, text)
    except BaseException:
        for name, old in before.items():
            if old is None:
                (folder / name).unlink(missing_ok=True)
            else:
                write_atomically(folder / name, old)
        raise


def umask() -> int:
    """Which bits a new file has not, which can be read by setting it alone."""
    found = os.umask(0)
    os.umask(found)
    return found
