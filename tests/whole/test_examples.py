"""The examples, started by the commands of their README."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import PIL.Image
import pytest

from noah_jax.interop import subnet
from tests.helpers.commands import ROOT, run_module
from tests.helpers.subnets import random_subnet

README = (ROOT / "examples/README.md").read_text()


@pytest.fixture
def server(tmp_path):
    """The address of a server that is ready, for the subnet in `export`."""
    subnet.export(random_subnet(6, 3)[2], tmp_path / "export")
    variable, python, *words = shlex.split(re.search(r"```bash\n(.*)\n", README)[1])
    assert variable.startswith("SUBNET=") and python == "python" and words[-1] == "8000"
    environment = os.environ | {"SUBNET": str(tmp_path / "export"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words[:-1], "0"]  # any port that is free
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        said, address = "", None
        for line in process.stderr:
            said += line
            if address := re.search(r"running on (http://\S+)", line):
                yield address[1]
                break
        process.terminate()
    assert address, said


def _ask(address, data=None):
    kind = {"Content-Type": "application/octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(address, data, kind)) as answer:
        return json.load(answer)


def test_a_subnet_is_served(server, tmp_path):
    assert _ask(server)["class_names"] == ["a", "b", "c d", "é", "<e>"]
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    path = tmp_path / "image.png"
    PIL.Image.fromarray(pixels).save(path)
    flags = tmp_path / "export", path, "--top=2", "--format=jsonl"
    expected = json.loads(run_module("noah_jax.interop", "predict", *flags).stdout)["top"]
    found = _ask(f"{server}/?top=2", path.read_bytes())
    assert [each["label"] for each in found] == [each["label"] for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
    for broken, reason in ((path.read_bytes()[:200], "truncated"), (b"no image", "no image that")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            _ask(server, broken)
        with refused.value as answer:
            assert answer.code == 400 and reason in json.load(answer)["detail"]
