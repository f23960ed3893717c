"""The one tree of errors a user can meet, each with its exit code.

Every message has the same form: what must be, what is, what to do. Knows nothing of where it is printed.
"""

from __future__ import annotations

from collections.abc import Sequence


class DougongError(Exception):
    """A fault that is explained in one sentence, never by a traceback.

    Attributes:
        exit_code: What the process returns to the shell.
        name: The short name printed in brackets, as in `error[E-DISK]`.
    """

    exit_code = 1
    name = "E-ERROR"

    def __init__(self, message: str, *, name: str | None = None):
        super().__init__(message)
        if name is not None:
            self.name = name


class UsageError(DougongError):
    """A recipe, an option or a call that asks for something impossible (exit code 2)."""

    exit_code = 2
    name = "E-USAGE"


class RecipeError(UsageError):
    """A recipe with one or more complaints, all collected before any work is done (exit code 2)."""

    name = "E-RECIPE"

    def __init__(self, complaints: Sequence[str]):
        super().__init__("\n".join(complaints))
        self.complaints = list(complaints)


class FileError(DougongError):
    """A file that is missing, corrupt, or not what it says it is (exit code 3)."""

    exit_code = 3
    name = "E-FILE"


class UntrustedError(FileError):
    """A file that would have to execute something to be loaded (exit code 3)."""

    name = "E-UNTRUSTED"


class ResourceError(DougongError):
    """The machine has too little disk, memory or permission (exit code 4)."""

    exit_code = 4
    name = "E-RESOURCE"


class NonFiniteError(DougongError):
    """A loss or gradient became NaN or infinite; no weight was changed by it (exit code 5)."""

    exit_code = 5
    name = "E-NONFINITE"


class PeerError(DougongError):
    """Another process of the run was lost or hangs (exit code 6)."""

    exit_code = 6
    name = "E-PEER"


class IsolationError(DougongError):
    """The isolation that a verb requires cannot be had here (exit code 7)."""

    exit_code = 7
    name = "E-ISOLATION"


class PrivacyError(DougongError):
    """A privacy promise could not be kept (exit code 8)."""

    exit_code = 8
    name = "E-PRIVACY"


class CheckError(DougongError):
    """What `dougong check` was to prove does not hold; the exit code is that of what failed first."""

    name = "E-CHECK"

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


class Preempted(DougongError):
    """The run was asked to stop; its state is saved, and the same command with --resume goes on (exit code 75)."""

    exit_code = 75
    name = "E-PREEMPTED"


class MissingExtra(UsageError):
    """A feature needs a library that is not installed; the message is the line to type (exit code 2)."""

    name = "E-EXTRA"

    def __init__(self, feature: str, extra: str):
        super().__init__(f"{feature} needs a library that is not installed. Type: pip install 'dougong[{extra}]'")


def is_memory(error: BaseException) -> bool:
    """Tells whether an error says that the memory is full: Python's, torch's allocators', or the system's."""
    text = str(error).lower()
    words = ("out of memory", "can't allocate", "not enough memory", "cannot allocate memory", "can't start new thread")
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, OSError)) and any(word in text for word in words)
    )
