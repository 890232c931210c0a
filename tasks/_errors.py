"""What can go wrong, and whose doing it is.

    PolmError               exit code 2, one message, no traceback
    ├── ConfigError         a recipe file: unknown or missing key, wrong type, impossible value
    ├── DataError           an input row, file or source
    ├── ArtifactError       a stage's output: corrupted, incomplete, or held by another process
    ├── ModelError          a model folder: pickle, remote code, chat template, wrong shapes
    ├── ParityError         an export that does not match the model it was made from
    └── GateError           a promotion that the registry policy refuses

Anything else that escapes a stage is a bug and keeps its traceback (exit code 1).
"""


class PolmError(Exception):
    """Base of every error that the user can act on. The message says what, why, and what to do."""


class ConfigError(PolmError):
    """A recipe file is wrong."""


class DataError(PolmError):
    """Input data are wrong."""


class ArtifactError(PolmError):
    """A stage's output is missing, corrupted, or being written by somebody else."""


class ModelError(PolmError):
    """A model folder cannot be used, or must not be."""


class ParityError(PolmError):
    """An exported model does not answer like the model it was made from."""


class GateError(PolmError):
    """A promotion was refused."""
