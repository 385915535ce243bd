"""`softprompt serve` itself: a real process, a real port, real requests, and an end that drops nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from softprompt.cli.app import app
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.store import PromptStore
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

HELD = {"max_tokens": 180, "temperature": 1.0, "n": 8, "stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A home with a backbone folder called `tiny` and a store with the prompt `spam`."""
    place = tmp_path_factory.mktemp("home")
    backbone = tiny_backbone("llama")
    backbone.model.save_pretrained(place / "tiny")
    backbone.tokenizer.save_pretrained(place / "tiny")
    rows = torch.randn(3, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    template, words = Template("{bos}{soft}Text: {text}\nLabel:"), LabelWords.from_labels(["ham", "spam"])
    PromptStore(place / "store").put(SoftPrompt({"input": rows}, template, words, backbone.fingerprint), "spam")
    return place


class Running:
    """A server process, what it says, and where it listens."""

    def __init__(self, place, *words):
        command = [sys.executable, "-m", "softprompt", "serve", "--backbone", "tiny", "--port", "0", *words]
        known = {**os.environ, "SOFTPROMPT_HOME": str(place), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=place, env=known, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self._hearing = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self._hearing.start()
        self.url = re.search(r"(http://\S+)/v1", self.wait_for("listening on http"))[1]

    def wait_for(self, pattern, seconds=100):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = next((line for line in list(self.lines) if re.search(pattern, line)), None)
            if found:
                return found
            assert self.process.poll() is None, "".join(self.lines)
            time.sleep(0.02)
        raise AssertionError(f"no line like {pattern!r} in {self.lines}")

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=60)

    def refusal(self, path, body=None):
        try:
            self.ask(path, body).close()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)
        raise AssertionError(f"{path} was answered")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._hearing.join(10)
        self.process.stderr.close()


@pytest.fixture
def running(place):
    made = Running(place, "--log-format", "json")
    yield made
    made.end()


@pytest.mark.slow
def test_it_serves_and_ends_without_dropping_a_stream(running, place):
    assert json.loads(running.wait_for("serving"))["message"] == (
        f"serving `tiny` and 1 prompts of {place / 'store'}; to anybody, without a key"
    )
    with running.ask("/v1/classify", {"model": "spam", "input": "WINNER! call now"}) as got:
        assert json.load(got)["model"] == "spam@v1"
    with running.ask("/readyz") as got:
        assert json.load(got) == {"status": "ready"}

    with running.ask("/v1/completions", {"model": "tiny", "prompt": "one two", **HELD}) as stream:
        first = stream.readline()
        running.process.send_signal(signal.SIGTERM)
        running.wait_for("ending: 1 requests in flight have up to 30 s")
        assert running.refusal("/v1/classify", {"model": "spam", "input": "a"})[0] == 503
        assert running.refusal("/readyz") == (
            503, {"status": "not ready", "reason": "the server is ending: it finishes what it has taken in"},
        )  # fmt: skip
        running.ask("/healthz").close()
        events = [line for line in [first, *stream] if line.strip()]
    assert events[-1] == b"data: [DONE]\n"
    told = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert {each["index"] for part in told for each in part["choices"] if each["finish_reason"]} == set(range(8))
    assert told[-1]["usage"]["completion_tokens"] > 8

    assert running.process.wait(20) == 0
    logged = [json.loads(line) for line in running.lines]
    assert logged[-1]["message"] == "ended: every request that was taken in was answered"
    assert "WINNER" not in "".join(running.lines)
    by_message = {line["message"]: line for line in logged}
    assert by_message["POST /v1/classify 200"]["model"] == "spam@v1"
    assert by_message["POST /v1/completions 200"]["completion_tokens"] > 8
    assert "GET /healthz 200" not in by_message


@pytest.fixture
def cli(monkeypatch, tmp_path):
    """Run the command in this process, in an empty home."""
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path))
    return lambda *words: CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})


def test_a_port_in_use_is_one_line_before_anything_is_loaded(cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        got = cli("serve", "--backbone", "nowhere/at-all", "--port", port)
    assert (got.exit_code, got.stdout) == (2, "")
    assert got.stderr == (
        f"error: port {port} of `127.0.0.1` is in use; end what listens there, or give another with --port (0: any)\n"
    )


def test_an_open_address_without_keys_is_one_line(cli):
    got = cli("serve", "--host", "0.0.0.0", "--port", 0)
    assert got.exit_code == 2
    assert got.stderr.startswith("error: other machines reach `0.0.0.0` and there are no keys")
    assert got.stderr.count("\n") == 1


def test_without_the_extra_it_says_what_to_install(cli, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("softprompt.cli.serve.find_spec", lambda name: None if name == "uvicorn" else find(name))
    got = cli("serve")
    assert got.exit_code == 2
    assert got.stderr == 'error: a server needs uvicorn: pip install "softprompt[serve]"\n'


def test_every_setting_is_a_flag_with_an_example_above_them(cli):
    shown = cli("serve", "--help").stdout
    assert "Example: softprompt serve" in shown
    for flag in ("--host", "--keys", "--queue", "--drain", "--log-format", "--cors", "--allow-manage", "--store"):
        assert flag in shown


def test_settings_come_from_a_file_and_flags_stand_above_it(cli, tmp_path):
    config = tmp_path / "serve.yaml"
    config.write_text("host: 0.0.0.0\nqueue: 0\n")
    assert cli("serve", "--config", config).stderr.startswith("error: option `queue` is 0: ")
    assert "other machines reach `0.0.0.0`" in cli("serve", "--config", config, "--queue", 5).stderr
    config.write_text("hots: x\n")
    assert "unknown option `hots`; did you mean `host`" in cli("serve", "--config", config).stderr


def test_keys_are_made_shown_once_listed_and_removed(cli, tmp_path):
    made = cli("keys", "add", "helpdesk", "--prompts", "support-*", "--prompts", "mood", "--rate", 60, "--tokens", 9e4)
    assert re.fullmatch(r"sp-[\w-]{43}\n", made.stdout)
    assert "the key of `helpdesk`, which is shown this once" in made.stderr
    cli("keys", "add", "prometheus", "--watch")
    cli("keys", "add", "admin", "--manage")
    listed = cli("keys", "list").stdout.splitlines()
    assert re.fullmatch(
        r"helpdesk +support-\*, mood  60 requests/min  90000 tokens/min  made \d{4}-\d\d-\d\d", listed[0]
    )
    assert [re.split(r"  +", line)[1:3] for line in listed[1:]] == [["no prompts", "watches"], ["*", "manages"]]
    told = json.loads(cli("keys", "list", "--json").stdout)
    assert [(key["name"], key["prompts"], key["watch"]) for key in told][1] == ("prometheus", [], True)
    assert made.stdout.strip() not in Path(tmp_path / "keys.json").read_text()
    assert "sha256" not in told[0]
    assert cli("keys", "remove", "admin").stdout == "removed `admin`; 2 keys are left\n"
    assert "unknown key `admin`" in cli("keys", "remove", "admin").stderr


def test_the_last_key_takes_everybody_s_right_away_and_says_so(cli, tmp_path):
    assert cli("keys", "list").stdout == f"no keys in {tmp_path / 'keys.json'}; `softprompt keys add NAME` makes one\n"
    other = tmp_path / "other.json"
    cli("keys", "add", "one", "--keys", other)
    assert cli("keys", "remove", "one", "--keys", other).stdout == (
        f"removed `one`; 0 keys are left, so nobody may call; delete {other} to undo\n"
    )
