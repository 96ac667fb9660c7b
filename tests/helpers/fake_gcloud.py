"""Stands for `gcloud` in test_launch.py: folders in $FAKE_CLOUD are machines and buckets.

workers/<n>/      the home of each host, there while the machine is
state             of the queued resource: what `describe` says, line after line, the last for ever
buckets/<bucket>/ what is in it
log               all calls
"""

import os
import pathlib
import shutil
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])
STATES = "WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n"


def main(argv: list[str]) -> int:
    with open(CLOUD / "log", "a") as log:
        print(*argv, file=log)
    words = [word for word in argv if not word.startswith("--")]
    options = dict(word.split("=", 1) for word in argv if word.startswith("--") and "=" in word)
    if words[:3] == ["compute", "tpus", "queued-resources"]:
        return _resource(words[3], options)
    if words[:3] == ["compute", "tpus", "tpu-vm"]:
        return _machine(words[3:], options)
    if words[0] == "storage":
        return _storage(words[1:], argv)
    return 1


def _resource(verb: str, options) -> int:
    state = CLOUD / "state"
    if verb == "create":
        assert {"--node-id", "--accelerator-type", "--runtime-version"} <= {*options}
        state.write_text(STATES)
        for worker in range(int(os.environ["FAKE_WORKERS"])):
            (CLOUD / f"workers/{worker}").mkdir(parents=True)
    elif verb == "delete":
        state.unlink()
        shutil.rmtree(CLOUD / "workers", ignore_errors=True)
    elif not state.is_file():
        return 1
    else:
        now, *later = state.read_text().splitlines()
        print(now)
        if later:
            state.write_text("\n".join(later))
    return 0


def _machine(words: list[str], options) -> int:
    homes = sorted((CLOUD / "workers").glob("*"))
    if options["--worker"] != "all":
        homes = [home for home in homes if home.name == options["--worker"]]
    code = 0 if homes else 255
    for home in homes:
        if words[0] == "scp":
            shutil.copy(words[1], home / words[2].partition(":")[2])
        else:
            code |= subprocess.run(
                ["bash", "-c", options["--command"]], cwd=home, env=os.environ | {"HOME": str(home)}
            ).returncode
    return code


def _storage(words: list[str], argv) -> int:
    source, target = (
        CLOUD / "buckets" / path.removeprefix("gs://") if path.startswith("gs://") else path
        for path in words[1:]
    )
    if words[0] == "cp" and source == "-":
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(sys.stdin.buffer.read())
        return 0
    assert words[0] == "rsync" and "--recursive" in argv
    if not pathlib.Path(source).is_dir():
        return 1
    if "--delete-unmatched-destination-objects" in argv:
        shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, dirs_exist_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
