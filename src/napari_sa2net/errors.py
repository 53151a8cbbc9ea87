"""Every error a user can meet. Each message says what is wrong and what to do."""

from __future__ import annotations


class SA2NetError(Exception):
    """Base of all errors of this package; ``str(error)`` is meant for the user."""


class Cancelled(SA2NetError):
    """The user cancelled the job; nothing was changed."""


class Paused(Cancelled):
    """Learning was paused; what is needed to go on is on disk."""


class SettingsError(SA2NetError, ValueError):
    """A setting is out of its bounds or contradicts another."""


# --- images ----------------------------------------------------------------------------


class ImageError(SA2NetError, ValueError):
    """The image cannot be segmented (text, complex numbers, all NaN, ...)."""


class AxesError(ImageError):
    """The axes string does not fit the array."""


class ChannelError(ImageError):
    """The chosen channels do not exist or do not fit the model."""


class ImageFileError(SA2NetError):
    """An image file is missing, unreadable or of an unknown format."""


class OutputError(SA2NetError):
    """A result cannot be written (folder missing, no permission, disk full)."""


class FormatError(OutputError, ValueError):
    """A file format cannot hold these cells; the message names one that can."""


# --- models ----------------------------------------------------------------------------


class ModelNotFoundError(SA2NetError, LookupError):
    """No bundled or registered model and no file of that name."""


class ModelExistsError(SA2NetError):
    """A model of that name exists already, or a bundled model would be changed."""


class CheckpointError(SA2NetError, ValueError):
    """A model file cannot be used; the subclasses say why."""


class CheckpointPathError(CheckpointError):
    """The path is missing, a directory, or cannot be read."""


class UnsafeCheckpointError(CheckpointError):
    """The file could run code, or write outside of its place."""


class CorruptCheckpointError(CheckpointError):
    """The file is empty, truncated or damaged."""


class ForeignCheckpointError(CheckpointError):
    """A readable file, but not a SA2-Net: keys are missing or surplus."""


class CheckpointShapeError(CheckpointError):
    """The weights have shapes that no SA2-Net has."""


class CheckpointDtypeError(CheckpointError):
    """The weights are integers, complex, sparse or quantised."""


class NonFiniteWeightsError(CheckpointError):
    """The weights hold NaN or infinity."""


class CardError(CheckpointError):
    """The model card is missing, malformed or of a newer schema version."""


class DownloadError(SA2NetError):
    """A model could not be downloaded, or is not the file that was promised."""


# --- running ---------------------------------------------------------------------------


class DeviceError(SA2NetError):
    """The device that was asked for is not there."""


class OutOfMemoryError(SA2NetError, MemoryError):
    """Memory ran out even with the smallest tiles."""


class EngineError(SA2NetError):
    """The engine process could not start, died, or broke the protocol."""


class NotKeptError(EngineError):
    """The engine no longer keeps the probabilities of that result."""


# --- corrections -----------------------------------------------------------------------


class EditError(SA2NetError, ValueError):
    """A correction cannot be made; the labels are as they were."""


class NothingToEditError(EditError):
    """Nothing lies there, or the correction would change nothing."""


class EditConflictError(EditError):
    """A step does not fit the labels: they are not as it found or left them."""


class StepFormatError(EditError):
    """A stored step is damaged or of a newer version."""


# --- training and scoring --------------------------------------------------------------


class TrainingDataError(SA2NetError, ValueError):
    """The training folder is incomplete or inconsistent."""


class CorrectionsError(TrainingDataError):
    """A set of corrections is missing, damaged, in use, or cannot take a commit."""


class CommitNotFoundError(CorrectionsError, LookupError):
    """The set has no commit of that id, or its files are gone."""


class JournalError(SA2NetError):
    """A journal of edits is missing, damaged or of a newer version."""


class JournalInUseError(JournalError):
    """Another window is writing that journal."""


class TrainingError(SA2NetError):
    """Training could not go on (loss not finite, checkpoint of another run, ...)."""


class LabelsError(SA2NetError, ValueError):
    """What was given as labels is not one whole number for each cell."""


class EvaluationError(SA2NetError, ValueError):
    """Predictions and truth cannot be compared (missing file, different shapes)."""
