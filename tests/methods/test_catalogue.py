import subprocess
import sys

import pytest

from softprompt.errors import UnknownNameError
from softprompt.methods.catalogue import method, names

EVERY = (
    "majority zero-shot hard-prompt few-shot-4 few-shot-16 few-shot-max probe-hidden probe-sentence setfit soft-prompt "
    "deep-prompt p-tuning prefix-tuning peft-prompt-tuning peft-prompt-tuning-tutorial peft-p-tuning "
    "peft-prefix-tuning lora ia3 houlsby bitfit full"
)


def test_the_names_are_all_there():
    assert " ".join(names()) == EVERY


@pytest.mark.parametrize("name", EVERY.split())
def test_each_method_says_what_it_is(name):
    found = method(name)
    assert found.name == name
    assert found.title
    assert found.source
    assert found.family in ("free", "probe", "prompt", "adapter", "weights")
    assert set(found.readouts) <= {"words", "rows"}


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown method `loar`; did you mean `lora`"):
        method("loar")


def test_the_catalogue_loads_no_torch():
    check = "import sys, softprompt.methods.catalogue; print('torch' in sys.modules, 'peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
