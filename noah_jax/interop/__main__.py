"""The commands of `python -m noah_jax.interop`.

python -m noah_jax.interop export WORKDIR [--out=FOLDER] [--weights=FILE]
python -m noah_jax.interop predict FOLDER IMAGE_OR_FOLDER … [--top=3] [--threshold=0]
    [--format=text|csv|jsonl] [--weights=FILE]
python -m noah_jax.interop push FOLDER OWNER/NAME [--private] [--weights=FILE]

A FOLDER to predict with may be OWNER/NAME on the Hugging Face hub; one to push may be a workdir.

Exit codes: 0 = everything is done; 1 = some images could not be read, all others are classified;
2 = an error that the user can put right.
"""

import argparse
import io
import pathlib
import sys

from noah_jax.errors import UserError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m noah_jax.interop")
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="a finished run's subnet, for other programs")
    out.add_argument("workdir", type=pathlib.Path)
    out.add_argument("--out", type=pathlib.Path, help="default: WORKDIR/export")
    use = commands.add_parser("predict", help="classes of images, by an exported subnet")
    use.add_argument(
        "folder", help="an export, the workdir of a run, or OWNER/NAME on the Hugging Face hub"
    )
    use.add_argument("images", type=pathlib.Path, nargs="+", help="files, or folders of images")
    use.add_argument("--top", type=int, default=3, help="how many classes to print")
    use.add_argument(
        "--threshold", type=float, default=0.0, help="the least probability of an image's class"
    )
    formats = ("text", "csv", "jsonl")  # those of predict.py, which loads JAX
    use.add_argument("--format", choices=formats, default="text")
    push = commands.add_parser("push", help="uploads an export to the Hugging Face hub")
    push.add_argument("folder", type=pathlib.Path, help="what export wrote, or a run's workdir")
    push.add_argument("name", metavar="OWNER/NAME")
    push.add_argument("--private", action="store_true", help="makes a new repository private")
    for command in (out, use, push):
        command.add_argument(
            "--weights", default="", help="where the file of weights is now, if it has moved"
        )
    return parser


def _main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from noah_jax.interop import export, hub, predict  # and JAX, for which --help does not wait
    from noah_jax.runtime import backend

    backend.keep_compiled_programs()
    if arguments.command == "export":
        folder = arguments.out or arguments.workdir / "export"
        lines = export.export(arguments.workdir, folder, arguments.weights)
    elif arguments.command == "push":
        where = hub.push_to_hub(
            arguments.folder,
            arguments.name,
            private=arguments.private or None,
            weights=arguments.weights,
        )
        lines = [where]
    else:
        if arguments.format == "csv" and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # names of files as they are
        output = predict.Output(arguments.format, arguments.top, arguments.threshold)
        lines = predict.predict(arguments.folder, arguments.images, output, arguments.weights)
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
