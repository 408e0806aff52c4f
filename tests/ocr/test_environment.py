import ast
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import ocr.environment
from ocr.environment import cache_folder, device_name, digest_of_sources, git_commit

CODE = '''"""Module."""
def scaled(values, factor=2):
    """Returns the scaled values."""
    # why
    return [value * factor for value in values]
class Size:
    side: int = 0
    """In pixels."""
'''


@pytest.mark.parametrize(("num_threads", "ending"), [(1, ", 1 thread"), (2, ", 2 threads")])
def test_the_name_of_a_cpu_ends_with_its_number_of_threads(num_threads, ending):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert device_name(torch.device("cpu")).endswith(ending)
    finally:
        torch.set_num_threads(before)


def test_a_checkout_names_its_commit():
    command = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    assert (git_commit() or "").removesuffix("-dirty") == head


def test_outside_a_checkout_a_container_image_names_the_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(ocr.environment, "__file__", str(tmp_path / "environment.py"))
    monkeypatch.delenv("DALI_DBNET_COMMIT", raising=False)
    assert git_commit() is None
    monkeypatch.setenv("DALI_DBNET_COMMIT", "abc")
    assert git_commit() == "abc"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Returns a function that runs git in a new project, which has one commit and an annotated tag."""
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "A")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "a@b.c")

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    (tmp_path / "environment.py").write_text("VALUE = 1\n")
    git("init", "-q")
    git("add", "environment.py")
    git("commit", "-q", "-m", "First")
    git("tag", "-a", "v1", "-m", "Release")
    return git


def test_a_tag_does_not_replace_the_commit(project, tmp_path, monkeypatch):
    monkeypatch.setattr(ocr.environment, "__file__", str(tmp_path / "environment.py"))
    assert git_commit() == project("rev-parse", "HEAD")
    (tmp_path / "environment.py").write_text("VALUE = 2\n")
    assert git_commit() == project("rev-parse", "HEAD") + "-dirty"


@pytest.mark.parametrize("is_ignored", [True, False])
def test_the_commit_of_a_project_that_installed_this_package_is_not_ours(project, tmp_path, monkeypatch, is_ignored):
    installed = tmp_path / ".venv/ocr/environment.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    if is_ignored:
        (tmp_path / ".gitignore").write_text(".venv\n")
    monkeypatch.setattr(ocr.environment, "__file__", str(installed))
    monkeypatch.setenv("DALI_DBNET_COMMIT", "abc")
    assert git_commit() == "abc"


def digest_of(folder: Path, code: str, name: str = "module.py") -> str:
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_text(code)
    return digest_of_sources([folder])


def test_comments_docstrings_and_formatting_do_not_change_the_digest(tmp_path):
    expected = digest_of(tmp_path, CODE)
    for prose, other in (
        ("# why", "# another reason"),
        ('"""Module."""', ""),
        ("Returns the scaled values.", "Scales."),
        ("In pixels.", "In map pixels."),
        ("value * factor", "( value *\n      factor )"),
    ):
        assert prose in CODE
        assert digest_of(tmp_path, CODE.replace(prose, other)) == expected, prose


def test_code_and_file_names_change_the_digest(tmp_path):
    changes = [("*", "+"), ("factor=2", "factor=3"), ("factor=2", "factor=2.0"), ("side: int = 0", "side: int = None")]
    digests = {digest_of(tmp_path, CODE), digest_of(tmp_path, CODE, name="other.py")}
    digests |= {digest_of(tmp_path, CODE.replace(old, new)) for old, new in changes}
    digests.add(digest_of(tmp_path, CODE.replace("[value", "['']; [value")))
    assert len(digests) == 3 + len(changes)


def test_a_user_without_a_home_has_a_cache_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/dali-dbnet")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/dali-dbnet")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 54321)  # a user id without an account
    assert cache_folder().parts[-2:] == ("cache-of-user-54321", "dali-dbnet")


def test_two_threads_do_not_parse_at_the_same_time(tmp_path, monkeypatch):
    (tmp_path / "module.py").write_text(CODE)
    parsing, most = [], []
    parse = ast.parse

    def watched(source):
        parsing.append(source)
        most.append(len(parsing))
        time.sleep(0.01)  # lets the other threads come
        parsing.pop()
        return parse(source)

    monkeypatch.setattr(ocr.environment.ast, "parse", watched)
    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(digest_of_sources, [[tmp_path]] * 8))
    assert len(digests) == 1
    assert max(most) == 1
