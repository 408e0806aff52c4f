"""Runs the instructions of a Dockerfile as they stand, on Linux as root, where no container engine is at hand.

    python docker/run_steps.py docker/Dockerfile.cpu --workdir FOLDER --run "train trainer.max_epochs=1"

Each RUN, COPY, ENV, USER ... is carried out in order in an overlay over a root file system that plays the base image (--root; this
machine's own by default), so absolute paths, apt-get and useradd act on the overlay alone. Then the HEALTHCHECK's command, the
ENTRYPOINT with its CMD, and the ENTRYPOINT with each --run are run as a container would. The first failure ends it, with the
instruction's line. Everything written is below --workdir and is deleted at the end.

It is not an engine: no layers, no network or user separation, one stage, and of RUN's options only --mount=type=cache. What it does
not know is an error.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from docker.utils.build import PatternMatcher
from dockerfile_parse import DockerfileParser

CONTEXT = Path(__file__).resolve().parents[1]
INSIDE = "RUN_STEPS_INSIDE_NAMESPACE"
"""Set in the process that has its own mounts."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FROM_HOST = ("/etc/resolv.conf", "/etc/hosts")
"""What an engine lets a container have of its host."""


class StepError(RuntimeError):
    """An instruction that failed, or that this script does not know."""


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile."""

    file: str
    line: int
    name: str
    """Upper case."""
    value: str
    """With continuation lines joined."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name} {self.value}"


@dataclass
class Image:
    """What the instructions so far have set."""

    env: dict[str, str] = field(default_factory=lambda: {"PATH": DEFAULT_PATH})
    args: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def expand(self, text: str) -> str:
        """With variables replaced and quotes taken off."""
        return " ".join(words(text, self.args | self.env))


@dataclass(frozen=True)
class Machine:
    """Where the steps run."""

    root: Path
    """The overlay."""
    context: Path
    cache: Path
    """Kept by RUN --mount=type=cache."""
    passed: Mapping[str, str]
    """Variables of the host that each step gets, below those of the image."""


def read_steps(dockerfile: Path) -> list[Step]:
    """The instructions of a file, comments left out."""
    with dockerfile.open("rb") as opened, tempfile.TemporaryFile() as copy:  # the parser writes to what it is given
        copy.write(opened.read())
        structure = DockerfileParser(fileobj=copy).structure
    return [
        Step(dockerfile.name, item["startline"] + 1, item["instruction"].upper(), item["value"])
        for item in structure
        if item["instruction"] != "COMMENT"
    ]


def words(text: str, variables: Mapping[str, str]) -> list[str]:
    """Split as a Dockerfile's values are: at blanks outside of quotes, with $NAME, ${NAME}, ${NAME:-x} and ${NAME:+x} replaced."""

    def replaced(match: re.Match[str]) -> str:
        name, operator, alternative = match[1] or match[2], match[3], match[4]
        value = variables.get(name, "")
        if operator == ":-":
            return value or alternative
        if operator == ":+":
            return alternative if value else ""
        return value

    variable = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:[-+])([^}]*))?\})")
    return [variable.sub(replaced, word) for word in shlex.split(text)]


