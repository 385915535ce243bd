"""Replicas of the server on Ray Serve, which routes requests to them and decides how many there are.

Each replica is a server of its own: backbone, engine, prompts and application, over the same store. Rows of different
prompts still share passes, for batching is each engine's; Ray's own batching and multiplexing would keep prompts apart.
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.errors import ConfigError, EngineClosedError, MissingExtraError
from softprompt.server.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

APPLICATION = "softprompt"
"""What Ray Serve calls the application."""

_GRACE = 5.0
"""Seconds beyond the time to drain after which Ray ends a replica."""


class Fleet(BaseModel):
    """The servers that are wanted; also the arguments of `build` in a Ray Serve config file.

    >>> Fleet(backbone="gemma-3-270m", replicas=2, settings={"rows": 32}).settings.rows
    32
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Annotated[str, Field(description="a packaged name, hub id, folder or .gguf file")]
    store: Annotated[str | None, Field(description="the folder of prompts, which every replica must reach")] = None
    device: Annotated[str | None, Field(description="cpu, cuda or cuda:N")] = None
    dtype: Annotated[str | None, Field(description="bf16 or fp32")] = None
    replicas: Annotated[int, Field(ge=1, description="servers; at least so many where there may be more")] = 1
    max_replicas: Annotated[int | None, Field(ge=1, description="servers at most; None: no more than `replicas`")] = (
        None
    )
    cpus: Annotated[float, Field(gt=0, description="CPUs that Ray keeps for each")] = 1.0
    gpus: Annotated[float, Field(ge=0, description="GPUs that Ray keeps for each")] = 0.0
    settings: Annotated[Settings, Field(description="how each of them answers")] = Settings()

    @classmethod
    def of(cls, **given: Any) -> Fleet:
        """Return the fleet that is described.

        Raises:
            ConfigError: a value is missing or out of range, or an option that does not exist.
        """
        try:
            found = cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise ConfigError(f"option `{name}` of the replicas is {first['input']!r}: {first['msg']}") from error
        if found.max_replicas is not None and found.max_replicas < found.replicas:
            raise ConfigError(
                f"there are to be at least {found.replicas} replicas and at most {found.max_replicas}; raise "
                "max_replicas, or leave it out"
            )
        return found


class Replica:
    """One server, in a process that Ray starts.

    Args:
        fleet: what `Fleet` says of each.
    """

    def __init__(self, fleet: dict[str, Any]) -> None:
        from softprompt.backbones.backbone import load_backbone
        from softprompt.server.logs import configure
        from softprompt.server.running import assemble
        from softprompt.store.store import PromptStore

        wanted = Fleet.of(**fleet)
        configure(wanted.settings.log_format)
        backbone = load_backbone(wanted.backbone, device=wanted.device, dtype=wanted.dtype)
        self._parts = assemble(backbone, PromptStore(wanted.store), wanted.settings)
        self._parts.catalog.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Ray Serve asks for it by this name."""
        return self._parts.app

    def check_health(self) -> None:
        """Return if requests can be taken; Ray starts another replica in the place of one that raises.

        Raises:
            EngineClosedError: the engine has ended.
        """
        reason = self._parts.health.check()
        if reason is not None:
            raise EngineClosedError(reason)

    def __del__(self) -> None:
        parts = getattr(self, "_parts", None)
        if parts is not None:
            parts.catalog.close()
            parts.engine.close(drain=False, timeout=_GRACE)


def build(args: dict[str, Any]) -> Any:
    """Return the application for Ray Serve: the `import_path` of a config file, with a `Fleet` as its `args`.

    Raises:
        ConfigError: the arguments are those of no fleet.
        MissingExtraError: Ray is not installed.
    """
    return _application(Fleet.of(**args))


def deploy(fleet: Fleet, **ray_options: Any) -> str:
    """Start the replicas, here or on the cluster that `RAY_ADDRESS` names, and return where they are found.

    Args:
        fleet: the servers that are wanted.
        ray_options: of `ray.init`, where Ray does not run yet.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: the port is taken.
        EngineClosedError: the replicas did not start.
    """
    import_ray()
    import ray
    from ray import serve

    host, port = _free(fleet.settings)
    if not ray.is_initialized():
        ray.init(**{"include_dashboard": False, **ray_options})
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(_application(fleet), name=APPLICATION, route_prefix="/")
    except (RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
        raise EngineClosedError(f"the replicas did not start: {error}") from error
    return f"http://{host}:{port}"


def run(fleet: Fleet, **ray_options: Any) -> None:
    """Start the replicas and wait for SIGTERM or Ctrl-C; then requests in flight are finished, and all ends.

    Raises:
        MissingExtraError, ConfigError, EngineClosedError: as for `deploy`.
    """
    ended = threading.Event()
    before = {sign: signal.signal(sign, lambda *_: ended.set()) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        logger.info("starting %d replicas on Ray", fleet.replicas)
        logger.info("listening on %s/v1; Ctrl-C ends", deploy(fleet, **ray_options))
        while not ended.wait(1.0):  # a wait without an end would not let signals through everywhere
            pass
        logger.info("ending: requests in flight have up to %g s", fleet.settings.drain)
    finally:
        shut_down()
        for sign, handler in before.items():
            signal.signal(sign, handler)


def shut_down() -> None:
    """End the replicas and Ray, as far as they run; what is in flight is finished first."""
    import ray
    from ray import serve

    if ray.is_initialized():
        serve.shutdown()
        ray.shutdown()


def import_ray() -> None:
    """Return if Ray Serve can be imported.

    Raises:
        MissingExtraError: it cannot.
    """
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            'replicas need Ray Serve, which is not installed: pip install "softprompt[ray]"'
        ) from error


def _application(fleet: Fleet) -> Any:
    """The deployment, bound to what each of its replicas is told."""
    import_ray()
    from ray import serve

    return serve.deployment(serve.ingress()(Replica), **options_of(fleet)).bind(fleet.model_dump(mode="json"))


def options_of(fleet: Fleet) -> dict[str, Any]:
    """Return what Ray Serve is told of a deployment.

    It hands a replica as many requests as its engine has places for, in flight and waiting, so that it is the engine
    that refuses what is too much, in OpenAI's words.
    """
    settings = fleet.settings
    found: dict[str, Any] = {
        "name": "Replica",
        "max_ongoing_requests": settings.rows + settings.queue,
        "graceful_shutdown_timeout_s": settings.drain + _GRACE,
        "ray_actor_options": {"num_cpus": fleet.cpus, "num_gpus": fleet.gpus},
    }
    most = fleet.max_replicas
    if most is None or most == fleet.replicas:
        return {**found, "num_replicas": fleet.replicas}
    scaling = {"min_replicas": fleet.replicas, "max_replicas": most, "target_ongoing_requests": settings.rows}
    return {**found, "autoscaling_config": scaling}


def _free(settings: Settings) -> tuple[str, int]:
    """The address to listen on, its port found to be free."""
    from softprompt.server.ports import bind

    with bind(settings.host, settings.port) as taken:
        return settings.host, int(taken.getsockname()[1])
