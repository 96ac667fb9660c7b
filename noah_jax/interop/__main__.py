"""The commands of `python -m noah_jax.interop`.

python -m noah_jax.interop export WORKDIR [--out=FOLDER] [--weights=FILE]
python -m noah_jax.interop predict FOLDER IMAGE_OR_FOLDER … [--top=3] [--weights=FILE]

Exit codes: 0 = everything is done; 1 = some images could not be read, all others are classified;
2 = an error that the user can put right.
"""

import argparse
import pathlib
import sys

from noah_jax.errors import UserError


def _main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m noah_jax.interop")
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="a finished run's subnet, for other programs")
    out.add_argument("workdir", type=pathlib.Path)
    out.add_argument("--out", type=pathlib.Path, help="default: WORKDIR/export")
    use = commands.add_parser("predict", help="classes of images, by an exported subnet")
    use.add_argument("folder", type=pathlib.Path, help="what export wrote")
    use.add_argument("images", type=pathlib.Path, nargs="+", help="files, or folders of images")
    use.add_argument("--top", type=int, default=3, help="how many classes to print")
    for command in (out, use):
        command.add_argument(
            "--weights", default="", help="where the file of weights is now, if it has moved"
        )
    arguments = parser.parse_args(argv)
    from noah_jax.interop import export, predict  # and JAX, for which --help does not wait

    if arguments.command == "export":
        folder = arguments.out or arguments.workdir / "export"
        lines = export.export(arguments.workdir, folder, arguments.weights)
    else:
        lines = predict.predict(
            *(arguments.folder, arguments.images, arguments.top, arguments.weights)
        )
    try:
        for line in lines:
            print(line, flush=True)
    except predict.Unread as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(_main(sys.argv[1:]))
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
    except (UserError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
