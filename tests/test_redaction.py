"""What a secret is, and that none is left of it in what is written."""

import json
import sys

import pytest

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.render import save_config
from jepa_pipeline.files import atomic_write
from jepa_pipeline.redaction import (
    KnownSecrets,
    find_secrets,
    redact,
    redact_row,
    redact_values,
    redacted_streams,
    remember_environment,
    remember_secrets,
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(KnownSecrets, "texts", frozenset())
    monkeypatch.setattr(KnownSecrets, "pattern", None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa/ss?w@host/x?token=A,B&c=1", "https://host/x"),
        ("{path: https://host/x?token=T,weight: 3}", "{path: https://host/x,weight: 3}"),
        ("https:/me:PW@host/x?token=T", "https:/host/x"),  # as a path has it
        ("https://TOKEN@host/x", "https://host/x"),
        ("http://[::1]:80/a@2,http://me:pw@h:8/x", "http://[::1]:80/a@2,http://h:8/x"),
        ("s3://bucket/a?X-Amz-Signature=abc", "s3://bucket/a"),
        ("data/train?sig=abc", "data/train?sig=***"),
        ("export WANDB_API_KEY='abc-def' x", "export WANDB_API_KEY='***' x"),
        ("--set environment.HF_TOKEN=abc", "--set environment.HF_TOKEN=***"),
        ("environment:\n  HF_TOKEN: abcdef\n", "environment:\n  HF_TOKEN: ***\n"),
        ("{HF_TOKEN: abc, A: 1}", "{HF_TOKEN: ***, A: 1}"),
        ('{"password": "abc", "n": 1}', '{"password": "***", "n": 1}'),
        ("Authorization: Bearer abcdefgh", "Authorization: ***"),
    ],
)
def test_no_form_of_a_secret_is_left(text, shown):
    assert redact(text) == shown and redact(shown) == shown
    assert any(find_secrets(text)) or "Authorization" in text or "sig=" in text


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/data@v1/train",
        "/scratch/data:/data@v2",
        "class_token=False mask_token_std=0.02 token=4",
        "an access token: give it",
        "tokens: 196, key: loss, context_tokens=12345678",
        "/a/folder?with#signs@odd",
        '{"token": 12, "shared_mask_token": true}',
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text and not any(find_secrets(text))


def test_what_was_recognized_once_is_replaced_wherever_it_stands_alone(monkeypatch):
    monkeypatch.setenv("SOME_API_TOKEN", "Planted-1")
    monkeypatch.setenv("SSH_KEY_FILE", "/home/me/Planted-2")
    remember_environment()
    remember_secrets({"data": [{"path": "https://me:p%40ss-Planted@host/x"}], "environment": {"DB_PASSWORD": "Planted-3"}})
    assert redact("a Planted-1, p%40ss-Planted p@ss-Planted/Planted-3.") == "a ***, *** ***/***."
    assert redact("notPlanted-1 /home/me/Planted-2") == "notPlanted-1 /home/me/Planted-2"
    remember_secrets("https://me:images@host/x?key=123456")  # words that everything is full of
    assert redact("images 123456") == "images 123456"
    assert redact_values({"run": "Planted-3", "key": "x", "n": (1, "https://u:p@h")}) == {
        "run": "***",
        "key": "***",
        "n": [1, "https://h"],
    }


def test_files_errors_and_streams_are_clean(tmp_path, capsys):
    url = "https://me:pw@host/x?token=abc"
    atomic_write(tmp_path / "report.json", url)
    assert (tmp_path / "report.json").read_text() == "https://host/x" and str(UserError(url)) == "https://host/x"
    with redacted_streams():
        print(url, "and", url)
        sys.stderr.writelines([url, "\n"])
        assert sys.stdout.isatty() is False and sys.stdout.encoding
    written = capsys.readouterr()
    assert written.out == "https://host/x and https://host/x\n" and written.err == "https://host/x\n"


def test_a_configuration_with_a_secret_is_for_its_owner_alone(tiny, tmp_path):
    for name, train, mode in (("a", "data/train", 0o644), ("b", "https://me:pw@host/x", 0o600)):
        path = tmp_path / f"{name}.yaml"
        path.touch(0o644)
        path.chmod(0o644)
        save_config(path, tiny(f"data.train={train}"))
        assert path.stat().st_mode & 0o777 == mode and train in path.read_text()


@pytest.mark.parametrize(
    "name", ["mask_token", "module.method.predictor.mask_token", "cls_token", "method.predictor.mask_token_std"]
)
def test_tokens_of_networks_are_no_secrets(name):
    assert redact(f"{name}=learned_vector") == f"{name}=learned_vector" and not list(find_secrets(f"{name}=learned_vector"))
    row = {name: "5f70bf18a086007016e948b04aed3b82"}
    assert redact_values(row) == row
    assert redact(json.dumps(row)) == json.dumps(row) and redact(f"{name}=0.0200000001") == f"{name}=0.0200000001"


def test_the_keys_of_a_log_hide_none_of_its_hashes():
    row = {"method.encoder.attn.key.proj.weight": "5f70bf18a086007016e948b04aed3b82", "step": 3, "reason": "http://a:b@c/d?token=e"}
    assert redact_row(row) == row | {"reason": "http://c/d"}
