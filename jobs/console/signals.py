"""SIGINT and SIGTERM end the process at once: nothing has to be tidied that the next driver of the run would not find.

An orderly end would be a race: a signal that goes to a whole group (Ctrl-C, systemd) ends Ray's processes too, and Ray
then ends this one, within a tenth of a second, with an exit code of its own.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@contextlib.contextmanager
def stoppable(hint: str, end_children: Callable[[], None]) -> Iterator[None]:
    """Entered after Ray has started, which has handlers of its own.

    Args:
        hint: the command that goes on from here.
        end_children: what would outlive this process.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def end() -> None:
        number = os.read(read, 1)
        os.close(read)
        if number:  # else the work is done
            line = "\n" if sys.stderr.isatty() else ""  # below what a live table has drawn
            said = f"{line}{NAMES[signal.Signals(number[0])]}; resume with: {hint}\n"
            with contextlib.suppress(OSError):  # nobody reads it any more
                os.write(sys.stderr.fileno(), said.encode(errors="replace"))
            end_children()
            os._exit(128 + number[0])

    # Told by the file descriptor to a thread: the main one may wait in Ray's C++ for half a second.
    before = {number: signal.signal(number, lambda *_: None) for number in NAMES}
    signal.set_wakeup_fd(write)
    threading.Thread(target=end, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(write)
        for number, handler in before.items():
            signal.signal(number, handler)
