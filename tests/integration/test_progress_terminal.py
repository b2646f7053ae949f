# SPDX-License-Identifier: Apache-2.0
"""What a program with calls leaves on a real terminal, whatever else is written there meanwhile."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: Generous: the box may be busy.
DEADLINE_S = 60.0

#: Makes the terminal the one that controls the program, as a shell does.
LAUNCH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"

PREAMBLE = """
import logging, sys, time, warnings
from flash_plugins import Endpoint

endpoint = Endpoint(name="screen", cpu="cpu5c-4-8", workers=(0, 2))


@endpoint
def nap(n):
    time.sleep(0.4)
    if n % 3 == 0:
        print("printed by", n)
    if n == 4:
        logging.warning("logged by 4")
    if n == 99:
        raise ValueError("no such nap")
    return n
"""


class Terminal:
    """A program on a terminal of its own.

    Attributes:
        written: All that was written to it.
    """

    def __init__(self, body: str, folder: Path, *, columns: int = 100, arguments: tuple[str, ...] = ()) -> None:
        script = folder / "script.py"
        script.write_text(PREAMBLE + textwrap.dedent(body))
        self._fd, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        env = {name: value for name, value in os.environ.items() if name not in ("CI", "FLASH_PROGRESS")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, sys.executable, *arguments, str(script)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**env, "TERM": "xterm"},
        )
        os.close(slave)
        self.written = ""

    def read(self, is_enough: Callable[[str], object] = lambda written: False) -> None:
        """Read until `is_enough` of what was written, or the program has ended."""
        deadline = time.monotonic() + DEADLINE_S
        while not is_enough(self.written):
            assert time.monotonic() < deadline, self.written
            if not select.select([self._fd], [], [], 0.1)[0]:
                continue
            try:
                content = os.read(self._fd, 65_536)
            except OSError as error:
                if error.errno != errno.EIO:  # as it is where nobody has the other end any more
                    raise
                content = b""
            if not content:
                return
            self.written += content.decode()

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def ended(self) -> int:
        """Read to the end and return the exit status."""
        self.read()
        return self._process.wait(DEADLINE_S)

    @property
    def drawn(self) -> list[str]:
        """All progress lines that were ever there."""
        return [line for line in re.split(r"\r|\x1b\[2K|\n", self.written) if " done" in line]

    @property
    def screen(self) -> list[str]:
        """What is to be seen in the end."""
        lines, column = [""], 0
        for part in re.split(r"(\r|\n|\x1b\[2K)", self.written):
            if part == "\r":
                column = 0
            elif part == "\n":
                lines.append("")
            elif part == "\x1b[2K":
                lines[-1] = ""
            else:
                lines[-1] = lines[-1][:column].ljust(column) + part + lines[-1][column + len(part) :]
                column += len(part)
        return [line for line in lines if line]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        os.close(self._fd)


Start = Callable[..., Terminal]


@pytest.fixture
def on_terminal(tmp_path: Path) -> Iterator[Start]:
    made: list[Terminal] = []

    def start(body: str, *, columns: int = 100, arguments: tuple[str, ...] = ()) -> Terminal:
        made.append(Terminal(body, tmp_path, columns=columns, arguments=arguments))
        return made[-1]

    yield start
    for terminal in made:
        terminal.close()


def test_whatever_is_written_stands_clear_of_the_line(on_terminal: Start) -> None:
    terminal = on_terminal("""
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        for n in nap.map(range(12)):
            print("got", n)
            if n == 5:
                print("warned", file=sys.stderr)
                logging.info("logged here")
        print("end")
    """)
    assert terminal.ended() == 0
    first, *written, last = terminal.screen
    assert first.startswith("flash-plugins: platform local")
    assert re.fullmatch(r"flash-plugins: nap: 12/12 tasks done · \d workers? · .* · \d+ s", last)
    expected = [f"got {n}" for n in range(12)] + [f"printed by {n}" for n in (0, 3, 6, 9)]
    expected += ["logged by 4", "logged here", "warned", "end"]
    assert sorted(written) == sorted(expected)
    assert written[-1] == "end"
    assert any("running" in line for line in terminal.drawn)
    assert any(line.startswith("nap: 0/12 tasks done · starting workers · 12 queued") for line in terminal.drawn)


def test_ctrl_c_leaves_the_terminal_clean(on_terminal: Start) -> None:
    terminal = on_terminal("""
        print(list(nap.map(range(1000))))
    """)
    terminal.read(lambda written: " running" in written)
    terminal.type("\x03")
    assert terminal.ended() != 0
    screen = terminal.screen
    (traceback,) = [number for number, line in enumerate(screen) if "Traceback (most recent call last)" in line]
    assert screen[traceback].lstrip("^C") == "Traceback (most recent call last):"
    assert [line for line in screen if "KeyboardInterrupt" in line] == ["KeyboardInterrupt"]
    last = [line for line in screen if "tasks done" in line]
    assert len(last) <= 1  # what was done is said once, in the end
    assert all(re.match(r"flash-plugins: nap: \d+/\d+ tasks done · .*cancelled", line) for line in last)


def test_an_error_is_printed_below_no_line(on_terminal: Start) -> None:
    terminal = on_terminal("""
        time.sleep(0.1)
        list(nap.map([1, 2, 4, 5, 7, 8, 99]))
    """)
    assert terminal.ended() == 1
    screen = terminal.screen
    assert "Traceback (most recent call last):" in screen
    assert "ValueError: no such nap" in screen
    (last,) = [line for line in screen if "tasks done" in line]
    assert "1 failed" in last


def test_a_narrow_terminal_gets_less(on_terminal: Start) -> None:
    terminal = on_terminal("list(nap.map([1, 2, 4, 5, 7, 8]))", columns=34)
    assert terminal.ended() == 0
    live = [line for line in terminal.drawn if not line.startswith("flash-plugins: ")]
    assert live
    assert all(len(line) < 34 for line in live)


def test_a_line_that_is_not_at_its_end_is_left_alone(on_terminal: Start) -> None:
    terminal = on_terminal("""
        print("Working: ", end="", flush=True)
        calls = [nap(n) for n in (1, 2, 5, 7, 8)]
        time.sleep(1.6)
        print("half, ", end="", flush=True)
        for call in calls:
            call.result()
            time.sleep(0.3)
        print("done")
    """)
    assert terminal.ended() == 0
    assert "half, done" in terminal.screen


def test_a_program_without_stderr_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PREAMBLE + "print(sum(nap.map([1, 2, 4, 5])))\n")
    env = {**os.environ, "FLASH_PROGRESS": "on"}
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "{sys.executable}" "{script}" 2>&-'],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stdout) == (0, "12\n")


def test_the_user_types_at_the_prompt_undisturbed(on_terminal: Start) -> None:
    terminal = on_terminal("", arguments=("-q", "-i"))
    terminal.read(lambda written: ">>> " in written)
    terminal.type("calls = [nap(n) for n in (1, 2, 5, 7, 8)]\n")
    terminal.read(lambda written: written.count(">>> ") >= 2)
    terminal.type("1 +")
    time.sleep(2.0)  # longer than it is quiet
    terminal.type(" 41\nprint(sum(call.result() for call in calls))\n")
    terminal.read(lambda written: "23\r\n" in written)
    terminal.type("exit()\n")
    assert terminal.ended() == 0
    assert ">>> 1 + 41" in terminal.screen
    assert "42" in terminal.screen
