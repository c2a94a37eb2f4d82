"""SIGINT, SIGTERM and SIGHUP end a run at once, without any clean-up: the next driver can resume it from any state.

An orderly shutdown would be a race: a signal to the process group (Ctrl-C, systemd) also ends Ray's processes, and
within 0.1 s Ray then ends this process with an exit code of its own.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from jobs.console.exit_codes import exit_code_of
from mnist_lib.wording import printable

CLUSTER_LOST = "E-CLUSTER-LOST"
NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}


@contextlib.contextmanager
def stoppable(advice: str, end_children: Callable[[], None], node: int | None = None) -> Iterator[None]:
    """End this process on the signals of `NAMES`. Use it after Ray has started, since Ray sets its own handlers.

    An ignored SIGHUP stays ignored, as under `nohup`.

    Args:
        advice: what the user can do then, printed after the name of the signal.
        end_children: ends the processes that would outlive this one.
        node: a file descriptor that is ready when Ray's process on this node has died; without it, Ray would leave
            this process waiting, or end it without a message.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def wait_for_signal() -> None:
        ready, _, _ = select.select([read, *([] if node is None else [node])], [], [])
        if read not in ready:  # the signal that ended the node may have been sent to this process, too
            ready, _, _ = select.select([read], [], [], 0.2)
        number = os.read(read, 1) if read in ready else None
        os.close(read)
        if number is None:
            end(f"error[{CLUSTER_LOST}] Ray's process on this node has died; {advice}", exit_code_of(CLUSTER_LOST))
        elif number:  # empty if the pipe was closed at the end of the block
            end(f"{NAMES[signal.Signals(number[0])]}; {advice}", 128 + number[0])

    def end(message: str, exit_code: int) -> None:
        line = "\n" if sys.stderr.isatty() else ""  # starts a line below a live table
        with contextlib.suppress(OSError):  # standard error may be closed
            os.write(sys.stderr.fileno(), f"{line}{printable(message)}\n".encode())
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # this is the last line of this process
        end_children()
        os._exit(exit_code)

    # A thread waits for the signal, because the main thread may be in Ray's C++ code for half a second.
    handled = [number for number in NAMES if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: None) for number in handled}
    signal.set_wakeup_fd(write)
    threading.Thread(target=wait_for_signal, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(write)
        for number, handler in before.items():
            signal.signal(number, handler)
