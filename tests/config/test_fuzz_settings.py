"""Settings: a value or one message comes of thousands that are nearly right.

`pytest -m long tests/config/test_fuzz_settings.py -rP` takes 10,000 of each and shows the counts.
"""

import pathlib
import string
import warnings

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import demo, domain, fewshot, folder, vtab
from noah_jax import config as config_lib
from noah_jax.errors import UserError
from tests.helpers.fuzzing import NUMBERS, pick, report, try_all

CONFIGS = (demo, domain, fewshot, folder, vtab)
_FLAT = sorted(config_lib.defaults().to_dict() | {"": 0, "sede": 0, "__class__": 0, "items": 0})
_NESTED = [
    f"{group}.{key}"
    for group in ("space", "baseline", "supernet", "retrain", "search")
    for key in config_lib.defaults()[group]
]
_VALUES = ["", "0", "1", "-1", "3", "64", "224", "1.5", "1e999", "nan", "-inf", "True", "true"]
_VALUES += ["None", "9" * 30, "9" * 5000, "x" * 5000, "٣", "\0", "\x1b[2J", "é", "..", "/", "~no"]
_VALUES += ["a\nb", "(1,5)", "(1,", "[1,2]", "{}", "{'vpt': 3}", "(" * 300, "-" * 999 + "1"]
_VALUES += [
    "'a'",
    "noah",
    "lora",
    "lora+vpt",
    "linear+",
    "+",
    "full",
    "all",
    "1+2+4",
    "float32",
    "paper",
]
_VALUES += [
    "vit_b16",
    "vit_l16",
    "vit_b17",
    "vit_s14_reg4",
    "dinov2_vits14",
    "imagenet",
    "bfloat16",
]
_TASKS = ["cifar100", "all", "natural+kitti", "food101", "imagenet", "", "+", "..", "a/b", "no one"]


def _setting(rng):
    key = pick(rng, _FLAT + _NESTED)
    value = pick(rng, _VALUES)
    if rng.random() < 0.1:
        letters = string.printable
        value = "".join(pick(rng, letters) for _ in range(rng.integers(1, 20)))
    return key, value


@pytest.mark.parametrize("number", NUMBERS)
def test_config_strings(number, tmp_path, monkeypatch):
    (tmp_path / "cats").mkdir()
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)

    def inputs():
        for _ in range(number):
            parts = [pick(rng, [*_TASKS, "cats", f"{tmp_path}/cats"])]
            parts += ["=".join(_setting(rng)) for _ in range(pick(rng, (0, 1, 1, 2, 4)))]
            if rng.random() < 0.2:
                parts.append(pick(rng, _VALUES))
            yield pick(rng, CONFIGS), ",".join(parts)

    def read(value):
        module, argument = value
        assert config_lib.expand(module.get_config(argument))

    report("config strings", try_all(inputs(), read), number)


@pytest.mark.parametrize("number", NUMBERS)
def test_config_flags(number, tmp_path, monkeypatch):
    """--config.KEY=VALUE; what ml_collections and absl refuse is a message of theirs."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)

    def inputs():
        for _ in range(number):
            module = pick(rng, (demo, vtab))
            argument = pick(rng, ("", ":lora", ":cifar100"))
            argv = ["main", f"--config={pathlib.Path(module.__file__)}{argument}"]
            for _ in range(pick(rng, (1, 1, 2))):
                key, value = _setting(rng)
                argv.append(f"--config.{key}" + pick(rng, ("=", "=", "=", "")) + value)
            yield argv

    def read(argv):
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        try:
            with warnings.catch_warnings(action="ignore"):
                values(argv)
            assert config_lib.expand(holder.value)
        except (flags.Error, AttributeError, KeyError, ValueError, TypeError, SyntaxError) as error:
            assert "Traceback" not in str(error)
            raise UserError(str(error)) from error

    report("config flags", try_all(inputs(), read), number)
