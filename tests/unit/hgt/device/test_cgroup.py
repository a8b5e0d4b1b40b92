"""Limits of control groups, from trees of files as Linux, Docker and systemd lay them out."""

from pathlib import Path

import pytest

from hgt.device.cgroup import available_bytes

MIB = 1 << 20
NO_LIMIT_V1 = 9223372036854771712
V2 = "30 23 0:26 {visible} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 {visible} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory"
OTHERS = (
    "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup"
    " rw,cpu,cpuacct\n"
)


@pytest.fixture
def machine(tmp_path):
    """`machine(groups, mounts, {folder: {file: content}})`: a root with /proc and /sys; returns
    it.
    """

    def make(groups, mounts, folders):
        files = {"proc/self/cgroup": groups, "proc/self/mountinfo": OTHERS + mounts}
        files |= {
            f"sys/fs/cgroup/{folder}/{name}": str(text)
            for folder, names in folders.items()
            for name, text in names.items()
        }
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return make


def v2(limit, use=0, cache=0):
    return {
        "memory.max": limit,
        "memory.current": use,
        "memory.stat": f"anon 5\ninactive_file {cache}\nactive_file 7",
    }


def v1(limit, use=0, cache=0):
    stat = f"inactive_file 1\ntotal_inactive_file {cache}\ntotal_active_file 7"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": use, "memory.stat": stat}


def test_a_docker_container_sees_its_own_limit_at_the_root(machine):
    root = machine("0::/", V2.format(visible="/"), {".": v2(512 * MIB, use=100 * MIB)})
    assert available_bytes(root) == 412 * MIB


def test_page_cache_that_can_be_given_back_is_not_in_use(machine):
    root = machine(
        "0::/", V2.format(visible="/"), {".": v2(512 * MIB, use=500 * MIB, cache=450 * MIB)}
    )
    assert available_bytes(root) == 462 * MIB


@pytest.mark.parametrize(
    ("own", "parent", "top", "left"),
    [
        ((400, 10), (300, 50), ("max", 900), 250),  # the group around it is tighter
        ((200, 10), (300, 50), ("max", 900), 190),
        (("max", 10), (300, 290), ("max", 900), 10),  # others in the parent use it up
        (("max", 10), ("max", 20), (100, 300), 0),  # over its limit already
        (("max", 10), ("max", 20), ("max", 30), None),
    ],
)
def test_the_tightest_of_nested_groups_counts(machine, own, parent, top, left):
    folders = {"user.slice/job.scope": own, "user.slice": parent, ".": top}
    scaled = {f: v2(n if n == "max" else n * MIB, use * MIB) for f, (n, use) in folders.items()}
    root = machine("0::/user.slice/job.scope", V2.format(visible="/"), scaled)
    assert available_bytes(root) == (None if left is None else left * MIB)


def test_version_1(machine):
    groups = "5:cpu,cpuacct:/a\n4:memory:/jobs/a\n1:name=systemd:/"
    folders = {
        "memory/jobs/a": v1(NO_LIMIT_V1, 9 * MIB),
        "memory/jobs": v1(64 * MIB, 60 * MIB, 20 * MIB),
        "memory": v1(NO_LIMIT_V1),
    }
    assert available_bytes(machine(groups, V1.format(visible="/"), folders)) == 24 * MIB


def test_version_1_in_docker_where_the_mount_point_is_the_containers_group(machine):
    root = machine(
        "4:memory:/docker/abc", V1.format(visible="/docker/abc"), {"memory": v1(64 * MIB, 4 * MIB)}
    )
    assert available_bytes(root) == 60 * MIB


def test_both_versions_mounted_at_once(machine):
    """As systemd's hybrid layout does: memory under version 1, version 2 without controllers."""
    mounts = (
        V1.format(visible="/")
        + "\n"
        + V2.format(visible="/").replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    )
    folders = {"memory/a": v1(64 * MIB), "unified/b": {"cgroup.procs": "1"}}
    assert available_bytes(machine("4:memory:/a\n0::/b", mounts, folders)) == 64 * MIB


@pytest.mark.parametrize("group", ["/../other", "/elsewhere"])
def test_a_group_outside_of_the_mount_is_taken_for_the_mount_itself(machine, group):
    root = machine(
        f"0::{group}",
        V2.format(visible="/docker/abc"),
        {".": v2(64 * MIB), "other": v2(MIB), "elsewhere": v2(MIB)},
    )
    assert available_bytes(root) == 64 * MIB


def test_a_group_whose_name_begins_like_the_mounts_is_not_inside_it(machine):
    root = machine(
        "0::/docker/abcdef", V2.format(visible="/docker/abc"), {".": v2(64 * MIB), "def": v2(MIB)}
    )
    assert available_bytes(root) == 64 * MIB


def test_the_kernels_own_root_has_no_limit_files(machine):
    assert (
        available_bytes(machine("0::/", V2.format(visible="/"), {".": {"cgroup.procs": "1"}}))
        is None
    )


def test_no_control_groups_at_all(tmp_path):
    assert available_bytes(tmp_path) is None


def test_this_machine():
    left = available_bytes()
    assert left is None or left > 0
    assert available_bytes(Path("/")) is None or left is not None
