"""The one tree of errors: each is a `SoftPromptError` and the builtin a caller would expect.

A message says what was asked, what was found and what to do, with the values in it.
"""


class SoftPromptError(Exception):
    """Root of everything softprompt raises on purpose."""


class ConfigError(SoftPromptError, ValueError):
    """An option or argument that cannot be: a wrong value, a combination that contradicts itself."""


class DataError(SoftPromptError, ValueError):
    """Rows that cannot be used: a missing column, a row that is not UTF-8, a label never trained on."""


class TemplateError(SoftPromptError, ValueError):
    """A template that cannot be read, or that does not fit its task or its backbone."""


class UnknownNameError(SoftPromptError, LookupError):
    """A name that nothing here carries; the message offers the nearest ones that do."""


class BackboneError(SoftPromptError, RuntimeError):
    """A backbone that cannot be loaded."""


class UnsupportedBackboneError(BackboneError):
    """A backbone, or a capability of it, that could only be served wrongly: refused by name."""


class PromptFileError(SoftPromptError, ValueError):
    """A prompt file that is corrupt, truncated, oversized, not finite or not understood."""


class IncompatiblePromptError(SoftPromptError, ValueError):
    """A prompt used with a backbone other than the one it was trained on."""


class StorageError(SoftPromptError, OSError):
    """The disk, a permission or a store object stands in the way; nothing was half-written."""


class VersionConflictError(SoftPromptError, RuntimeError):
    """A version that was to follow another one of its name, which is not the latest any more."""


class MissingExtraError(SoftPromptError, ImportError):
    """A part of the job needs a package that is not installed; the message names the extra."""


class TrainingError(SoftPromptError, RuntimeError):
    """A run that cannot go on, or a checkpoint that does not belong to the run asked for."""


class OutOfMemoryError(TrainingError, MemoryError):
    """A step that does not fit in the memory there is, however small its passes."""


class QueueFullError(SoftPromptError, RuntimeError):
    """As many requests wait as may; try again in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineClosedError(SoftPromptError, RuntimeError):
    """An engine that takes no more requests: it is ending, or has ended."""


class DeadlineError(SoftPromptError, TimeoutError):
    """A request that was not answered within the time it gave."""


class RequestCancelledError(SoftPromptError, RuntimeError):
    """A request that was given up by whoever made it."""


class RemoteError(SoftPromptError, ConnectionError):
    """A server that runs elsewhere is not there, refuses, or answers in a form that is not its own."""
