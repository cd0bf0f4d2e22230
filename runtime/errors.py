"""Every error dlcv raises on purpose; one class, one kind of trouble.

    DlcvError
    ├── UserError                  something given to dlcv must change
    │   ├── BundleError            a bundle is malformed, damaged or not what the command needs
    │   ├── ImageError             one image cannot be read or answered
    │   │   ├── ImageTooLargeError it has more pixels than are decoded
    │   │   └── AnswerError        what the network gave for it is no answer
    │   ├── InputError             a path, option or array does not fit
    │   ├── EngineUnavailableError an engine is unknown, not installed or cannot start here
    │   ├── OutputError            results cannot be written (folder in use, permission, disk full)
    │   ├── RecipeError            a training recipe or its data does not fit
    │   └── ParityError            a graph does not give what the checkpoint gave
    ├── EngineError                an engine failed on valid input
    │   └── ModelClosedError       the model was closed, or belongs to another process
    └── QueueFullError             a model has no place for another image now

A message is one sentence that holds what was expected, what was received and the fix.
"""

from __future__ import annotations


class DlcvError(Exception):
    """Base of every error that dlcv raises on purpose."""


class UserError(DlcvError):
    """Something given to dlcv must change; the message says what."""


class BundleError(UserError):
    """A bundle is malformed, damaged, or lacks what was asked of it."""


class ImageError(UserError):
    """One image cannot be read or answered. The message is the reason alone, without the image's name."""


class ImageTooLargeError(ImageError):
    """One image has more pixels than are decoded; its header says so, nothing was decoded."""


class AnswerError(ImageError):
    """What the network gave for one image is no answer: values that are not numbers, a class that there is not."""


class InputError(UserError):
    """A path, an option or an array does not fit."""


class EngineUnavailableError(UserError):
    """An engine is unknown, not installed, or cannot start on this machine."""


class OutputError(UserError):
    """Results cannot be written: folder in use, no permission, disk full."""


class RecipeError(UserError):
    """A training recipe contradicts itself or does not fit its data or weights."""


class ParityError(UserError):
    """A graph does not give what the checkpoint gave; every failure is listed."""


class EngineError(DlcvError):
    """An engine failed on valid input."""


class ModelClosedError(EngineError):
    """A model was closed before it answered, or was loaded in another process."""


class QueueFullError(DlcvError):
    """A running model has no place for another image now; later it may."""
