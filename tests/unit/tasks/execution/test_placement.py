"""Where a run goes on, from the state in its folder; Docker is really not there (its address is a
dead socket).
"""

import itertools
import json

import pytest

from hgt.config import RunConfig
from hgt.device.probe import DeviceProbe
from hgt.errors import InputError, OutOfMemory
from hgt.graph.demo_graph import demo_rows
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.memory.plan import Planner
from hgt.reading.edge_table import read_edge_table
from hgt.run.folder import RunFolder
from tasks.execution import placement, pool
from tasks.execution.segments import Segment, append_segment, read_segments

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


class Run:
    """A run that was planned for a device, and the calls that the tasks make."""

    def __init__(self, path, graph, found, **values):
        self.folder, self.graph = RunFolder(path), graph
        self.folder.path.mkdir()
        self.config = RunConfig.from_flat({"embedding_dim": 32, "hidden_dim": 16, **values})
        self.planner = Planner.of(graph, self.config, found.type, "cpu")
        self.begin(found)

    def begin(self, found, device=None):
        return placement.begin_segment(self.folder, self.planner, found, device)[0]

    def resume(self, found, **values):
        self.config = RunConfig.from_flat(self.config.to_flat() | values)
        self.planner = Planner.of(self.graph, self.config, found.type, "cpu")
        return self.begin(found)

    def step_down(self, found=MPS):
        following = placement.step_down(self.folder, self.planner, ERROR, found)
        assert self.segments[-1] == following, "written to the run folder"
        return following

    @property
    def segments(self):
        return read_segments(self.folder)

    @property
    def plan(self):
        return self.folder.load_plan()

    def required(self, form):
        return self.planner.plan(MPS, form).required_bytes

    def planned(self, segment, found=MPS):
        return placement.plan_segment(self.planner, segment, found)

    def refuse_unfit(self, segment, found=MPS):
        plan = self.planned(segment, found)
        placement.refuse_unfit(self.graph, self.config, segment, plan, found)
        return plan


@pytest.fixture
def make_run(tmp_path, graph):
    return lambda found, **values: Run(tmp_path / "run", graph, found, **values)


def smaller_forms(form):
    while form := form.smaller():
        yield form


def test_smaller_twice_then_the_cpu_where_there_is_no_docker(make_run):
    run = make_run(MPS)
    forms = [run.plan.form]
    for shrinks in (1, 2):
        following = run.step_down()
        assert (following.place, following.device, following.shrinks) == ("native", "mps", shrinks)
        assert following.form in smaller_forms(forms[-1])
        forms.append(run.plan.form)
        assert forms[-1] == following.form
        assert run.plan.device == "mps"
        assert "MPS ran out of memory in phase step." in following.reason
        assert "more" not in following.reason
    following = run.step_down()
    assert (following.place, following.device) == ("cpu", "cpu")
    assert "Docker" in following.reason, "it says why not there"
    assert run.plan.device == "cpu"
    with pytest.raises(placement.MemoryExhausted, match="Nothing is left to try"):
        run.step_down()
    assert len(run.segments) == 4


def test_the_smallest_form_cannot_shrink(make_run):
    run = make_run(MPS, max_shrinks=99, fallback="cpu")
    begun = run.plan.form
    while run.step_down().place == "native":
        pass
    tried = [begun, *(s.form for s in run.segments[1:-1])]
    assert tried[-1].smaller() is None
    passed_over = 0
    for before, form in itertools.pairwise(tried):
        between = list(
            itertools.takewhile(lambda each, form=form: each != form, smaller_forms(before))
        )
        passed_over += len(between)
        enough = 0.9 * run.required(before)
        assert not between or run.required(form) <= enough
        assert all(run.required(each) > enough for each in between), (
            "only what spares too little is passed over"
        )
    assert passed_over


def test_a_resumed_run_stays_where_the_ladder_led_it(make_run):
    run = make_run(MPS, max_shrinks=1, fallback="cpu")
    shrunk = run.step_down()
    assert run.begin(MPS) == shrunk
    moved = run.step_down()
    assert run.begin(MPS) == moved
    assert len(run.segments) == 3, "going on is no new stretch"
    again = run.resume(MPS, device="mps")
    assert (again.place, again.device, again.shrinks) == (
        "native",
        "mps",
        0,
    ), "unless it is sent elsewhere"


