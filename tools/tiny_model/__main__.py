"""`python -m tiny_model DEST`: make the model in a directory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import make_model


def main(arguments: list[str] | None = None) -> int:
    """Make the model.

    Returns:
        0 where the model is in place; 1 where it can't be written.
    """
    parser = argparse.ArgumentParser(
        prog="tiny_model", description="Make a small Qwen2-architecture model with random weights."
    )
    parser.add_argument("dest", type=Path, metavar="DEST", help="the model's directory; an older one is replaced")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: 0)")
    options = parser.parse_args(arguments)
    try:
        changed = make_model(options.dest, seed=options.seed)
    except OSError as error:
        print(f"tiny_model: {options.dest} can't be written: {error}", file=sys.stderr)
        return 1
    print(f"{options.dest}: {'made' if changed else 'unchanged'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
