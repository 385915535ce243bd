"""What every endpoint works with: the engine, the prompts it may be asked for, its backbone and the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.server.settings import Settings
    from softprompt.serving.asking import Answering
    from softprompt.serving.catalog import Catalog


@dataclass(frozen=True)
class Context:
    """One server's parts; it finds them at `app.state.context`.

    Attributes:
        engine: answers rows.
        catalog: finds prompts by name.
        backbone: the resident model, for its names, its tokenizer and its limits.
        settings: how the server was asked to answer.
    """

    engine: Answering
    catalog: Catalog
    backbone: Backbone
    settings: Settings


def context_of(connection: HTTPConnection) -> Context:
    """Return the context of the application that a request came to."""
    context: Context = connection.app.state.context
    return context
