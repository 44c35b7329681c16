"""The two kinds of failure a person meets, and the exit code of each.

Owns the exception types that cross module boundaries on purpose. Anything else
that escapes is a bug and keeps its traceback.
"""

EXIT_USER_ERROR = 2
EXIT_RUN_FAILED = 3
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake in settings, data or files that the person at the keyboard can mend.

    The message is one sentence or two: what was expected, what came, and which
    setting changes it. Jobs print it without a traceback and exit with 2.
    """


class RunFailed(Exception):
    """The run cannot go on: an actor died, or a remote call passed its time limit.

    The message names the actor, what was asked of it, and the setting that bounds
    the wait. Jobs print it without a traceback and exit with 3.
    """
