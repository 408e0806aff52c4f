"""The installed program: dali-dbnet COMMAND key=value ...

It imports no command but the one it runs, so `dali-dbnet --help` answers at once.
"""

import sys
from importlib import import_module
from pathlib import Path

from ocr import __version__

COMMANDS = {
    "train": ("ocr.commands.train", "trains a network from a folder of annotated images"),
    "evaluate": ("ocr.commands.evaluate", "computes the metrics of a checkpoint on a split"),
    "predict": ("ocr.commands.predict", "finds text in images"),
    "export": ("ocr.commands.export", "writes a network for other runtimes: ONNX, torch.export, Triton"),
    "prepare": ("ocr.commands.prepare_data", "checks a data set and writes it ready for training"),
    "inspect": ("ocr.commands.inspect_data", "shows a data set as the network gets it, in one HTML file"),
    "compare": ("benchmarks.loaders.command", "measures the loaders on your data and this machine"),
}
"""Module of each command, whose function `run` runs it, and what it does."""
_BUNDLED = Path(__file__).parents[1] / "_bundled"
"""Folder of a wheel for what lies beside the packages in a checkout: configs/ and benchmarks/."""


def main() -> None:
    """Runs the command that the first argument names, with the other arguments.

    Raises:
        SystemExit: there is no such command.
    """
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("--help", "-h"):
        print(_help())
    elif command == "--version":
        print(f"dali-dbnet {__version__}")
    elif command not in COMMANDS:
        raise SystemExit(f"dali-dbnet {command}: no such command; the commands are {', '.join(COMMANDS)}")
    else:
        # `ocr.placement` takes the arguments before the overrides for the program, and starts further ranks with them.
        del sys.argv[1]
        module = COMMANDS[command][0]
        if not module.startswith("ocr.") and _BUNDLED.is_dir():
            # A wheel cannot install it under its own name, which other projects use too.
            sys.path.insert(0, str(_BUNDLED))
        import_module(module).run()


def _help() -> str:
    lines = [f"  {name:10}{purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            f"dali-dbnet {__version__}: text detection with DBNet",
            "",
            "usage: dali-dbnet COMMAND key=value ...",
            "",
            *lines,
            "",
            "dali-dbnet COMMAND --help shows the keys of a command with their defaults.",
        ]
    )
