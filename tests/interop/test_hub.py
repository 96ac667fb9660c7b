"""Exports go to the Hugging Face hub and come from it; a small server stands in for it."""

import json
import pathlib

import numpy as np
import pytest
from huggingface_hub import constants

import noah_jax
from noah_jax.errors import UserError
from noah_jax.interop import card, export, hub, subnet
from tests.helpers import fake_hub
from tests.helpers.commands import run_module
from tests.helpers.subnets import random_subnet


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server, to which the client goes in this test, with a login and an empty cache."""
    with fake_hub.running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        address = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
        yield server


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Workdirs of two finished runs."""
    monkeypatch.setattr(export, "stablehlo", lambda merged: b"a program")
    for name, only in (("lora", "lora"), ("mix", "")):
        (tmp_path / name).mkdir()
        _, _, found = random_subnet(len(name), 3, only)
        subnet.write(found.facts, found.tensors, tmp_path / name)
        (tmp_path / name / "result.json").touch()
    return tmp_path


def test_pushed_and_fetched(runs, server):
    done = run_module("noah_jax.interop", "push", runs / "lora", "me/birds")
    assert done.stdout.strip() == f"{server.address}/me/birds/commit/{1:040x}"
    files = server.repos["me/birds"]
    assert {*export.files(runs / "lora/export"), ".gitattributes"} == files.keys()
    assert b'Predictor("me/birds")' in files["README.md"]
    assert card.REPOSITORY in (runs / "lora/export/README.md").read_text()

    files["mine.txt"] = b"mine"
    export.export(runs / "mix", runs / "out")
    (runs / "out/secret.txt").write_text("not an export's")
    facts = json.loads((runs / "out/subnet.json").read_text()) | {"backbone": "/home/me/b16.npz"}
    (runs / "out/subnet.json").write_text(json.dumps(facts))
    assert noah_jax.push_to_hub(runs / "out", "me/birds", message="A mix").endswith("2")
    assert {*export.files(runs / "out"), ".gitattributes", "mine.txt"} == files.keys()

    found, expected = noah_jax.from_pretrained("me/birds"), subnet.read(runs / "out")
    assert found.facts == expected.facts | {"backbone": "b16.npz"}
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
    folder = hub.folder_of("me/birds")
    assert {path.name for path in folder.iterdir()} == {*hub._FETCHED}  # and no more
    assert hub.folder_of(runs / "out") == runs / "out"
    server.shutdown()
    server.server_close()
    assert hub.folder_of("me/birds") == folder  # without network
    assert noah_jax.Predictor("me/birds").facts == found.facts


def test_a_card_of_ones_own_stays_on_the_hub(runs, server):
    hub.push_to_hub(runs / "mix", "me/birds")
    files = server.repos["me/birds"]
    files["README.md"] = b"My birds."
    hub.push_to_hub(runs / "lora", "me/birds")
    assert files["README.md"] == b"My birds."
    (runs / "lora/export/README.md").write_text("More of them.")
    hub.push_to_hub(runs / "lora/export", "me/birds")
    assert files["README.md"] == b"More of them."


def test_what_cannot_be_fetched(server, tmp_path, monkeypatch):
    server.repos["me/text"] = {"README.md": b"no subnet"}
    for name, revision, message in (
        (
            "me/none",
            None,
            "no folder me/none here.*not exist, or you may not see it.*hf auth login",
        ),
        ("me/text", None, "me/text on the hub is no export of noah_jax"),
        ("me/text", "v2", "it has no revision v2"),
        ("runs/a/b", None, "no folder runs/a/b: expected one, or OWNER/NAME on the hub"),
    ):
        with pytest.raises(UserError, match=message):
            hub.from_pretrained(name, revision)
    server.shutdown()
    server.server_close()
    for name in ("me/none", pathlib.Path("me/none")):
        with pytest.raises(UserError, match=f"{server.address} cannot be reached"):
            hub.from_pretrained(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be fetched from the hub: .*HF_HUB_OFFLINE"):
        hub.from_pretrained("me/none")


def test_what_cannot_be_pushed(runs, server, monkeypatch):
    export.export(runs / "mix", runs / "out")
    for folder, name, message in (
        (runs / "out", "you/birds", "cannot push to you/birds: your login does not allow that"),
        (runs / "out", "birds", "birds: expected OWNER/NAME"),
        (runs / "nothing", "me/birds", "nothing is no export"),
    ):
        with pytest.raises(UserError, match=message):
            hub.push_to_hub(folder, name)
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(UserError, match="cannot push to me/birds: .*log in by `hf auth login`"):
        hub.push_to_hub(runs / "out", "me/birds")
    monkeypatch.delenv("HF_TOKEN")
    failed = run_module("noah_jax.interop", "push", runs / "out", "me/birds", code=2)
    assert "an upload to me/birds needs a login: log in by `hf auth login`" in failed.stderr
    assert "me/birds" not in server.repos
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=f"{server.address} cannot be reached"):
        hub.push_to_hub(runs / "out", "me/birds", token="hf_any")
