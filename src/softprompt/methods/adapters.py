"""Adapters of PEFT put into a backbone: beside its weights, in fp32, and out of the way when they are off."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from softprompt.errors import MissingExtraError
from softprompt.methods.tuned import Opened

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone


def with_adapters(backbone: Backbone, kind: str, settings: Mapping[str, Any], notes: tuple[str, ...] = ()) -> Opened:
    """Put PEFT's adapters into a backbone.

    Args:
        backbone: it is changed: what shall have an adapter becomes a module of PEFT.
        kind: the name of PEFT's configuration class, such as `LoraConfig`.
        settings: of that class.
        notes: what a reader must know.

    Raises:
        MissingExtraError: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError(
            "LoRA and (IA)³ need peft, which is not installed: pip install 'softprompt[baselines]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how a Conv1D lies, which PEFT finds by itself
        adapted = peft.get_peft_model(backbone.model, getattr(peft, kind)(**settings)).eval()

    @contextmanager
    def off() -> Iterator[None]:
        with adapted.disable_adapter():
            yield

    parameters = [parameter for parameter in backbone.model.parameters() if parameter.requires_grad]
    return Opened(backbone, parameters, off=off, notes=notes)
