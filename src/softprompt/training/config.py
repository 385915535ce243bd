"""The settings of a training run: one definition for YAML file, flag and Python argument."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from softprompt.errors import ConfigError
from softprompt.registry import unknown_name

Init = Literal["text", "labels", "vocabulary", "random", "prompt"]
Select = Literal["loss", "macro-f1"]
ClassWeights = Literal["none", "balanced"]

RATE = 0.02
"""The relative learning rate, where none is asked for: right for all parameterizations, near enough."""
STEPS = 180
"""Optimizer steps, where none are asked for and the data does not speak against it."""


class TrainConfig(BaseModel):
    """How a prompt is trained; every field has a default that is right for most.

    A setting that is `None` is left to the race, which tries what is worth trying (`training/candidates.py`).

    >>> TrainConfig(steps=50).steps
    50
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    race: Annotated[bool, Field(description="let candidates race for the first steps and train the winner on")] = True
    budget: Annotated[
        str | None,
        Field(description="what it may take with race, folds and ensemble: `5m`, `200 steps`, `90000 tokens`"),
    ] = None
    parameterization: Annotated[
        str | None, Field(description="what trains: direct, deep, residual, ... By default the race decides")
    ] = None
    settings: Annotated[
        dict[str, float | int | str], Field(description="settings of the parameterization, as rank=16")
    ] = {}
    learned_rows: Annotated[
        bool | None, Field(description="train a light head too, one row a label. By default the race decides")
    ] = None
    exportable: Annotated[
        bool, Field(description="only what PEFT and vLLM can carry: rows at the input, no learned rows")
    ] = False
    virtual_tokens: Annotated[int, Field(ge=1, description="P, the length of the prompt")] = 20
    init: Annotated[
        Init | None, Field(description="where the first values come from. By default a text, and the race tries others")
    ] = None
    init_text: Annotated[str | None, Field(description="text to start from; by default one made of the labels")] = None
    init_prompt: Annotated[str | None, Field(description="prompt to start from, with init=prompt")] = None
    learning_rate: Annotated[
        float | None,
        Field(gt=0, description="AdamW's, relative to what trains (RMS). By default 0.02"),
    ] = None
    steps: Annotated[int | None, Field(ge=1, description="optimizer steps at most. By default by the data")] = None
    extend: Annotated[
        int | None,
        Field(
            ge=0,
            description="times that a run goes on, each time for twice as long, while validation still improves beyond "
            "chance. By default 2, and none where steps or budget are set",
        ),
    ] = None
    batch_size: Annotated[int, Field(ge=1, description="rows a step")] = 24
    batch_tokens: Annotated[
        int | None, Field(ge=16, description="tokens a step at most, instead of batch_size rows")
    ] = None
    warmup: Annotated[float, Field(ge=0, lt=1, description="share of the steps with a rising rate")] = 0.07
    weight_decay: Annotated[float, Field(ge=0, description="AdamW's, on the prompt")] = 0.0
    clip: Annotated[float, Field(gt=0, description="largest norm of the gradient")] = 1.0
    seed: Annotated[int, Field(ge=0, description="of the data order and the random first values")] = 0
    ensemble: Annotated[
        int, Field(ge=1, le=64, description="prompts to train, by as many seeds, that can answer together")
    ] = 1
    class_weights: Annotated[ClassWeights, Field(description="`balanced` counts rare labels for more")] = "none"
    select: Annotated[
        Select, Field(description="what a run's best prompt is best by: loss, or macro-f1. Races go by loss")
    ] = "loss"
    tokens_at_once: Annotated[
        int | None, Field(ge=16, description="tokens whose graph is held at once. By default by the device")
    ] = None
    checkpoint_layers: Annotated[
        bool | None,
        Field(description="run layers again in the backward pass to save memory. By default if it is short"),
    ] = None
    compile_layers: Annotated[
        bool | None,
        Field(description="compile the backbone's layers first, on a CPU. By default where there is enough to train"),
    ] = None
    validate_every: Annotated[int, Field(ge=1, description="steps between validations")] = 60
    validation_rows: Annotated[int, Field(ge=1, description="validation rows looked at while training")] = 512
    patience: Annotated[
        int, Field(ge=1, description="validations that are worse than the best for sure before an early stop")
    ] = 3
    checkpoint_every: Annotated[int, Field(ge=1, description="steps between checkpoints")] = 10
    report: Annotated[bool, Field(description="score the test rows and the references when done")] = True
    test_rows: Annotated[int, Field(ge=1, description="test rows in the report card at most")] = 2000
    probe_rows: Annotated[int, Field(ge=2, description="training rows for the linear probe at most")] = 3600
    abstain_accuracy: Annotated[
        float | None, Field(gt=0, lt=1, description="fit a threshold so that answered rows reach this accuracy")
    ] = None

    @field_validator("settings", mode="before")
    @classmethod
    def _pairs(cls, given: Any) -> Any:
        """Take `rank=16` as often as it was given, as flags write it; whole numbers and fractions become numbers."""
        if not isinstance(given, list | tuple):
            return given
        split = [str(pair).partition("=") for pair in given]
        broken = next(("".join(parts) for parts in split if not parts[0].strip() or not parts[1]), None)
        if broken is not None:
            raise ValueError(f"`{broken}` is no name=value")
        return {name.strip(): _number(value) for name, _, value in split}

    @property
    def rate(self) -> float:
        """The relative learning rate that is used."""
        return RATE if self.learning_rate is None else self.learning_rate

    @property
    def length(self) -> int:
        """The optimizer steps that are used, once the data has been seen (`settled`)."""
        return STEPS if self.steps is None else self.steps

    @classmethod
    def read(cls, path: Path | None = None, **overrides: Any) -> TrainConfig:
        """Return the settings of a YAML file, with `overrides` that are not `None` on top.

        Raises:
            ConfigError: the file cannot be read, or a value is out of range.
            UnknownNameError: an option that does not exist; the nearest one is offered.
        """
        given = dict(_read_yaml(path)) if path else {}
        given |= {key: value for key, value in overrides.items() if value is not None}
        for key in given:
            if key not in cls.model_fields:
                raise unknown_name("option", key, cls.model_fields)
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise ConfigError(f"option `{name}` is {first['input']!r}: {first['msg']}") from error


def _number(text: str) -> float | int | str:
    """Return what a flag's text says: a whole number, a fraction, or itself."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the settings in `{path}`: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"`{path}` holds {type(data).__name__}; settings are written `option: value`, one a line")
    return data
