"""Fit a method with compiled layers and without; run by `test_tuned.py` without its type checks, which cannot be."""

import sys

import numpy as np
import torch

from softprompt.methods import tuned
from softprompt.methods.catalogue import method
from softprompt.methods.method import Effort
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows

RATES = {"full": 30.0, "bitfit": 10.0}


def losses(name, task, compiles):
    tuned.is_worth_compiling = lambda *_: compiles
    fitted = method(name).fit(tiny_backbone("gpt2"), task, 0, Effort(rate=RATES.get(name, 3.0), examples=192))
    return [point.loss for point in fitted.course.points]


def main(name):
    task = load_task(toy_rows(60))
    eager, compiled = losses(name, task, False), losses(name, task, True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "one graph serves all layers"
    assert eager[-1] < eager[0], "it learns"
    np.testing.assert_allclose(compiled, eager, atol=1e-4)


if __name__ == "__main__":
    main(sys.argv[1])
