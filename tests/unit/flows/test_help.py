"""`hgt --help` is there at once, and a slip of the keyboard is answered with what was meant."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows import session
from flows.cli import _IN_SESSION
from hgt.config import RunConfig
from tests.conftest import CHECKOUT

HEAVY = (
    *("prefect", "mlflow", "torch", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "jaxtyping"),
    *(
        "docker",
        "pydantic",
        "rich",
        "psutil",
        "sqlite3",
        "asyncio",
        "multiprocessing",
        "flows.session",
    ),
)
STORED = ("train --kg {}/kg.csv", "track in-docker", "ui")
IN_DOCKER = (
    "train --kg {}/kg.csv --device docker-cpu",
    "train --resume in-docker",
    "compare --kg {}/kg.csv --devices cpu,docker-cpu",
)
SERVICES = ("up", "down", "status")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["trian"]])
def test_help_imports_nothing_that_takes_long(arguments):
    """A time would depend on the machine: what takes long is named instead."""
    code = f"""
import contextlib, sys
from flows.cli import main
sys.argv = ["hgt", *{arguments}]
with contextlib.suppress(SystemExit):
    main()
sys.stderr.write("imported: " + " ".join(m for m in {HEAVY} if m in sys.modules))
"""
    if arguments[0] == "train":
        code = code.replace("main()", "__import__('flows.cli').cli.cli.main()")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=60
    )
    assert "Usage: " in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "imported: "


@pytest.mark.parametrize(
    "arguments", [["plan"], ["train"], ["compare", "--devices", "cpu,cpu"]], ids=lambda a: a[0]
)
def test_a_small_file_is_refused_before_what_takes_seconds_to_import(tmp_path, arguments):
    kg = tmp_path / "kg.csv"
    kg.write_text("x_type,x_id,relation,y_type,y_id\ndrug,1,interacts,drug,1\n")
    assert "1 connect a node with itself" in refused_without_imports(
        [*arguments, "--kg", str(kg)], {}
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        *(
            (
                c,
                {},
                (
                    "The CPU worker in Docker cannot be started: The Docker engine does not answer"
                    " at unix://{}"
                ),
            )
            for c in IN_DOCKER
        ),
        ("track nope", {}, "nope: no such run in {}/runs; the newest are in-docker."),
        (f"track {'x' * 300}", {}, "no such run in {}/runs"),
        ("train --resume nope", {}, "nope: no such run in {}/runs"),
        *(
            (
                c,
                {"MLFLOW_TRACKING_URI": "htp://there"},
                "htp://there: MLflow does not know this kind of store",
            )
            for c in STORED
        ),
        (
            "ui",
            {"MLFLOW_TRACKING_URI": "http://there"},
            "http://there: is a server with its own web page. Open that address in a browser.",
        ),
        *(
            (
                c,
                {"HGT_HOME": "{}/kg.csv"},
                "HGT_HOME {}/kg.csv: is no folder and cannot be created",
            )
            for c in (*STORED, *SERVICES)
        ),
        (
            "up",
            {"HGT_HOME": "{}/kg.csv/below"},
            "cannot be created ({}/kg.csv is a file). Give another folder.",
        ),
    ],
)
def test_what_the_environment_lacks_is_told_before_what_takes_seconds_to_import(
    tmp_path, arguments, environment, words
):
    (tmp_path / "kg.csv").write_text("x_type,x_id,relation,y_type,y_id\ndrug,1,interacts,drug,2\n")
    (tmp_path / "runs" / "in-docker").mkdir(parents=True)
    RunConfig.from_flat({"device": "docker-cpu"}).save(
        tmp_path / "runs" / "in-docker" / "config.json"
    )
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(tmp_path / "docker.sock"))
    given = {
        "HGT_HOME": "{}",
        "MLFLOW_TRACKING_URI": "",
        "DOCKER_HOST": "unix://{}/docker.sock",
    } | environment
    given = {name: value.format(tmp_path) for name, value in given.items()}
    assert words.format(tmp_path) in refused_without_imports(
        arguments.format(tmp_path).split(), given
    )


def refused_without_imports(arguments, environment):
    """The one sentence that a command line is refused with."""
    code = f"""
import sys
from flows.cli import main
sys.argv = ["hgt", *{arguments}]
try:
    main()
except SystemExit as end:
    heavy = [m for m in ("torch", "prefect", "mlflow") if m in sys.modules]
    sys.stderr.write(f"code {{end.code}}, imported: " + " ".join(heavy))
"""
    env = os.environ | {"HGT_SESSION_PARENT": str(os.getpid())} | environment
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
    )
    said, end = done.stderr.splitlines()
    assert end == "code 2, imported: "
    return said


def test_asking_the_services_imports_nothing_that_takes_long():
    libraries = ("torch", "numpy", "pandas", "prefect", "mlflow")
    code = (
        "import sys, flows.services.up, flows.services.status, flows.services.down; print([m for m"
        f" in {libraries} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["trian"], "'train'"),
        (["Train"], "'train'"),
        (["demo_graph", "x.csv"], "'demo-graph'"),
        (["valdate"], "'validate'"),
        (["train", "--num-epoch", "3"], "'--num-epochs'"),
        (["train", "--emdedding-dim", "3"], "'--embedding-dim'"),
        (["plan", "--kgg", "x"], "'--kg'"),
        (["up", "--prefect-prt", "3"], "'--prefect-port'"),
    ],
)
def test_what_is_misspelt_is_answered_with_the_nearest(refusal, arguments, meant):
    said = refusal(arguments)
    assert "Did you mean" in said
    assert meant in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--kg", "a\nb\x1b[31m\u2028"],
        ["plan", "--kg", "x", "--memory", "1\n\nGiant"],
        ["plan", "--kg", "x", "--split", "a\nb"],
        ["validate", "a\r\nb", "--kg", "x"],
        ["demo-graph", "a\nb.txt"],
        ["demo-graph", "no\nfolder/kg.csv"],
        ["compare", "--kg", "x", "--devices", "c\np\nu"],
    ],
)
def test_line_breaks_in_a_value_do_not_break_the_message(refusal, arguments):
    said = refusal(arguments)
    assert said.startswith("hgt: ")
    assert said.removesuffix("\n").isprintable()


def test_line_breaks_in_an_option_do_not_break_the_message(refusal):
    for arguments in (["plan", "--f\no"], ["pl\nan"], ["plan", "--num-epochs", "1\n2"]):
        *_, said = refusal(arguments).splitlines()
        assert said.startswith("Error: ")
        assert r"\n" in said


@pytest.mark.parametrize("port", ["0", "-1", "65536", str(2**63), str(10**30), "1e3", "nan", "inf"])
def test_ports_have_a_range(refusal, port):
    for arguments in (["ui", "--port"], ["up", "--prefect-port"], ["up", "--mlflow-port"]):
        assert "Invalid value for '--" in refusal([*arguments, port])


def test_the_mark_of_a_session_is_the_sessions():
    assert _IN_SESSION == session._PARENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_an_output_without_room_gets_one_sentence(tmp_path):
    kg = tmp_path / "kg.csv"
    kg.write_text(
        "x_type,x_id,relation,y_type,y_id\n" + "".join(f"a,{i},of,b,{i + 1}\n" for i in range(50))
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "plan", "--kg", kg],
            cwd=CHECKOUT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert (
        done.stderr
        == "hgt: the output could not be written (No space left on device). Free disk space, or"
        " redirect the output.\n"
    )
