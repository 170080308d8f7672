"""Where a study came from: versions, and the commit of the checkout."""

import os
import platform
import subprocess
from importlib import metadata

import pytest

from skdtune import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository of its own with this module's file in it, committed."""
    folder = tmp_path / "checkout" / "skdtune"
    folder.mkdir(parents=True)
    (folder / "provenance.py").write_text("code")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setattr(provenance, "__file__", str(folder / "provenance.py"))

    def git(*words: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path / "checkout"), *who, *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    return folder, git


def test_versions_of_all_that_decides_a_result():
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    for package in ("skdtune", "torch", "torchvision", "ray", "optuna", "mlflow"):
        assert found[package] == metadata.version(package)


def test_a_package_that_is_not_installed_is_unknown(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("torch", "no-such-package-of-skdtune"))
    found = provenance.versions()
    assert found["no-such-package-of-skdtune"] == "unknown"
    assert found["torch"] == metadata.version("torch")


def test_outside_a_checkout_there_is_no_commit(checkout):
    assert provenance.git_commit() is None


def test_the_commit_of_a_checkout_and_whether_it_was_changed(checkout):
    folder, git = checkout
    git("init", "-q")
    assert provenance.git_commit() is None, "nothing is committed"
    git("add", ".")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert provenance.git_commit() == commit
    (folder / "notes.txt").write_text("untracked")
    assert provenance.git_commit() == commit
    (folder / "provenance.py").write_text("changed")
    assert provenance.git_commit() == f"{commit}-dirty"


def test_a_repository_that_only_lies_around_the_code_is_not_its_own(checkout):
    folder, git = checkout
    (folder.parent / "other.txt").write_text("x")
    git("init", "-q")
    git("add", "other.txt")
    git("commit", "-q", "-m", "another project")
    assert provenance.git_commit() is None, "as in a virtual environment below a repository"


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert provenance.git_commit() is None
