"""``python -m mrl``: the command line."""

from .cli import main

raise SystemExit(main())
