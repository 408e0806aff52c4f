"""All commands share this: configuration, help, errors in one line, signals, several processes, the run folder.

command             runs the function of a command with a checked configuration
configuration       composes a configuration from files, schemas and overrides
path_overrides, set_overrides
                    overrides in the user's form, written as Hydra reads them
command_help        --help, and --help KEY
composition_errors  says what is wrong where Hydra refuses a command line
plain_errors        ends a program with the message of its error alone
ranks               one command in several processes
run_folder          removes the run folder of a command that wrote nothing there
"""

from ocr.command_line.command import checked_job, run_command
from ocr.command_line.configuration import (
    CONFIG_DIR,
    compose_config,
    given_keys,
    is_given,
    prepare_hydra,
    silence_libraries,
)
from ocr.command_line.plain_errors import plain_errors

__all__ = [
    "CONFIG_DIR",
    "checked_job",
    "compose_config",
    "given_keys",
    "is_given",
    "plain_errors",
    "prepare_hydra",
    "run_command",
    "silence_libraries",
]
