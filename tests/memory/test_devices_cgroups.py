"""Memory limits of control groups, in trees like those real machines have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modelyard.memory.cgroups import MemoryLimit, is_inside, memory_limits, oom_kills


def tree(root: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"


def test_version_2_limits_of_every_group_above_us_apply(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "0::/user.slice/app.service",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/user.slice/memory.max": 4000,
        "sys/fs/cgroup/user.slice/memory.current": 1000,
        "sys/fs/cgroup/user.slice/app.service/memory.max": 2000,
        "sys/fs/cgroup/user.slice/app.service/memory.current": 900,
        "sys/fs/cgroup/user.slice/app.service/memory.stat": "anon 100\nfile 700\ninactive_file 600",
    })  # fmt: skip

    assert memory_limits(root) == (MemoryLimit(2000, 300), MemoryLimit(4000, 1000))
    assert memory_limits(root)[0].free_bytes == 1700


def test_a_limit_that_only_slows_down_is_one_too(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "0::/outer/inner",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/outer/memory.max": "max",
        "sys/fs/cgroup/outer/memory.high": 3000,
        "sys/fs/cgroup/outer/memory.current": 900,
        "sys/fs/cgroup/outer/inner/memory.max": 9000,
        "sys/fs/cgroup/outer/inner/memory.high": 5000,
        "sys/fs/cgroup/outer/inner/memory.current": 800,
    })  # fmt: skip

    limits = memory_limits(root)

    assert limits == (MemoryLimit(5000, 800), MemoryLimit(3000, 900))
    assert [limit.group for limit in limits] == ["/outer/inner", "/outer"]


def test_files_in_memory_are_not_counted_as_used_whether_they_are_read_or_not(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "0::/one",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/one/memory.max": 9000,
        "sys/fs/cgroup/one/memory.current": 5000,
        "sys/fs/cgroup/one/memory.stat": "anon 1000\nfile 4000\nshmem 500\ninactive_file 1500\nactive_file 2000",
    })  # fmt: skip

    assert memory_limits(root) == (MemoryLimit(9000, 1500),)


def test_who_shares_a_limit_is_known_by_the_group(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/7/cgroup": "0::/jobs/one/inner",
        "proc/8/cgroup": "4:memory:/jobs/one\n3:cpu:/\n0::/",
        "proc/9/cgroup": "0::/jobs/one-more",
    })  # fmt: skip

    assert [is_inside(root, pid, "/jobs/one") for pid in (7, 8, 9, 10)] == [True, True, False, False]


def test_max_is_no_limit(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/memory.max": "max",
        "sys/fs/cgroup/memory.current": 5,
    })  # fmt: skip

    assert memory_limits(root) == ()


def test_version_1_limits_are_read_and_its_huge_number_is_none(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "4:memory:/jobs/one\n1:cpu,cpuacct:/",
        "proc/self/mountinfo": V1_MOUNT,
        "sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes": 3000,
        "sys/fs/cgroup/memory/jobs/one/memory.usage_in_bytes": 500,
        "sys/fs/cgroup/memory/jobs/one/memory.stat": "inactive_file 1\ntotal_inactive_file 200",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 800,
    })  # fmt: skip

    assert memory_limits(root) == (MemoryLimit(3000, 300),)


def test_a_hybrid_tree_has_its_memory_under_version_1(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "4:memory:/\n0::/",
        "proc/self/mountinfo": V1_MOUNT + "\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 3000,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 100,
        "sys/fs/cgroup/unified/cgroup.procs": 1,
    })  # fmt: skip

    assert memory_limits(root) == (MemoryLimit(3000, 100),)


def test_a_container_sees_its_own_group_as_the_root_of_the_mount(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "0::/docker/abc",
        "proc/self/mountinfo": V2_MOUNT.replace(" / /sys", " /docker/abc /sys"),
        "sys/fs/cgroup/memory.max": 700,
        "sys/fs/cgroup/memory.current": 800,
    })  # fmt: skip

    assert memory_limits(root) == (MemoryLimit(700, 800),)
    assert memory_limits(root)[0].free_bytes == 0


def test_a_group_outside_of_our_namespace_is_taken_for_the_mount(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "0::/../../other",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/memory.max": 700,
        "sys/fs/cgroup/memory.current": 0,
    })  # fmt: skip

    assert memory_limits(root) == (MemoryLimit(700, 0),)


def test_no_control_groups_or_nonsense_mean_no_limits(tmp_path: Path) -> None:
    assert memory_limits(tmp_path) == ()

    root = tree(tmp_path, {
        "proc/self/cgroup": "nonsense\n0::/",
        "proc/self/mountinfo": f"short line\n{V2_MOUNT}",
        "sys/fs/cgroup/memory.max": "-7 what",
    })  # fmt: skip

    assert memory_limits(root) == ()


def test_kills_are_counted_in_our_own_group_of_either_version(tmp_path: Path) -> None:
    second = tree(tmp_path / "v2", {
        "proc/self/cgroup": "0::/app",
        "proc/self/mountinfo": V2_MOUNT,
        "proc/vmstat": "oom_kill 99",
        "sys/fs/cgroup/app/memory.events": "low 5\nmax 7\noom 4\noom_kill 3\noom_group_kill 1",
    })  # fmt: skip
    first = tree(tmp_path / "v1", {
        "proc/self/cgroup": "4:memory:/app",
        "proc/self/mountinfo": V1_MOUNT,
        "proc/vmstat": "oom_kill 99",
        "sys/fs/cgroup/memory/app/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    })  # fmt: skip

    assert (oom_kills(second), oom_kills(first)) == (3, 2)


def test_where_no_group_counts_kills_the_machine_does(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": V2_MOUNT,
        "proc/vmstat": "nr_free_pages 12\noom_kill 4\noom_kill_other 9",
    })  # fmt: skip

    assert oom_kills(root) == 4
    assert oom_kills(tmp_path / "empty") == 0
