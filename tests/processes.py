"""Starts the project's programs in processes of their own, which end with their test.

Importing torch and Lightning takes seconds of processor time. Therefore, all test workers share one
*fork server*: a process that has trained once, so that everything is imported, and from which
`Programs.start` forks every program. A forked program is an ordinary process with its own
arguments, folder, environment, standard streams and process group, and it runs its module as
`python -m` does. What a fork cannot show, such as the order of imports, needs
`start(…, is_forked=False)`, which executes a new interpreter.

The server passes open files over Unix sockets and reads `/proc`, so it needs Linux.
"""

import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).parent.parent
"""The root folder of the repository."""

DEADLINE_SECONDS = 180
"""How long a test waits for a process. It detects processes that hang; it measures no speed."""

MAX_REQUEST_BYTES = 200_000


class Result(NamedTuple):
    """How a process ended, and what it wrote."""

    returncode: int
    """The exit status, or minus the number of the signal that ended the process."""
    stdout: str
    stderr: str


class Request(NamedTuple):
    """A request to the fork server to start a program; see `Programs.start`."""

    command: list[str]
    cwd: str
    env: dict[str, str]
    is_forked: bool
    mount_script: str
    unmount_script: str


class ForkServer:
    """The process from which programs are forked. It ends with the process that has started it."""

    def __init__(self) -> None:
        self.address = f"names-rnn-tests-{token_hex(8)}"
        """The name of the abstract Unix socket on which the server listens."""
        # torch has started threads on import, of which Python 3.12 warns before a fork.
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.processes", self.address],
            cwd=ROOT,
            stdin=subprocess.PIPE,  # the server ends when this is closed
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends pytest, which then ends the server
        )

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.communicate()


class Process:
    """A process that was started by the fork server.

    The interface is that of `subprocess.Popen`, as far as the tests need it. Both output streams
    are files, from which `stdout` and `stderr` read what was written so far.
    """

    def __init__(self, channel: socket.socket, stdout: Path, stderr: Path) -> None:
        self._channel = channel
        self._stdout = stdout
        self._stderr = stderr
        self.returncode: int | None = None
        channel.settimeout(DEADLINE_SECONDS)
        self.pid = int(self._receive())

    def _receive(self) -> bytes:
        message = self._channel.recv(64)
        if not message:
            raise ConnectionError("the fork server has ended")
        return message

    @property
    def stdout(self) -> str:
        """What the process has written to its standard output."""
        return self._stdout.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What the process has written to its standard error stream."""
        return self._stderr.read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """Return the exit status, or None while the process is running."""
        try:
            return self.wait(timeout=0)
        except TimeoutError:
            return None

    def wait(self, timeout: float = DEADLINE_SECONDS) -> int:
        """Wait until the process has ended, and return its exit status.

        Raises:
            TimeoutError: if it has not ended after `timeout` seconds.
        """
        if self.returncode is None:
            self._channel.settimeout(timeout)
            try:
                self.returncode = int(self._receive())
            except BlockingIOError:  # the timeout is 0
                raise TimeoutError from None
        return self.returncode

    def result(self) -> Result:
        """Wait until the process has ended, and return its exit status and its output."""
        return Result(self.wait(), self.stdout, self.stderr)

    def send_signal(self, signum: int) -> None:
        """Send a signal to the process, but not to those that it has started."""
        os.kill(self.pid, signum)

    def kill_group(self) -> None:
        """Kill the process and all that it has started, and wait for their end."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while pids := running_processes(session=self.pid):
            for pid in pids:
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"these processes cannot be killed: {pids}")
            time.sleep(0.01)
        self.wait()
        self._channel.close()


