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
            if asked(connection, address, arguments):
                answer = connection.recv(4)
                end(int.from_bytes(answer, "little", signed=True) if len(answer) == 4 else -signal.SIGKILL)
    os.execv(sys.executable, [sys.executable, *arguments])


def asked(connection: socket.socket, address: str, arguments: list[str]) -> bool:
    """Sends the request with the standard files; whether the server has taken it."""
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    sent = json.dumps(request).encode()
    try:
        connection.connect(address)
        socket.send_fds(connection, [len(sent).to_bytes(8, "little")], [0, 1, 2])
        connection.sendall(sent)
        return connection.recv(1) != b""
    except OSError:
        return False


def end(status: int) -> None:
    """Ends this process as the step ended: with its exit status, or, where this is negative, by the same signal."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
