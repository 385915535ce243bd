"""One loaded backbone for an estimator, its clones, and whoever else in the process names the same source."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

from softprompt.backbones import backbone as backbones
from softprompt.backbones.backbone import Backbone
from softprompt.modeling.prompted_model import PromptedModel

Source = tuple[str, str | None, str | None]
"""What a backbone is loaded from: name or path, device and dtype."""

_LOADED: WeakValueDictionary[Source, PromptedModel] = WeakValueDictionary()
"""Every model that someone in the process still holds."""
_LOCK = Lock()


class SharedModel:
    """A place for one model, which an estimator and its clones have in common.

    The first that needs the model loads it; it stays for as long as any of them is there, so that the clones that
    cross-validation makes and drops, one after the other, meet it loaded.
    """

    def __init__(self) -> None:
        self._held: PromptedModel | None = None
        self._source: Source | None = None

    def model(self, source: str | Path | Backbone, device: str | None, dtype: str | None) -> PromptedModel:
        """Return the model of a backbone, loaded if nobody in the process has it.

        Args:
            source: a loaded backbone, or what `load_backbone` takes.
            device: for `load_backbone`.
            dtype: for `load_backbone`.

        Raises:
            SoftPromptError: as for `load_backbone`.
        """
        if isinstance(source, Backbone):
            if self._held is None or self._held.backbone is not source:
                self._held, self._source = PromptedModel(source), None
            return self._held
        asked = (str(source), device, dtype)
        with _LOCK:
            if self._held is None or self._source != asked:
                self._held, self._source = _loaded(asked), asked
            return self._held

    def serves(self, source: str | Path | Backbone, device: str | None, dtype: str | None) -> bool:
        """Tell whether this place is free, or already has the model of that source."""
        if self._held is None:
            return True
        if isinstance(source, Backbone):
            return self._held.backbone is source
        return self._source == (str(source), device, dtype)


def _loaded(asked: Source) -> PromptedModel:
    found = _LOADED.get(asked)
    if found is None:
        name, device, dtype = asked
        found = PromptedModel(backbones.load_backbone(name, device=device, dtype=dtype))
        _LOADED[asked] = found
    return found