class Programs:
    """Starts programs through a fork server.

    Args:
        address: that of the server.
        folder: for the files with the output of the programs.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self._folder = folder
        self._server = connect(address)
        self._running: list[Process] = []
        """The programs that were started since the last `kill_all`."""
        self._sessions: list[int] = []
        """The session of each program that was started."""

    def start(
        self,
        command: list[str],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdin: str | IO[Any] = "",
        stdout: IO[Any] | None = None,
        is_forked: bool = True,
        mount_script: str = "",
        unmount_script: str = "",
    ) -> Process:
        """Start a program and return without waiting for it.

        Args:
            command: a module and its arguments, or an executable and its arguments if
                `is_forked` is False.
            cwd: the folder in which the program starts.
            env: its environment; by default that of this process.
            stdin: its input, as text or as an open file.
            stdout: an open file for its output, instead of one that `Process.stdout` reads.
            is_forked: run a module in a forked process. If False, execute a command instead.
            mount_script: a shell script to run before, in the same folder. The script and the
                program then have their own mount namespace, whose mounts nobody else sees.
            unmount_script: a shell script to run in this namespace afterwards.
        """
        index = len(self._sessions)
        input_file = self._folder / f"{index}.in"
        output_file = self._folder / f"{index}.out"
        error_file = self._folder / f"{index}.err"
        input_file.write_text(stdin if isinstance(stdin, str) else "", encoding="utf-8")
        environment = dict(os.environ if env is None else env)
        environment["PYTHONPATH"] = str(ROOT)
        request = Request(
            command=command,
            cwd=str(cwd),
            env=environment,
            is_forked=is_forked,
            mount_script=mount_script,
            unmount_script=unmount_script,
        )
        message = json.dumps(request._asdict()).encode()
        channel, server_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with (
            input_file.open() as input_stream,
            output_file.open("w") as output_stream,
            error_file.open("w") as error_stream,
            server_channel,
        ):
            files = [
                server_channel,
                input_stream if isinstance(stdin, str) else stdin,
                stdout or output_stream,
                error_stream,
            ]
            socket.send_fds(self._server, [message], [file.fileno() for file in files])
        process = Process(channel, output_file, error_file)
        self._running.append(process)
        self._sessions.append(process.pid)
        return process

    def run(self, command: list[str], cwd: Path, **options: Any) -> Result:
        """Run a program to its end; see `start` for the arguments."""
        return self.start(command, cwd=cwd, **options).result()

    def train(self, overrides: list[str], cwd: Path = ROOT, **options: Any) -> Result:
        """Run `python -m src.train` to its end."""
        return self.run(["src.train"] + overrides, cwd=cwd, **options)

    def start_training(self, overrides: list[str], cwd: Path, until: str) -> Process:
        """Start `python -m src.train`, and wait for a file.

        Args:
            overrides: the arguments of the program.
            cwd: the folder in which the program starts.
            until: a pattern in this folder; the function returns when a file matches it.
        """
        process = self.start(["src.train"] + overrides, cwd=cwd)
        wait_until(lambda: list(cwd.glob(until)), process)
        return process

    def kill_all(self) -> None:
        """Kill the programs, and the processes they have started, that are still running."""
        while self._running:
            self._running.pop().kill_group()

    def close(self) -> None:
        """End the connection to the server.

        Raises:
            RuntimeError: if one of the programs, or a process it has started, is still running.
        """
        self.kill_all()  # programs that fixtures have started
        self._server.close()
        pids = []
        for session in self._sessions:
            pids += running_processes(session)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if pids:
            raise RuntimeError(f"these processes of the tests were still running: {pids}")


def connect(address: str) -> socket.socket:
    """Connect to a fork server, as soon as it listens."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            server.connect(f"\0{address}")
            return server
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def running_processes(session: int) -> list[int]:
    """Return the ids of the processes of a session that have not ended."""
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        # The name of the program, in parentheses, may contain spaces.
        state, _, _, session_id, *_ = stat.rpartition(")")[2].split()
        if int(session_id) == session and state not in "ZX":
            pids.append(int(entry.name))
    return pids


