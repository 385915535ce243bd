"""The image and its neighbours name files, extras, flags, paths and ports that exist; nothing here needs Docker."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from softprompt.cli.app import VERBS
from softprompt.server import health
from softprompt.server.settings import Settings

ROOT = Path(__file__).parents[2]
SERVE = VERBS["serve"].load("serve")


@pytest.fixture(scope="module")
def instructions():
    """The Dockerfile as (instruction, arguments), lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def given(instructions, name):
    return [arguments for instruction, arguments in instructions if instruction == name]


def settings_of(words) -> Settings:
    """The settings that a command line means; a flag that does not exist is an error."""
    assert words[0] == "serve"
    found = SERVE.make_context("serve", list(words[1:])).params
    return Settings.of(**{name: value for name, value in found.items() if name in Settings.model_fields})


def test_every_file_that_is_copied_is_there(instructions):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for arguments in given(instructions, "COPY"):
        *sources, _ = (word for word in shlex.split(arguments) if not word.startswith("--"))
        for source in sources if "--from" not in arguments else ():
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored


def test_every_extra_is_one(instructions):
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (extras,) = (arg.partition("=")[2] for arg in given(instructions, "ARG") if arg.startswith("EXTRAS"))
    assert "serve" in extras.split(",")
    assert set(extras.split(",")) <= set(known)
    for word in re.findall(r"EXTRAS=([\w,-]+)", (ROOT / "Dockerfile").read_text()):
        assert set(word.split(",")) <= set(known)


def test_it_runs_as_nobody_special_and_holds_no_secret(instructions):
    assert given(instructions, "USER") == ["softprompt"]
    names = [name for name, _ in instructions]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert not [word for word in (*given(instructions, "ENV"), *given(instructions, "ARG"))
                if re.search(r"(?i)key|token|secret|password", word)]  # fmt: skip


def test_its_command_is_one_of_ours(instructions):
    assert json.loads(given(instructions, "ENTRYPOINT")[0]) == ["softprompt"]
    settings = settings_of(json.loads(given(instructions, "CMD")[0]))
    assert (settings.host, settings.log_format) == ("0.0.0.0", "json")
    assert int(given(instructions, "EXPOSE")[0]) == settings.port
    assert not settings.anonymous  # nobody is let in by mistake


def test_the_probe_asks_a_path_that_is_there(instructions):
    (probe,) = given(instructions, "HEALTHCHECK")
    command = json.loads(probe.partition("CMD ")[2])
    compile(command[2], "healthcheck", "exec")
    (url,) = re.findall(r"'(http://[^']+)'", command[2])
    assert url == f"http://127.0.0.1:{Settings().port}/healthz"
    assert "/healthz" in [route.path for route in health.router.routes]


def test_compose_serves_this_machine_alone_and_waits_for_the_end(compose):
    service = compose["services"]["softprompt"]
    settings = settings_of(service["command"])
    assert settings.anonymous
    assert service["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]
    assert int(service["stop_grace_period"].removesuffix("s")) > settings.drain
    assert all(port.startswith("127.0.0.1:") for each in compose["services"].values() for port in each["ports"])


def test_prometheus_reads_the_server(compose):
    files = [volume.split(":")[0] for volume in compose["services"]["prometheus"]["volumes"]]
    assert (ROOT / files[0]).is_file()
    assert files[1] in compose["volumes"]
    (job,) = yaml.safe_load((ROOT / files[0]).read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == f"softprompt:{Settings().port}"
    assert (job["metrics_path"], "softprompt" in compose["services"]) == ("/metrics", True)
