"""`softprompt eval`: the right rows, the figures, and where they are kept."""

from __future__ import annotations

import json

import pytest
from conftest_cli import reviews, tiny_prompt  # noqa: F401
