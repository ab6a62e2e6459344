"""The command line: finds the subcommand, runs it, and turns domain errors into one line."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from timm_effnet_ext import __version__, cli
from timm_effnet_ext.errors import EffNetExtError, plain
from timm_effnet_ext.memory import keep_freed_memory

PROG = "timm-effnet-ext"
DONE, FAILED, INTERRUPTED, TERMINATED = 0, 1, 130, 143


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser, with the arguments of the one subcommand that `argv` names."""
    parser = argparse.ArgumentParser(prog=PROG, description="EfficientNet for timm: models, weights, training.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for command in cli.COMMANDS:
        sub = cli.add_command(commands, command.name, command.help)
        if command.name == asked:
            module = importlib.import_module(f"{cli.__name__}.{command.name}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run, command=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand: 0 done, 1 a domain error as one line on stderr, 2 usage, 130 interrupted, 143 terminated."""
    argv = sys.argv[1:] if argv is None else argv
    _print_in_any_encoding()
    args = build_parser(argv).parse_args(argv)
    _log_to_stderr(logging.INFO if args.verbose else logging.WARNING)
    if args.command.computes:
        keep_freed_memory()
    try:
        with nullcontext() if args.command.name == "run" else _tidy():  # a program of `run` decides that by itself
            code = int(args.run(args) or DONE)
        sys.stdout.flush()  # here, where a reader that has gone is understood
        return code
    except (EffNetExtError, OSError) as err:
        if isinstance(err, BrokenPipeError):  # the reader, `head` perhaps, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        if args.verbose:
            raise
        print(f"error: {plain(' '.join(str(err).split()))}", file=sys.stderr)
        return FAILED
    except (MemoryError, RuntimeError) as err:
        if args.verbose or not _is_out_of_memory(err):
            raise
        print(f"error: not enough memory ({' '.join(str(err).split())})", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _tidy() -> Iterator[None]:
    """End at SIGTERM as at an exception, so that what is half written is taken away."""

    def end(*_: Any) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_in_any_encoding() -> None:
    """Let characters that the output's encoding lacks, of a label or a file's name, be written as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _log_to_stderr(level: int) -> None:
    """Print what is logged, but for what the Hub's client prints by itself."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: not record.name.startswith("huggingface_hub."))
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])


def _is_out_of_memory(err: Exception) -> bool:
    """Whether an allocation failed; torch's of the CPU has no type of its own but the system's words."""
    return isinstance(err, MemoryError) or os.strerror(errno.ENOMEM) in str(err)


if __name__ == "__main__":
    raise SystemExit(main())
