"""What our workflows may do with the project's name: as little as can be, and nothing that changes under us."""

from __future__ import annotations

import re

import pytest

from tests.packaging.wheels import PACKAGES, ROOT, module_of

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs_of(text):
    """Return each job's lines by its name: what stands two spaces in, under `jobs:`."""
    parts = re.split(r"^  ([a-z-]+):$", text.partition("\njobs:\n")[2], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def text(request):
    return request.param.read_text()


def test_both_are_there():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "publish.yml"]


def test_every_action_is_pinned_to_what_it_is(text):
    used = re.findall(r"uses: (.*)", text)
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_nothing_may_be_written_that_is_not_asked_for(text):
    assert re.search(r"^permissions:(?: \{\}|\n  contents: read)$", text, re.MULTILINE)
    assert "write-all" not in text
    assert "secrets." not in text
    assert "pull_request_target" not in text
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


def test_every_job_ends(text):
    for name, job in jobs_of(text).items():
        assert "timeout-minutes: " in job, name


def test_no_text_of_others_becomes_a_command(text):
    commands = re.findall(r"run: (?:\|\n((?:          .*\n|\n)+)|(.*))", text)
    assert [found for found in commands if "${{" in "".join(found)] == []


def test_who_publishes_runs_none_of_our_code_and_only_what_was_tested():
    jobs = jobs_of((ROOT / ".github" / "workflows" / "publish.yml").read_text())
    trusted = {name for name, job in jobs.items() if "id-token: write" in job}
    assert trusted == {"publish-core", "publish-programs"}
    for name in trusted:
        assert "actions/checkout@" not in jobs[name]
        assert "sha256sum --check --strict" in jobs[name]
        assert "attestations: true" in jobs[name]
        assert "isolation" in re.search(r"needs: \[(.*)\]", jobs[name])[1]
    assert "publish-core" in re.search(r"needs: \[(.*)\]", jobs["publish-programs"])[1]
    assert "scripts/test packaging" in jobs["isolation"]
    assert "DECNET_WHEELS_DIR" in jobs["isolation"]


def test_every_package_is_published():
    jobs = jobs_of((ROOT / ".github" / "workflows" / "publish.yml").read_text())
    programs = re.search(r"package: \[(.*)\]", jobs["publish-programs"])[1].split(", ")
    assert {"decnet_core", *programs} == {module_of(package) for package in PACKAGES}
    assert "dist/decnet_core-*" in jobs["publish-core"]
