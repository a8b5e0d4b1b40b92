"""What goes into the CPU worker's image, with a client that only takes down what it is asked."""

import io
import os
import re
import subprocess
import sys
import tarfile
import tomllib

import pytest

from tasks.execution.image import source_files, source_hash
from tests.conftest import CHECKOUT

NOT_IN_THE_IMAGE = {
    "mlflow",
    "scikit-learn",
    "matplotlib",
    "torch-geometric",
    "prefect-docker",
    "docker",
}


def name_of(requirement):
    return re.match(r"[\w-]+", requirement)[0]


def test_the_image_has_what_the_product_depends_on_and_the_lock_pins_it():
    names = [
        line
        for line in (CHECKOUT / "docker/requirements.txt").read_text().split("\n")
        if line and not line.startswith("#")
    ]
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert set(names) == {name_of(r) for r in project["dependencies"]} - NOT_IN_THE_IMAGE
    lock = (CHECKOUT / "requirements.lock").read_text()
    locked = {name_of(line).lower() for line in lock.split("\n") if line and line[0] != "#"}
    assert set(names) <= locked


def test_training_and_embedding_import_nothing_that_the_image_lacks():
    """Nor does whoever reads a report: scikit-learn takes a second."""
    missing = {"sklearn", "matplotlib", "mlflow", "torch_geometric", "prefect_docker"}
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing})); import hgt.train, hgt.embed,"
        " hgt.run.report, flows.train_on_cpu"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=CHECKOUT, check=True)


@pytest.fixture
def checkout(tmp_path):
    for name, content in source_files().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def hash_of(checkout):
    return source_hash(source_files(checkout))


def test_the_hash_is_that_of_names_and_contents_alone(checkout):
    before = hash_of(checkout)
    assert re.fullmatch("[0-9a-f]{64}", before)
    for path in checkout.rglob("*.py"):
        os.utime(path, (1, 1))
    (checkout / "README.md").write_text("not in the image")
    (checkout / "hgt" / "__pycache__").mkdir()
    (checkout / "hgt" / "__pycache__" / "train.cpython-311.pyc").write_bytes(b"")
    (checkout / "hgt" / "notes.txt").write_text("nor is this")
    assert hash_of(checkout) == before


@pytest.mark.parametrize(
    "name",
    [
        "hgt/training/step.py",
        "tasks/train.py",
        "flows/cli.py",
        "docker/Dockerfile",
        "docker/requirements.txt",
        "requirements.lock",
    ],
)
def test_the_hash_changes_with_every_file_of_the_image(checkout, name):
    before = hash_of(checkout)
    path = checkout / name
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    assert hash_of(checkout) != before
    path.write_bytes(content)
    assert hash_of(checkout) == before
    path.rename(path.with_name("other.py"))
    if name.endswith(".py"):
        assert hash_of(checkout) != before


@pytest.fixture
def build(tmp_path):
    """Run `python -m tasks.execution.image` with a client that writes down its arguments and its
    stdin, and ends with this exit code.
    """

    def run(exit_code=0, **values):
        client = tmp_path / "client"
        client.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n[ {exit_code} = 0 ] && cat >'
            f" {tmp_path}/context\nexit {exit_code}\n"
        )
        client.chmod(0o755)
        env = {
            k: v
            for k, v in os.environ.items()
            if k not in ("BASE_IMAGE", "BUILD_FLAGS", "WHEELS", "HGT_IMAGE", "TORCH_INDEX")
        }
        command = [sys.executable, "-m", "tasks.execution.image"]
        return subprocess.run(
            command,
            cwd=CHECKOUT,
            env=env | {"DOCKER": str(client)} | values,
            capture_output=True,
            text=True,
        )

    return run


def test_what_is_sent_is_what_was_hashed(build, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "torch-0-py3-none-any.whl").write_bytes(b"wheel")
    (wheels / "other").write_bytes(b"")
    assert (
        build(
            BASE_IMAGE="base:1",
            WHEELS=str(wheels),
            BUILD_FLAGS="--network host --secret 'id=ca,src=/a b'",
        ).returncode
        == 0
    )
    arguments = (tmp_path / "arguments").read_text().splitlines()
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "context").read_bytes())) as context:
        files = {m.name: context.extractfile(m).read() for m in context.getmembers() if m.isfile()}
    assert files.pop("wheels/torch-0-py3-none-any.whl") == b"wheel"
    assert f"SOURCE_HASH={source_hash(files)}" in arguments
    assert {"BASE_IMAGE=base:1", "kg-hgt-embeddings:cpu", "id=ca,src=/a b"} <= set(arguments)
    assert not any(a.startswith("TORCH_INDEX") for a in arguments), "the Dockerfile's own"


def test_a_build_that_fails_ends_with_the_clients_exit_code(build):
    done = build(exit_code=3)
    assert (done.returncode, done.stderr) == (3, "")
    done = build(DOCKER="/no/such/client")
    assert done.returncode == 2
    assert "Install Docker" in done.stderr
