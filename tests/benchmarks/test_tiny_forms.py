"""The other benchmarks run in their tiny forms too; those of minutes (`accuracy`, `rivals`, `compile`) by hand."""

import pytest

TABLES = {
    "speed": ("Training, examples a second", "Peak memory of training", "Classification, rows a second"),
    "invariance": ("| softprompt |",),
    "kills": ("Killed and resumed",),
    "bank": ("A bank of 8 beside eight single runs", "Deep prompts beside PEFT's prefix tuning"),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TABLES)
def test_a_benchmark_runs_in_its_tiny_form_and_fills_its_tables(tiny, name):
    pytest.importorskip("peft")
    figures, page = tiny(name)
    assert figures
    assert [table for table in TABLES[name] if table not in page] == []
