"""The command line: ``mrl convert``, ``mrl demo``, ``mrl report`` and ``mrl verify``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"mrl {arguments.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    from .report.command import add_options

    parser = argparse.ArgumentParser(prog="mrl", description="Matryoshka Representation Learning in any framework.")
    parser.add_argument("--version", action="version", version=f"mrl {metadata.version('mrl')}")
    commands = parser.add_subparsers(dest="command", required=True)

    convert = commands.add_parser("convert", help="carry a head from one file, and one layout, to another")
    convert.add_argument("source", metavar="IN", help=".safetensors, .npz, .pt, .keras or .weights.h5")
    convert.add_argument("target", metavar="OUT", help="of one of these kinds")
    convert.add_argument("--from-layout", metavar="L", help="raivnlab, linear, dense, flax or mrl (default: found)")
    convert.add_argument("--to-layout", metavar="L", help="one of these (default: dense for Keras' files, else mrl)")
    convert.add_argument("--dims", metavar="8,16,...", help="the granularities, where the file does not tell them")
    convert.set_defaults(run=_convert)

    demo = commands.add_parser("demo", help="train MRL, MRL-E and fixed-size heads on real images and compare them")
    demo.add_argument("--backend", default="torch", help="the framework to train in (default: torch)")
    demo.add_argument("--data", choices=("digits", "fashion-mnist"), default="digits", help="the images")
    demo.add_argument("--data-dir", type=Path, help="where the IDX files of --data fashion-mnist lie")
    demo.add_argument("--out", type=Path, default=Path("mrl-demo"), help="folder for the figures and the numbers")
    demo.add_argument("--seed", type=int, default=0, help="seeds the split, the weights and the batches")
    demo.set_defaults(run=_demo)

    report = commands.add_parser("report", help="can these embeddings be cut, to what, and what does it cost?")
    add_options(report)
    report.set_defaults(run=_report)

    verify = commands.add_parser("verify", help="prove the backends against the float64 specification")
    verify.add_argument("--backend", action="append", help="one backend; repeat for more (default: all installed)")
    verify.add_argument("--device", help="the device to prove on (default: each backend's own)")
    verify.add_argument("--dtype", action="append", help="one dtype; repeat for more (default: all)")
    verify.add_argument("--mode", action="append", help="one mode, such as eager; repeat for more (default: all)")
    verify.add_argument("--examples", type=int, default=100, help="examples per row of the table (default: 100)")
    verify.add_argument("--seed", type=int, help="draw the examples from this seed")
    verify.add_argument("--loss", metavar="MODULE:FUNCTION", help="prove a loss of yours instead, from this folder")
    verify.add_argument("--against", help="what --loss is called like and held against (default: nested_cross_entropy)")
    verify.add_argument("--option", action="append", help="an option that --loss takes; repeat for more")
    verify.add_argument("--head", choices=("tied", "nested"), help="the kind of head that --loss takes (default: both)")
    verify.set_defaults(run=_verify)
    return parser


def _convert(arguments: argparse.Namespace) -> int:
    from .porting.command import convert_file

    lines = convert_file(
        arguments.source,
        arguments.target,
        from_layout=arguments.from_layout,
        to_layout=arguments.to_layout,
        dims=arguments.dims,
    )
    print(*lines, sep="\n")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from .demo.run import run_demo

    run_demo(
        backend=arguments.backend,
        data=arguments.data,
        data_dir=arguments.data_dir,
        out=arguments.out,
        seed=arguments.seed,
    )
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from .report.command import run

    return run(arguments)


def _verify(arguments: argparse.Namespace) -> int:
    from .testing.verify import verify, verify_loss

    if arguments.loss:
        return verify_loss(
            arguments.loss,
            backends=arguments.backend,
            against=arguments.against,
            options=arguments.option,
            head=arguments.head,
            device=arguments.device,
            dtypes=arguments.dtype,
            examples=arguments.examples,
            seed=arguments.seed,
        )
    for name in ("against", "option", "head"):
        if getattr(arguments, name) is not None:
            raise ValueError(
                f"--{name}: expected --loss beside it, got none; name your loss with --loss module:function"
            )
    return verify(
        backends=arguments.backend,
        device=arguments.device,
        dtypes=arguments.dtype,
        modes=arguments.mode,
        examples=arguments.examples,
        seed=arguments.seed,
    )
