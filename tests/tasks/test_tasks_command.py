"""`softprompt tasks`."""

import json
import subprocess
import sys

from typer.testing import CliRunner

from softprompt.cli.tasks import app
from softprompt.errors import DataError


def run(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_list_names_the_packaged_sets():
    result = run("list")
    assert result.exit_code == 0
    assert "sms-spam" in result.output
    assert "bbc-news" in result.output


def test_show_prints_the_task_as_text_and_as_json(tmp_path):
    path = tmp_path / "mail.csv"
    path.write_text("body text,kind\n" + "".join(f"row {n},{'ab'[n % 2]}\n" for n in range(40)))
    words = ("show", path, "--text", "body text", "--label", "kind", "--shots", 4)
    assert "mail: classification, 2 labels" in run(*words).output
    summary = json.loads(run(*words, "--json").output)
    assert summary["splits"]["train"]["labels"] == {"a": 4, "b": 4}


def test_show_takes_all_that_says_what_a_task_is(tmp_path):
    path = tmp_path / "mail.csv"
    path.write_text("text,labels\n" + "".join(f"row {n},{'a|b' if n % 2 else 'a|c'}\n" for n in range(40)))
    assert "note: most labels hold `|`, as `a|" in run("show", path).output
    shown = run("show", path, "--kind", "multi-label", "--words", "a=first").output
    assert "mail: multi-label, 3 labels" in shown
    assert "hold `|`" not in shown
    assert '" first?"' in shown


def test_an_error_is_the_librarys():
    assert isinstance(run("show", "./nothing.csv").exception, DataError)


def test_the_command_loads_nothing_heavy():
    code = "import sys, softprompt.cli.tasks; print('torch' in sys.modules, 'datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
