"""The command of `python -m noah_jax.pretrained`.

python -m noah_jax.pretrained convert FILE.pth [OUT.safetensors] [--keep=PREFIX]
"""

import argparse
import pathlib
import sys

from noah_jax.errors import UserError
from noah_jax.pretrained import convert


def _main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m noah_jax.pretrained")
    commands = parser.add_subparsers(dest="command", required=True)
    use = commands.add_parser("convert", help="a checkpoint of PyTorch into a .safetensors")
    use.add_argument("file", type=pathlib.Path, help="what torch.save wrote, or a .safetensors")
    use.add_argument("out", type=pathlib.Path, nargs="?", help="default: FILE.safetensors")
    use.add_argument("--keep", default="", help="only tensors whose names begin with this")
    arguments = parser.parse_args(argv)
    for line in convert.convert(arguments.file, arguments.out, arguments.keep):
        print(line, flush=True)


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except (UserError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
