"""Settings are checked whole, and a wrong name is answered with the nearest."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from softprompt.errors import ConfigError, UnknownNameError
from softprompt.server.settings import Settings


def test_what_is_not_given_stays():
    assert Settings.of(port=0, rows=None) == Settings(port=0)
    assert Settings().host == "127.0.0.1"
    assert Settings().origins == ()


@pytest.mark.parametrize(("name", "value"), [("port", 70000), ("queue", 0), ("deadline", 0), ("log_format", "xml")])
def test_what_is_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"option `{name}` is {value!r}: "):
        Settings.of(**{name: value})


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown option `ques`; did you mean `queue`"):
        Settings.of(ques=3)


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_which_addresses_only_this_machine_reaches(host, local):
    assert Settings(host=host).loopback is local