def key_values(text: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Of ENV and LABEL: KEY=value ..."""
    pairs = [word.partition("=") for word in words(text, variables)]
    bad = [key for key, equals, _ in pairs if not equals]
    if bad:
        raise StepError(f"expected KEY=value, found {bad[0]!r}")
    return {key: value for key, _, value in pairs}


def context_files(context: Path) -> list[str]:
    """The files that .dockerignore lets into the build context, relative and sorted."""
    ignore = context / ".dockerignore"
    lines = ignore.read_text().splitlines() if ignore.is_file() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    walked = PatternMatcher(patterns).walk(str(context))
    files = [path for path in walked if not (context / path).is_dir() or (context / path).is_symlink()]
    return sorted(
        path for path in files if path != ".dockerignore"
    )  # which the engine itself reads, and COPY does not see


def copy_into(step: Step, image: Image, machine: Machine) -> int:
    """COPY SOURCE... TARGET: the number of files copied; they belong to root as in an image."""
    given = words(step.value, image.args | image.env)
    if any(word.startswith("--") for word in given):
        raise StepError("COPY with options is not known")
    *sources, target = given
    into_folder = target.endswith("/") or target in (".", "..") or len(sources) > 1
    target_path = os.path.normpath(os.path.join(image.workdir, target))
    allowed = context_files(machine.context)
    num_copied = 0
    for source in sources:
        source = os.path.normpath(source)
        inner = [path for path in allowed if source == "." or path.startswith(f"{source}/")]
        for path in inner or [path for path in allowed if path == source]:
            if inner:  # of a folder its content is copied
                name = path if source == "." else path[len(source) + 1 :]
                destination = os.path.join(target_path, name)
            else:
                destination = os.path.join(target_path, os.path.basename(path)) if into_folder else target_path
            _copy_file(machine.context / path, machine.root / destination.lstrip("/"))
            num_copied += 1
        if not inner and source not in allowed:
            raise StepError(f"COPY {source}: no such file in the build context; does .dockerignore leave it out?")
    return num_copied


def _copy_file(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, destination)
    os.chown(destination, 0, 0)


def process_ids(user: str, root: Path) -> tuple[int, int]:
    """(uid, gid) of a USER's value: names or numbers."""

    def lookup(name: str, file: str) -> list[str]:
        for line in (root / "etc" / file).read_text().splitlines():
            columns = line.split(":")
            if name in (columns[0], columns[2]):
                return columns
        if name.isdigit():
            return [name, "", name, "0"]  # a number without an account: group 0, as in Docker
        raise StepError(f"USER {user}: {name} is not in /etc/{file}")

    name, _, group = user.partition(":")
    account = lookup(name, "passwd")
    return int(account[2]), int(lookup(group, "group")[2] if group else account[3])


def run_in(
    machine: Machine,
    image: Image,
    command: Sequence[str],
    user: str | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """The exit code of a command in the overlay, as the image's user, in its working folder, with its environment alone."""
    uid, gid = process_ids(user or image.user, machine.root)
    environment = {**machine.passed, **image.env, **(env or {})}

    def enter() -> None:
        os.chroot(machine.root)
        os.chdir(image.workdir)
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        os.umask(0o022)

    try:
        return subprocess.run(
            command, env=environment, preexec_fn=enter, stdin=subprocess.DEVNULL, check=False
        ).returncode
    except FileNotFoundError:
        return 127  # as a shell says: no such command


def run_step(step: Step, image: Image, machine: Machine, build_args: Mapping[str, str]) -> None:
    """Carries out one instruction: changes `image` and the overlay.

    Raises:
        StepError: it failed, or is not known.
    """
    variables = image.args | image.env
    if step.name == "FROM":
        image.args.clear()  # those before FROM are for FROM alone
    elif step.name == "ARG":
        name, _, default = step.value.partition("=")
        image.args[name] = build_args.get(name, image.expand(default))
    elif step.name == "ENV":
        image.env.update(key_values(step.value, variables))
    elif step.name == "LABEL":
        image.labels.update(key_values(step.value, variables))
    elif step.name == "WORKDIR":
        image.workdir = os.path.normpath(os.path.join(image.workdir, image.expand(step.value)))
        (machine.root / image.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif step.name == "USER":
        image.user = image.expand(step.value)
        process_ids(image.user, machine.root)
    elif step.name == "SHELL":
        image.shell = json.loads(step.value)
    elif step.name == "COPY":
        print(f"  {copy_into(step, image, machine)} files", flush=True)
    elif step.name == "RUN":
        _run(step, image, machine)
    elif step.name == "ENTRYPOINT":
        image.entrypoint, image.command = _exec_form(step.value, image), []
    elif step.name == "CMD":
        image.command = _exec_form(step.value, image)
    elif step.name == "HEALTHCHECK":
        _, has_command, value = f" {step.value}".partition(" CMD ")
        if not has_command:
            raise StepError("HEALTHCHECK without CMD is not known")
        image.healthcheck = _exec_form(value, image)
    else:
        raise StepError("this instruction is not known")


def _exec_form(value: str, image: Image) -> list[str]:
    return json.loads(value) if value.strip().startswith("[") else [*image.shell, value]


def _run(step: Step, image: Image, machine: Machine) -> None:
    command, mounted = step.value, []
    while option := re.match(r"--(\S+)\s+", command):
        target = re.fullmatch(r"mount=type=cache,target=(/[^,]+)", option[1])
        if target is None:
            raise StepError(f"RUN --{option[1]} is not known")
        kept = machine.cache / target[1].strip("/").replace("/", "_")
        kept.mkdir(parents=True, exist_ok=True)
        place = machine.root / target[1].lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", kept, place], check=True)
        mounted.append(place)
        command = command[option.end() :]
    exec_form = command.strip().startswith("[")
    try:
        code = run_in(
            machine, image, _exec_form(command, image) if exec_form else [*image.shell, command], env=image.args
        )
    finally:
        for place in mounted:
            subprocess.run(["umount", place], check=True)
    if code:
        raise StepError(f"exit code {code}")


def mount_root(lower: Path, workdir: Path) -> Path:
    """An overlay over `lower` that writes to `workdir`, with /proc, /sys and /dev; needs a mount namespace of its own."""
    upper, work, root = (workdir / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, root], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    for name in ("dev", "sys"):
        subprocess.run(["mount", "--rbind", f"/{name}", root / name], check=True)
    temporary = workdir / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    subprocess.run(["mount", "--bind", temporary, root / "tmp"], check=True)
    return root


def install_python(prefix: Path, root: Path) -> None:
    """Puts a Python of this machine into /usr/local of the overlay, without packages but pip, as Python's own images have it."""
    (binary,) = [path for path in (prefix / "bin").iterdir() if re.fullmatch(r"python3\.\d+", path.name)]
    local = root / "usr" / "local"
    (local / "bin").mkdir(parents=True, exist_ok=True)
    (local / "lib").mkdir(exist_ok=True)
    shutil.copy2(binary, local / "bin" / binary.name)
    for name in ("python3", "python"):
        (local / "bin" / name).unlink(missing_ok=True)
        (local / "bin" / name).symlink_to(binary.name)
    for library in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(library, local / "lib" / library.name, follow_symlinks=False)
    left_out = shutil.ignore_patterns("site-packages", "__pycache__", "test", "tkinter", "idlelib")
    packages = local / "lib" / binary.name
    shutil.copytree(prefix / "lib" / binary.name, packages, ignore=left_out, symlinks=True, dirs_exist_ok=True)
    (packages / "site-packages").mkdir(exist_ok=True)
    for command in (["/sbin/ldconfig"], ["/usr/local/bin/python", "-m", "ensurepip", "--default-pip"]):
        subprocess.run(["chroot", root, *command], check=True, stdout=subprocess.DEVNULL, env={"PATH": DEFAULT_PATH})
    pip = local / "bin" / "pip"
    pip.unlink(missing_ok=True)
    pip.symlink_to("pip3")


def copy_from_host(paths: Sequence[str], root: Path) -> None:
    """Files and folders of this machine at the same place in the overlay. Links are followed on this machine and replaced in the
    overlay, where an absolute one would lead out of it."""
    options = ["--recursive", "--dereference", "--remove-destination", "--parents"]
    for path in paths:
        if Path(path).exists():
            subprocess.run(["cp", *options, path, root], check=True)


def run_all(given: argparse.Namespace) -> None:
    """Builds, then runs what a container would.

    Raises:
        StepError: the first that fails.
    """
    given.cache.mkdir(parents=True, exist_ok=True)
    root = mount_root(given.root, given.folder)
    copy_from_host([*FROM_HOST, *given.from_host] if given.root != Path("/") else given.from_host, root)
    if given.python:
        install_python(given.python, root)
    passed = {name: os.environ[name] for name in given.pass_env if name in os.environ}
    machine = Machine(root, given.context, given.cache, passed)
    image = Image()
    build_args = dict(argument.split("=", 1) for argument in given.build_arg)
    for file in [*given.base, given.dockerfile]:
        for step in read_steps(file):
            print(f"\n== {step}", flush=True)
            _timed(step, partial(run_step, step, image, machine, build_args))
    if given.build_only:
        return
    if image.healthcheck:
        _container(f"HEALTHCHECK {shlex.join(image.healthcheck)}", image.healthcheck, machine, image, given)
    _container(
        f"default command: {shlex.join(image.command)}", [*image.entrypoint, *image.command], machine, image, given
    )
    for line in given.run:
        _container(f"run {line}", [*image.entrypoint, *shlex.split(line)], machine, image, given)
    for text in given.run_as:
        user, _, line = text.partition(" ")
        _container(f"run as {user}: {line}", [*image.entrypoint, *shlex.split(line)], machine, image, given, user)


def _container(
    title: str,
    command: Sequence[str],
    machine: Machine,
    image: Image,
    given: argparse.Namespace,
    user: str | None = None,
) -> None:
    print(f"\n== {title}", flush=True)
    env = dict(pair.split("=", 1) for pair in given.env)

    def run() -> None:
        code = run_in(machine, image, command, user, env)
        if code:
            raise StepError(f"exit code {code}")

    _timed(title, run)


def _timed(title: Any, action: Callable[[], None]) -> None:
    started = time.monotonic()
    try:
        action()
    except (StepError, OSError, ValueError) as error:
        raise StepError(f"{title}\nFAILED: {error}") from None
    print(f"  {time.monotonic() - started:.1f} s", flush=True)


def remove(folder: Path) -> None:
    """Deletes a folder, also where an overlay has left a folder without permissions."""
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink() and not path.stat().st_mode & stat.S_IRWXU:
            path.chmod(0o700)
    shutil.rmtree(folder)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument(
        "--workdir", type=Path, required=True, help="folder on a disk with room; what is written there is deleted"
    )
    parser.add_argument("--context", type=Path, default=CONTEXT, help="build context (default: the repository)")
    parser.add_argument("--root", type=Path, default=Path("/"), help="folder that plays the base image's file system")
    parser.add_argument("--base", type=Path, action="append", default=[], help="Dockerfile whose steps are run first")
    parser.add_argument("--python", type=Path, help="prefix of a Python that is put into /usr/local first")
    parser.add_argument(
        "--from-host", action="append", default=[], metavar="PATH", help="copied from this machine first"
    )
    parser.add_argument("--pass-env", action="append", default=[], metavar="NAME", help="variable that each step gets")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--cache", type=Path, help="folder for RUN --mount=type=cache; kept (default: in --workdir, deleted)"
    )
    parser.add_argument("--build-only", action="store_true", help="run nothing after the last instruction")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="of the containers")
    parser.add_argument(
        "--run", action="append", default=[], metavar="WORDS", help="arguments of a container; repeatable"
    )
    parser.add_argument(
        "--run-as", action="append", default=[], metavar="UID:GID WORDS", help="the same as another user"
    )
    given = parser.parse_args(arguments)
    for name in ("dockerfile", "workdir", "context", "root"):
        setattr(given, name, getattr(given, name).resolve())
    return given


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    given = parse(arguments)
    if INSIDE in os.environ:
        given.folder = Path(os.environ[INSIDE])
        given.cache = given.cache or given.folder / "cache"
        try:
            run_all(given)
        except StepError as error:
            print(f"\n{error}", file=sys.stderr)
            return 1
        print(f"\nall steps of {given.dockerfile.name} passed")
        return 0
    if os.geteuid() != 0:
        print("run_steps.py needs root: it mounts an overlay and changes the user", file=sys.stderr)
        return 2
    given.workdir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="steps-", dir=given.workdir))
    folder.chmod(0o755)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that what follows is carried out then too
    try:  # in namespaces of its own: mounts and processes end with it
        inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        command = [*inside, sys.executable, str(Path(__file__).resolve()), *arguments]
        return subprocess.run(command, env=os.environ | {INSIDE: str(folder)}, check=False).returncode
    finally:
        remove(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
