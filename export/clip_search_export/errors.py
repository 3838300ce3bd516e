"""What an export says when it cannot go on; every message is one sentence or two, fit for users.

ExportError
├── SourceError          the source cannot be found or fetched
├── CheckpointError      the checkpoint is damaged, incomplete or contradicts itself
│   └── UnsupportedError a sound checkpoint of an architecture that this exporter does not author
├── CalibrationError     there is too little to calibrate 8-bit arithmetic on
├── ParityError          the authored towers do not agree with the reference
└── PublishError         the output folder cannot be written or already holds something
"""

__all__ = [
    "CalibrationError",
    "CheckpointError",
    "ExportError",
    "ParityError",
    "PublishError",
    "SourceError",
    "UnsupportedError",
]


class ExportError(Exception):
    """Base of every error raised on purpose during an export."""


class SourceError(ExportError):
    """The source is no folder, no hub id, or could not be fetched."""


class CheckpointError(ExportError):
    """The checkpoint is damaged, incomplete or contradicts itself."""


class UnsupportedError(CheckpointError):
    """The checkpoint is of an architecture, or has a setting, that no tower module here authors."""


class CalibrationError(ExportError):
    """There are too few pictures to calibrate 8-bit arithmetic on."""


class ParityError(ExportError):
    """An authored tower is further from the reference than its gate allows; nothing is published."""


class PublishError(ExportError):
    """The output folder cannot be written, or already holds something."""