def test_a_run_in_docker_stays_there_unless_it_is_sent_to_the_cpu(make_run):
    run = make_run(CPU, device="cpu", docker_memory="2GB")
    in_docker = Segment("docker", "cpu", 0, None, "out of memory")
    append_segment(run.folder, in_docker)
    assert run.begin(CPU) == in_docker, "it had begun on the CPU"
    assert run.begin(CPU, "docker-cpu") == in_docker
    assert run.begin(CPU, "cpu").place == "native"
    assert run.begin(CPU).place == "native", "and stays there"


def test_segments_that_are_unreadable_are_refused(make_run):
    run = make_run(CPU)
    run.folder.segments.write_text("{")
    with pytest.raises(InputError, match="Remove it"):
        run.begin(CPU)


def test_what_will_happen_is_told_before():
    def told(found, **values):
        return placement.fallback_told(RunConfig.from_flat(values), found)

    assert "Docker" in told(MPS)
    retries = "if memory runs out: retries with less memory up to twice, then"
    assert told(MPS).startswith(f"{retries} continues on the CPU of this machine\nnot in Docker: ")
    assert told(CPU).startswith(f"{retries} fails\n"), "it is on the CPU of this machine already"
    assert told(CPU, fallback="cpu") == f"{retries} fails"
    assert told(MPS, fallback="none") == f"{retries} fails"
    assert "up to once, then" in told(MPS, max_shrinks=1)
    assert "up to 3 times, then" in told(MPS, max_shrinks=3)
    alone = told(MPS, max_shrinks=0, fallback="cpu")
    assert alone == "if memory runs out: the run continues on the CPU of this machine"
    with pytest.raises(InputError, match="cannot be started"):
        told(CPU, device="docker-cpu")


def test_a_place_that_is_too_small_is_not_taken(make_run, monkeypatch):
    run = make_run(MPS, max_shrinks=0, fallback="cpu")
    before = run.folder.plan.read_text()
    monkeypatch.setattr(
        placement,
        "probe_device",
        lambda device, limit: DeviceProbe("cpu", "tiny", 100 << 20, "", "", ""),
    )
    with pytest.raises(placement.MemoryExhausted, match=r"has 0\.1 GB and the run needs"):
        run.step_down()
    assert json.loads(run.folder.plan.read_text()) == json.loads(before)


def test_a_run_that_does_not_fit_the_container_is_refused_with_what_would_help_there(make_run):
    run = make_run(MPS, device="docker-cpu", docker_memory="100MB")
    with pytest.raises(
        InputError,
        match=r"on cpu \(CPU worker in Docker\).*100,000,000 are available.*larger --docker-memory",
    ):
        run.refuse_unfit(run.segments[-1])
    # nor once the ladder has led it there
    with pytest.raises(InputError, match="larger --docker-memory"):
        run.refuse_unfit(Segment("docker", "cpu", 2, None, "out of memory"))


def test_what_prefect_takes_in_the_pools_container_is_planned_for(make_run, monkeypatch):
    run = make_run(MPS, device="docker-cpu", docker_memory="2GB")
    alone = run.planned(run.segments[-1]).limit_bytes
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert alone == 2 * 10**9
    assert alone - run.planned(run.segments[-1]).limit_bytes == pool.PREFECT_BYTES


def test_a_form_that_the_ladder_chose_is_tried_whatever_the_plan_says(make_run):
    run = make_run(MPS)
    tiny = DeviceProbe(
        "mps", "Apple M1", 1 << 20, "the accelerator of this machine", "2.14.1", "arm64"
    )
    assert not run.refuse_unfit(run.step_down(), tiny).fits


@pytest.mark.docker
@pytest.mark.parametrize(("memory", "fits"), [("100MB", False), ("8GB", True)])
def test_a_container_that_would_be_too_small_is_known_before_training(
    make_run, worker_image, monkeypatch, memory, fits
):
    monkeypatch.delenv("DOCKER_HOST")
    run = make_run(MPS, docker_memory=memory)
    before = run.folder.plan.read_text()
    said = placement.docker_too_small(run.planner, MPS)
    assert said is None if fits else "has 0.1 GB and the run needs" in said
    assert run.folder.plan.read_text() == before
