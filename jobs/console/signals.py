"""SIGINT and SIGTERM end a run at once, without any clean-up: the next driver can resume it from any state.

An orderly shutdown would be a race: a signal to the process group (Ctrl-C, systemd) also ends Ray's processes, and
within 0.1 s Ray then ends this process with an exit code of its own.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@contextlib.contextmanager
def stoppable(advice: str, end_children: Callable[[], None]) -> Iterator[None]:
    """End this process on SIGINT or SIGTERM. Use it after Ray has started, since Ray sets its own handlers.

    Args:
        advice: what the user can do then, printed after "interrupted" or "terminated".
        end_children: ends the processes that would outlive this one.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def wait_for_signal() -> None:
        number = os.read(read, 1)
        os.close(read)
        if number:  # empty if the pipe was closed at the end of the block
            line = "\n" if sys.stderr.isatty() else ""  # starts a line below a live table
            message = f"{line}{NAMES[signal.Signals(number[0])]}; {advice}\n"
            with contextlib.suppress(OSError):  # standard error may be closed
                os.write(sys.stderr.fileno(), message.encode(errors="replace"))
            end_children()
            os._exit(128 + number[0])

    # A thread waits for the signal, because the main thread may be in Ray's C++ code for half a second.
    before = {number: signal.signal(number, lambda *_: None) for number in NAMES}
    signal.set_wakeup_fd(write)
    threading.Thread(target=wait_for_signal, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(write)
        for number, handler in before.items():
            signal.signal(number, handler)
