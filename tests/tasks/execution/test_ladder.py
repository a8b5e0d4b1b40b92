"""Which rung follows which, from the state in the run folder; Docker is really not there (its address is a dead socket)."""

import itertools
import json

import pytest

from hgt.config import RunConfig
from hgt.device.probe import DeviceProbe
from hgt.errors import InputError, OutOfMemory
from hgt.graph.demo_graph import demo_rows
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.memory.plan import plan_of_form
from hgt.reading.edge_table import read_edge_table
from hgt.run.folder import RunFolder
from hgt.run.program import planned_device, planned_form
from tasks.execution import dispatch, ladder

# The SDK leaves the socket of a failed connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

MPS = DeviceProbe("mps", "Apple M1", 8 << 30, "the accelerator of this machine", "2.14.1", "arm64")
CPU = DeviceProbe("cpu", "2 threads", 8 << 30, "the only device", "2.13.0", "x86_64")
ERROR = OutOfMemory("MPS ran out of memory in phase step.\nmore", "mps", "step", 1, 2)


@pytest.fixture(autouse=True)
def no_docker(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("ladder") / "kg.csv"
    demo_rows(300, 1200, num_communities=4, seed=5).to_csv(path, index=False)
    return KnowledgeGraph.from_edge_table(read_edge_table(path), RunConfig().graph)


@pytest.fixture
def make_run(tmp_path, graph):
    def make(found, **values):
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir()
        config = RunConfig.from_flat({"embedding_dim": 32, "hidden_dim": 16, **values})
        config.save(folder.config)
        graph.save(folder.graph)
        ladder.plan_segment(folder, ladder.first_segment(folder, config, found), found)
        return folder, config

    return make


def step_down(folder, config, found=MPS):
    following = ladder.step_down(folder, config, ERROR, found)
    assert ladder.segments(folder)[-1] == following, "written to the run folder"
    return following


def required(folder, form, found=MPS):
    return plan_of_form(folder.load_graph(), folder.load_config(), found, form).required_bytes


def smaller_forms(form):
    while form := form.smaller():
        yield form


def test_smaller_twice_then_the_cpu_where_there_is_no_docker(make_run):
    folder, config = make_run(MPS)
    forms = [planned_form(folder)]
    for shrinks in (1, 2):
        following = step_down(folder, config)
        assert (following.place, following.device, following.shrinks) == ("native", "mps", shrinks)
        assert following.form in smaller_forms(forms[-1])
        forms.append(planned_form(folder))
        assert forms[-1] == following.form
        assert planned_device(folder) == "mps"
        assert "MPS ran out of memory in phase step." in following.reason
        assert "more" not in following.reason
    following = step_down(folder, config)
    assert (following.place, following.device) == ("cpu", "cpu")
    assert "Docker" in following.reason, "it says why not there"
    assert planned_device(folder) == "cpu"
    with pytest.raises(ladder.MemoryExhausted, match="Nothing is left to try"):
        ladder.step_down(folder, config, ERROR, MPS)
    assert len(ladder.segments(folder)) == 4


def test_no_shrinks_and_the_cpu_asked_for(make_run):
    folder, config = make_run(MPS, max_shrinks=0, fallback="cpu")
    following = step_down(folder, config)
    assert following.place == "cpu"
    assert "Docker" not in following.reason


def test_no_fallback(make_run):
    folder, config = make_run(MPS, max_shrinks=1, fallback="none")
    step_down(folder, config)
    with pytest.raises(ladder.MemoryExhausted, match="--fallback docker"):
        ladder.step_down(folder, config, ERROR, MPS)


def test_the_smallest_form_cannot_shrink(make_run):
    folder, config = make_run(MPS, max_shrinks=99, fallback="cpu")
    begun = planned_form(folder)
    while step_down(folder, config).place == "native":
        pass
    tried = [begun, *(s.form for s in ladder.segments(folder)[1:-1])]
    assert tried[-1].smaller() is None
    passed_over = 0
    for before, form in itertools.pairwise(tried):
        between = list(itertools.takewhile(lambda each, form=form: each != form, smaller_forms(before)))
        passed_over += len(between)
        enough = 0.9 * required(folder, before)
        assert not between or required(folder, form) <= enough
        assert all(required(folder, each) > enough for each in between), "only what spares too little is passed over"
    assert passed_over


def test_a_cpu_that_ran_out_is_not_tried_again(make_run):
    folder, config = make_run(CPU, max_shrinks=0, fallback="cpu")
    with pytest.raises(ladder.MemoryExhausted):
        ladder.step_down(folder, config, ERROR, CPU)


def test_a_resumed_run_stays_where_the_ladder_led_it(make_run):
    folder, config = make_run(MPS, max_shrinks=1, fallback="cpu")
    shrunk = step_down(folder, config)
    assert ladder.first_segment(folder, config, MPS) == shrunk
    moved = step_down(folder, config)
    assert ladder.first_segment(folder, config, MPS) == moved
    again = ladder.first_segment(folder, RunConfig.from_flat(config.to_flat() | {"device": "mps"}), MPS)
    assert (again.place, again.device, again.shrinks) == ("native", "mps", 0), "unless it is sent elsewhere"


def test_a_run_in_docker_stays_there_unless_it_is_sent_to_the_cpu(make_run):
    folder, config = make_run(CPU, device="cpu")
    in_docker = ladder.Segment("docker", "cpu", 0, None, "out of memory")
    ladder._append(folder, in_docker)
    assert ladder.first_segment(folder, config, CPU) == in_docker, "it had begun on the CPU"
    assert ladder.first_segment(folder, config, CPU, "docker-cpu") == in_docker
    assert ladder.first_segment(folder, config, CPU, "cpu").place == "native"
    assert ladder.first_segment(folder, config, CPU).place == "native", "and stays there"


def test_segments_that_are_unreadable_are_refused(make_run):
    folder, _ = make_run(CPU)
    folder.segments.write_text("{")
    with pytest.raises(InputError, match="Remove it"):
        ladder.segments(folder)


def test_what_will_happen_is_told_before(make_run):
    assert "Docker" in ladder.fallback_told(RunConfig(), MPS)
    assert "on the CPU of this machine:" in ladder.fallback_told(RunConfig(), MPS)
    assert "then the run fails: " in ladder.fallback_told(RunConfig(), CPU), "it is on the CPU of this machine already"
    assert "then the run fails" in ladder.fallback_told(RunConfig.from_flat({"fallback": "cpu"}), CPU)
    assert "the run fails" in ladder.fallback_told(RunConfig.from_flat({"fallback": "none"}), MPS)
    assert "not made smaller" in ladder.fallback_told(RunConfig.from_flat({"max_shrinks": 0}), MPS)
    with pytest.raises(InputError, match="cannot be started"):
        ladder.fallback_told(RunConfig.from_flat({"device": "docker-cpu"}), CPU)


def test_a_place_that_is_too_small_is_not_taken(make_run, monkeypatch):
    folder, config = make_run(MPS, max_shrinks=0, fallback="cpu")
    before = folder.plan.read_text()
    monkeypatch.setattr(ladder, "probe_device", lambda device, limit: DeviceProbe("cpu", "tiny", 100 << 20, "", "", ""))
    with pytest.raises(ladder.MemoryExhausted, match=r"has 0\.1 GB and the run needs"):
        ladder.step_down(folder, config, ERROR, MPS)
    assert json.loads(folder.plan.read_text()) == json.loads(before)


def test_a_run_that_does_not_fit_the_container_is_refused_with_what_would_help_there(make_run):
    folder, _ = make_run(MPS, device="docker-cpu", docker_memory="100MB")
    segment = ladder.segments(folder)[-1]
    with pytest.raises(InputError, match=r"on cpu \(CPU worker in Docker\).*100,000,000 are available.*larger --docker-memory"):
        ladder.refuse_unfit(folder, segment, ladder.plan_segment(folder, segment, MPS), MPS)
    # nor once the ladder has led it there
    after = ladder.Segment("docker", "cpu", 2, None, "out of memory")
    with pytest.raises(InputError, match="larger --docker-memory"):
        ladder.refuse_unfit(folder, after, ladder.plan_segment(folder, after, MPS), MPS)


def test_what_prefect_takes_in_the_pools_container_is_planned_for(make_run, monkeypatch):
    folder, _ = make_run(MPS, device="docker-cpu", docker_memory="2GB")
    segment = ladder.segments(folder)[-1]
    alone = ladder.plan_segment(folder, segment, MPS).limit_bytes
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert alone == 2 * 10**9
    assert alone - ladder.plan_segment(folder, segment, MPS).limit_bytes == dispatch.PREFECT_BYTES


def test_a_form_that_the_ladder_chose_is_tried_whatever_the_plan_says(make_run):
    folder, config = make_run(MPS)
    tiny = DeviceProbe("mps", "Apple M1", 1 << 20, "the accelerator of this machine", "2.14.1", "arm64")
    following = step_down(folder, config)
    memory = ladder.plan_segment(folder, following, tiny)
    assert not memory.fits
    ladder.refuse_unfit(folder, following, memory, tiny)


@pytest.mark.docker
@pytest.mark.parametrize(("memory", "fits"), [("100MB", False), ("8GB", True)])
def test_a_container_that_would_be_too_small_is_known_before_training(make_run, worker_image, monkeypatch, memory, fits):
    monkeypatch.delenv("DOCKER_HOST")
    folder, config = make_run(MPS, docker_memory=memory)
    before = folder.plan.read_text()
    said = ladder.docker_too_small(folder, config, MPS)
    assert said is None if fits else "has 0.1 GB and the run needs" in said
    assert folder.plan.read_text() == before
