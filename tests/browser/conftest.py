"""One headless Chromium for all tests of this folder, and the pages as they were when the shared run ended."""

import os
import shutil

import pytest

from tests.project import AS_FINISHED, Project

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def finished(finished):
    """Other parts of `make test` may change the shared copy meanwhile; nothing changes this one."""
    return Project(finished.path.parent / AS_FINISHED)


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is missing; .ci/run installs it")
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
