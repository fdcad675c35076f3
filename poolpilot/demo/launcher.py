"""Becomes another program that cannot outlive the process which started it.

Run as a script (``python -I -S launcher.py HOW PARENT_PID PROGRAM ARG...``), so it imports nothing
but the standard library. On Linux the kernel is asked to kill this process when its parent dies,
however the parent dies, and then PROGRAM takes its place: ``subprocess``'s ``preexec_fn`` could do
the same, but is unsafe in a process with threads. Elsewhere it stays, holds the other end of a pipe
whose writer is the parent, and kills PROGRAM when that pipe closes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process together with the thread that started it."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone already")


def watch_over(argv: list[str]) -> int:
    """Run ``argv`` until it ends or standard input closes; the exit status of the program."""
    # A signal to stop goes to the whole process group: the program acts on it, and this follows.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=_default_signals)

    def until_parent_is_gone() -> None:
        while os.read(0, 4096):
            pass
        child.kill()

    threading.Thread(target=until_parent_is_gone, daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _default_signals() -> None:
    """Ignored signals stay ignored over exec; the program decides for itself."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main(arguments: list[str]) -> None:
    how, parent, argv = arguments[0], int(arguments[1]), arguments[2:]
    if how == "kernel":
        die_with_parent(parent)
        os.execvp(argv[0], argv)
    sys.exit(watch_over(argv))


if __name__ == "__main__":
    main(sys.argv[1:])
