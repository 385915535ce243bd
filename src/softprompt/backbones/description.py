"""What a backbone is, in plain values, for a person or a JSON file."""

from __future__ import annotations

from typing import Any

from softprompt.backbones.backbone import Backbone


def describe(backbone: Backbone) -> dict[str, Any]:
    """Return what there is to know of a backbone, as JSON values.

    Args:
        backbone: loaded; its fingerprint is computed if it has not been.
    """
    parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
    facts: dict[str, Any] = {
        "name": backbone.name,
        "family": backbone.family.title,
        "model_type": backbone.model_type,
        "kind": backbone.kind,
        "capabilities": sorted(backbone.capabilities),
        "parameters": parameters,
        "layers": backbone.num_layers,
        "embedding_size": backbone.embedding_size,
        "vocabulary": backbone.vocab_size,
        "max_positions": backbone.max_positions,
        "positions": backbone.limits.positions,
        "position_switch": backbone.position_switch,
        "attention": backbone.attention,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "device": str(backbone.device),
        "embedding_rms": round(backbone.embedding_rms, 4),
        "fingerprint": backbone.fingerprint.to_json(),
    }
    return {**facts, "note": backbone.limits.note} if backbone.limits.note else facts
