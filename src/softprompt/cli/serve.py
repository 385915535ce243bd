"""`softprompt serve`: every prompt of the store behind one OpenAI-compatible API, over one resident backbone."""

from __future__ import annotations

import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from softprompt.cli.opening import DEFAULT_BACKBONE, DEVICE, DTYPE
from softprompt.cli.settings import with_settings
from softprompt.errors import MissingExtraError
from softprompt.server.settings import Settings

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.server.keys import Door
    from softprompt.server.running import Parts
    from softprompt.store.store import PromptStore

EXTRA = ("fastapi", "uvicorn", "prometheus_client")
"""What the extra `serve` installs."""

logger = logging.getLogger(__name__)


@with_settings(Settings)
def serve(
    backbone: str = typer.Option(DEFAULT_BACKBONE, help="A packaged name, hub id, folder or .gguf file."),
    store: Path | None = typer.Option(None, metavar="DIR", help="The folder of prompts. Default: the usual store."),
    device: str | None = DEVICE,
    dtype: str | None = DTYPE,
    config: Path | None = typer.Option(None, metavar="FILE", help="YAML file of settings; flags come on top."),
    replicas: int = typer.Option(
        1, min=1, help="Servers behind one address, on Ray Serve (extra ray): here, or on the cluster at RAY_ADDRESS."
    ),
    max_replicas: int | None = typer.Option(None, min=1, help="With as much traffic: servers at most."),
    **settings: Any,
) -> None:
    """Serve every prompt of the store behind one OpenAI-compatible API; prompts that land there are served at once.

    Example: softprompt serve --backbone gemma-3-270m --port 8000
    """
    require_extra()
    flags = {name: value for name, value in settings.items() if value is not None}
    asked = Settings.of(**{**_written(config), **flags})
    if replicas > 1 or max_replicas is not None:
        _run_replicas(asked, backbone, store, device, dtype, replicas, max_replicas)
        return
    from softprompt.server.keys import Door
    from softprompt.server.logs import configure
    from softprompt.server.ports import bind
    from softprompt.store.store import PromptStore

    door = Door.of(asked)
    with bind(asked.host, asked.port) as taken:
        configure(asked.log_format)
        from softprompt.server.running import run

        place = "cpu" if asked.engine == "vllm" else device  # where vLLM computes is its own business
        parts = _open(_load(backbone, place, dtype), PromptStore(store), asked, door)
        run(parts, asked, taken)


def require_extra() -> None:
    """Return if what a server needs is installed.

    Raises:
        MissingExtraError: it is not.
    """
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f'a server needs {", ".join(missing)}: pip install "softprompt[serve]"')


def _run_replicas(
    asked: Settings,
    backbone: str,
    store: Path | None,
    device: str | None,
    dtype: str | None,
    replicas: int,
    max_replicas: int | None,
) -> None:
    """Serve with several processes, which share this machine, or are spread over a cluster."""
    from softprompt.backbones.hardware import choose_device
    from softprompt.server.logs import configure
    from softprompt.server.replicas import Fleet, import_ray, run

    import_ray()
    configure(asked.log_format)
    gpu = choose_device(device).type == "cuda"
    most = max(replicas, max_replicas or 0)
    run(
        Fleet.of(
            backbone=str(Path(backbone).resolve()) if Path(backbone).exists() else backbone,
            store=None if store is None else str(store.resolve()),
            device=device,
            dtype=dtype,
            replicas=replicas,
            max_replicas=max_replicas,
            cpus=max(1.0, (os.cpu_count() or 1) // most),
            gpus=1.0 if gpu else 0.0,
            settings=asked,
        )
    )


def _written(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    from softprompt.experiments.settings_file import read_mapping

    return dict(read_mapping(config, "settings"))


def _load(name: str, device: str | None, dtype: str | None) -> Backbone:
    from softprompt.backbones.backbone import load_backbone

    logger.info("loading the backbone %s", name)
    began = time.monotonic()
    frozen = load_backbone(name, device=device, dtype=dtype)
    logger.info("loaded %s in %.1f s", frozen, time.monotonic() - began)
    return frozen


def _open(backbone: Backbone, store: PromptStore, asked: Settings, door: Door) -> Parts:
    """Put the server together, and say what it serves and to whom."""
    from softprompt.server.bare import name_of
    from softprompt.server.running import assemble

    parts = assemble(backbone, store, asked, door)
    count = len(parts.catalog.names())
    logger.info("serving `%s` and %d prompts of %s; %s", name_of(backbone), count, store.root, door)
    return parts
