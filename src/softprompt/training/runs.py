"""One folder a run: the settings, the measurements as they come, and the last checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from softprompt import durable
from softprompt.errors import StorageError, TrainingError
from softprompt.home import runs_dir
from softprompt.progress import say
from softprompt.training.parallel import World

T = TypeVar("T")


class RunFolder:
    """The files of one run.

    `run.json` holds the resolved settings and what they were applied to, `metrics.jsonl` one line per event
    (append-only; a resumed run first drops what came after its checkpoint), `checkpoint.safetensors` the state.

    Args:
        path: the folder; made when something is first written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._world = World.here()
        self._lock: FileLock | None = None

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.path / "checkpoint.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: steps, validations, warnings."""
        return self.path / "metrics.jsonl"

    @property
    def plan(self) -> Path:
        """What was decided while the run began or ran, and is repeated when it is resumed."""
        return self.path / "plan.json"

    def begin(self, settings: Mapping[str, Any], *, resume: bool) -> bool:
        """Open the run for these settings; return whether there is a checkpoint to go on from.

        Raises:
            TrainingError: another process trains in the folder; or `resume` was asked for and the folder's run had
                other settings, or its record is damaged.
            StorageError: the folder cannot be written.
        """
        if self._world.size > 1:  # sums over another number of processes are rounded otherwise
            settings = {**settings, "processes": self._world.size}
        going_on = self._open(settings, resume=resume) if self._world.first else False
        return bool(self._world.agreed(float(going_on)))

    def _open(self, settings: Mapping[str, Any], *, resume: bool) -> bool:
        self._claim()
        found = self._settings()
        if resume and found is not None:
            self._refuse_other(found, settings)
            if self.checkpoint.exists():
                return True
        if resume:
            say(f"there is no checkpoint in {self.path} to resume from; starting from the first step")
        decided = self._decided() if resume and found is not None else {}
        for old in (self.checkpoint, self.metrics, self.plan):
            with suppress(NotADirectoryError):  # writing, just below, says what is wrong
                old.unlink(missing_ok=True)
        if decided:
            durable.write_text(self.plan, json.dumps(decided) + "\n")
        durable.write_text(
            self.path / "run.json", json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        )
        return False

    def release(self) -> None:
        """Let others train in the folder; dying does it too."""
        if self._lock is not None:
            self._lock.release(force=True)

    def log(self, event: Mapping[str, Any]) -> None:
        """Append one event to `metrics.jsonl`.

        Raises:
            StorageError: the disk is full.
        """
        if not self._world.first:
            return
        line = json.dumps(event, sort_keys=True) + "\n"
        try:
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise StorageError(f"cannot write `{self.metrics}`: {error.strerror}; free space, then --resume") from error

    def forget_after(self, step: int) -> None:
        """Drop the events later than `step`, which a resumed run will log again, and a line cut short by a kill."""
        if not self._world.first:
            return
        kept = [event for event in self.events() if event.get("step", 0) <= step]
        durable.write_text(self.metrics, "".join(json.dumps(event, sort_keys=True) + "\n" for event in kept))

    def events(self) -> list[dict[str, Any]]:
        """Return the events so far; a last line cut short by a kill is left out."""
        if not self.metrics.exists():
            return []
        out = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                out.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return out

    def _claim(self) -> None:
        """Keep every other process out until `release`: two runs in one folder would spoil both."""
        if self._lock is None:
            with suppress(OSError):  # writing, just behind, says what is wrong
                self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / ".lock", is_singleton=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise TrainingError(
                f"another process is training in `{os.path.relpath(self.path)}`; let it end, or give another folder "
                "with --run"
            ) from error
        except OSError as error:
            raise StorageError(f"cannot write `{self.path}`: {error.strerror}") from error

    def _decided(self) -> dict[str, Any]:
        """What was decided before the first checkpoint and holds from the first step on; how steps are cut does not."""
        try:
            found = json.loads(self.plan.read_text(encoding="utf-8")) if self.plan.exists() else {}
        except ValueError:
            return {}
        return {key: value for key, value in found.items() if key != "memory"}

    def _settings(self) -> dict[str, Any] | None:
        path = self.path / "run.json"
        if not path.exists():
            return None
        try:
            loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(f"`{path}` is damaged ({error}); give another folder, or take this one away") from error
        return loaded

    def _refuse_other(self, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        plain = json.loads(json.dumps(asked))
        different = sorted(key for key in {*found, *plain} if found.get(key) != plain.get(key))
        if different:
            key = different[0]
            raise TrainingError(
                f"cannot resume in `{os.path.relpath(self.path)}`: its run had {key} = {found.get(key)!r}, "
                f"this one has {plain.get(key)!r}; repeat its settings, or start anew without --resume"
            )


def resumed_or_anew(train: Callable[[bool], T], *, resume: bool) -> T:
    """Return what a training gives that goes on from its checkpoint, or begins anew where it cannot go on from there.

    That is for trainings that nobody looks after one by one. A checkpoint cannot be gone on from after other settings,
    other versions of the libraries, or with another number of threads.

    Args:
        train: trains, told whether to resume.
        resume: whether there is something to go on from.

    Raises:
        TrainingError: the training that began anew failed too.
    """
    try:
        return train(resume)
    except TrainingError as error:
        if not resume:
            raise
        say(f"starting anew: {error}")
        return train(False)


def runs_folder(name: str, settings: Mapping[str, Any]) -> Path:
    """Return where the run of these settings stands by default: the same settings, the same folder.

    The thread count is left out: resuming with another one is to be refused, not to look like another run.
    """
    named = {key: value for key, value in settings.items() if key != "threads"}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in name.lower())
    return runs_dir() / f"{safe}-{digest[:8]}"