def wait_until(condition: Callable[[], object], process: Process | None = None) -> None:
    """Wait until a condition is true.

    Args:
        condition: is evaluated again and again.
        process: must not end before.

    Raises:
        AssertionError: if the process ends, or after `DEADLINE_SECONDS`.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if process is not None:
            assert process.poll() is None, process.result()
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


# The functions below run in the fork server and in the processes that it forks.


def main() -> None:
    """Serve the requests of the tests, at the address in the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"\0{sys.argv[1]}")
    warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended processes are not kept
    listener.listen()
    request = serve(listener)
    if request is not None:
        run_request(request)


def warm_up() -> None:
    """Import what the programs need, and train once, so that caches are filled."""
    import torch

    # Imported for the forked processes.
    modules = ["src.predict", "src.inference.tables", "src.inference.trained_model"]
    modules += ["src.sweep.finish", "src.sweep.seeds", "src.sweep.figure", "optuna"]
    for name in modules:
        with suppress(ImportError):  # Optuna is an extra
            importlib.import_module(name)

    from src.launch import run_cli
    from src.train import main as train

    torch.set_num_threads(1)  # threads do not survive a fork
    sys.argv[1:] = ["iterations=20", "log_every=10", "hidden=8"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        status = run_cli(train)
        os.chdir(ROOT)
    if status:
        sys.exit(status)
    gc.collect()
    gc.freeze()


def serve(listener: socket.socket) -> Request | None:
    """Fork a process for each request.

    Returns:
        In the server: None, when its standard input is closed. In a forked process: the request
        for the program to run.
    """
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                return None
            if key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            connection: Any = key.fileobj
            message, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 4)
            if not message:  # a test worker has ended
                selector.unregister(connection)
                connection.close()
            elif os.fork() == 0:
                connections = [key.fileobj for key in selector.get_map().values()]
                for inherited in connections:
                    if inherited is not sys.stdin:
                        inherited.close()  # type: ignore[union-attr] # they are sockets
                selector.close()
                channel, *streams = descriptors
                request = Request(**json.loads(message))
                fork_and_monitor(socket.socket(fileno=channel), request)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                return request
            for descriptor in descriptors:
                os.close(descriptor)


def fork_and_monitor(channel: socket.socket, request: Request) -> None:
    """Fork once more; report the process id and, when the process has ended, its exit status.

    Returns only in the new process.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if request.mount_script:
        unshare_mounts()
        subprocess.run(["sh", "-ec", request.mount_script], cwd=request.cwd, check=True)
    pid = os.fork()
    if pid == 0:
        channel.close()
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return
    channel.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    if request.unmount_script:
        subprocess.run(["sh", "-ec", request.unmount_script], cwd=request.cwd, check=True)
    channel.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def unshare_mounts() -> None:
    """Give this process its own mount namespace, in which it may mount, as `unshare` does."""
    user_and_group = os.getuid(), os.getgid()
    new_user_namespace, new_mount_namespace = 0x10000000, 0x00020000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_user_namespace | new_mount_namespace):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    for name, number in zip(("uid_map", "gid_map"), user_and_group, strict=True):
        Path(f"/proc/self/{name}").write_text(f"0 {number} 1")


def run_request(request: Request) -> None:
    """Turn this process into the requested program."""
    if os.isatty(0):  # Ctrl-C in this terminal then reaches the process
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(request.env)
    os.chdir(request.cwd)
    if not request.is_forked:
        os.execvpe(request.command[0], request.command, request.env)
    # The streams of the server remember what kind of file they were.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1, errors="backslashreplace")
    sys.argv = list(request.command)
    sys.path[0] = request.cwd  # as for `python -m`
    if str(ROOT) not in sys.path:
        sys.path.insert(1, str(ROOT))
    sys.modules.pop(request.command[0], None)  # runpy warns if the module was imported before
    # The server ignores all warnings. These are the filters of an ordinary interpreter.
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    runpy.run_module(request.command[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
