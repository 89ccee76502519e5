"""The program called `python` in front of the PATH of steps: hands `-m <module of the project>` to the fork server.

It starts without site-packages, imports next to nothing, and ends as the step ends. Where no server answers, and for
everything else that is asked of `python`, it becomes the ordinary interpreter."""

import json
import os
import signal
import socket
import sys

PACKAGES = ("common.", "replications.")


def main() -> None:
    """Asks the server, or becomes Python."""
    arguments = sys.argv[1:]
    address = os.environ.get("FORKSERVER", "")
    if address and len(arguments) > 1 and arguments[0] == "-m" and arguments[1].startswith(PACKAGES):
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(address)
            except OSError:
                pass
            else:
                end(ask(connection, arguments))
    os.execv(sys.executable, [sys.executable, *arguments])


def ask(connection: socket.socket, arguments: list[str]) -> int:
    """Sends the request with the standard files; the exit status, negative for a signal."""
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    sent = json.dumps(request).encode()
    socket.send_fds(connection, [len(sent).to_bytes(8, "little")], [0, 1, 2])
    connection.sendall(sent)
    answer = connection.recv(4)
    return int.from_bytes(answer, "little", signed=True) if len(answer) == 4 else -signal.SIGKILL


def end(status: int) -> None:
    """Ends this process as the step ended."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
