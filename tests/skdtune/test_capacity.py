"""What a trial takes and how many fit, from tables; Ray is not started."""

import pytest
import ray

from skdtune import capacity
from skdtune.capacity import Growth, Slots
from skdtune.errors import ConfigError
from skdtune.settings import Resources


def offer(cpu: float, gpu: float = 0) -> list[dict[str, float]]:
    """One node."""
    return [{"cpu": cpu, "gpu": gpu}]


@pytest.mark.parametrize(
    ("asked", "offered", "address", "expected"),
    [
        ((1, 0), (2, 0), "local", (1, 0)),
        ((2, 0), (2, 0), "local", (2, 0)),
        ((1, 0.25), (4, 1), "local", (1, 0.25)),
        ((1, 1), (4, 2), "auto", (1, 1)),
        ((0.5, 0), (1, 8), "10.0.0.1:6379", (0.5, 0)),
    ],
)
def test_what_fits_is_taken_as_asked(asked, offered, address, expected):
    resources, note = capacity.fitted(
        Resources(cpu=asked[0], gpu=asked[1]), offer(*offered), address
    )
    assert (resources.cpu, resources.gpu) == expected
    assert note == ""


def test_on_a_machine_of_ones_own_without_a_gpu_a_trial_takes_its_cpu_and_says_so():
    resources, note = capacity.fitted(Resources(cpu=2, gpu=0.25), offer(4), "local")
    assert (resources.cpu, resources.gpu) == (2, 0)
    assert note.startswith("resources.gpu: 0.25 asked; this machine has none")


@pytest.mark.parametrize(
    ("asked", "offered", "address", "problems"),
    [
        ((3, 0), (2, 0), "local", ["resources.cpu: a trial asks for 3, this machine has 2"]),
        (
            (1, 1),
            (4, 0),
            "auto",
            ["resources.gpu: a trial asks for 1, a node of Ray has at most 0"],
        ),
        ((1, 2), (4, 1), "local", ["resources.gpu: a trial asks for 2, this machine has 1"]),
        (
            (8, 2),
            (4, 1),
            "h:1",
            [
                "resources.cpu: a trial asks for 8, a node of Ray has at most 4",
                "resources.gpu: a trial asks for 2, a node of Ray has at most 1",
            ],
        ),
        ((8, 2), (4, 0), "local", ["resources.cpu: a trial asks for 8, this machine has 4"]),
    ],
)
def test_a_trial_that_fits_nowhere_is_refused_with_every_shortage(
    asked, offered, address, problems
):
    with pytest.raises(ConfigError) as caught:
        capacity.fitted(Resources(cpu=asked[0], gpu=asked[1]), offer(*offered), address)
    assert caught.value.problems == problems


@pytest.mark.parametrize(
    ("asked", "offered", "wanted", "expected"),
    [
        ((1, 0), (2, 0), None, 2),
        ((1, 0), (2, 0), 1, 1),
        ((1, 0), (2, 0), 9, 2),
        ((2, 0), (5, 0), None, 2),
        ((0.1, 0), (0.3, 0), None, 3),
        ((0.5, 0), (2, 8), None, 4),
        ((1, 0.25), (8, 1), None, 4),
        ((1, 0.1), (64, 0.3), None, 3),
        ((2, 1), (3, 8), None, 1),
        ((1, 1), (64, 8), 4, 4),
    ],
)
def test_as_many_run_at_once_as_fit_at_most_as_wanted(asked, offered, wanted, expected):
    resources = Resources(cpu=asked[0], gpu=asked[1])
    assert Slots(resources, offer(*offered), wanted).now() == expected


@pytest.mark.parametrize(
    ("asked", "offered", "wanted", "taken"),
    [
        ((2, 0.25), offer(8, 1), None, 0.25),  # four fit on the one GPU
        ((2, 0.25), offer(8, 2), None, 0.5),  # the cores are for four: two on each
        ((2, 0.25), offer(64, 4), None, 0.25),
        ((2, 0.25), offer(64, 4), 4, 1),
        ((2, 0.25), offer(64, 4), 6, 0.5),
        ((1, 0.1), offer(64, 1), 3, 0.3333),
        ((1, 0.4), offer(64, 2), None, 0.5),  # Ray would see room for a fifth, in two halves
        ((1, 1), offer(64, 4), 2, 1),
        ((1, 0), offer(64, 4), 2, 0),
        ((1, 0.1), offer(64, 0.3), None, 0.1),
        ((2, 0.25), [*offer(8, 1), *offer(4, 2)], None, 0.25),
        ((2, 0.25), [*offer(8, 2), *offer(8, 2)], None, 0.5),
        ((2, 0.25), [*offer(64, 2), *offer(64, 2)], 4, 0.5),
    ],
)
def test_a_trial_takes_the_largest_share_of_a_gpu_with_which_as_many_fit(
    asked, offered, wanted, taken
):
    asked = Resources(cpu=asked[0], gpu=asked[1])
    larger, note = capacity.even_share(asked, offered, wanted, grows=False)
    assert (larger.cpu, larger.gpu) == (asked.cpu, taken)
    assert Slots(larger, offered, wanted).now() == Slots(asked, offered, wanted).now()
    assert bool(note) == (taken != asked.gpu)
    if note:
        assert note.startswith(f"resources.gpu: {asked.gpu:g} asked, {taken:g} taken: ")


@pytest.mark.parametrize(("asked", "taken"), [(0.25, 0.25), (0.4, 0.5), (0.3, 0.3333)])
def test_where_nodes_are_added_as_many_share_a_gpu_as_were_asked_to(asked, taken):
    nodes = [[], offer(8, 2)]
    for there in nodes:
        larger, _ = capacity.even_share(Resources(cpu=2, gpu=asked), there, 4, grows=True)
        assert larger.gpu == taken


def test_before_ray_is_there_the_machine_is_what_is_offered():
    assert not ray.is_initialized()
    (found,) = capacity.offered()
    assert found["cpu"] >= 1
    assert found["gpu"] >= 0


def test_a_trial_lies_on_one_node_and_on_one_gpu():
    nodes = [*offer(3), *offer(3)]
    assert Slots(Resources(cpu=2), nodes).now() == 2
    assert Slots(Resources(cpu=1, gpu=0.6), offer(16, 4)).now() == 4
    with pytest.raises(ConfigError, match="a node of Ray has at most 3"):
        capacity.fitted(Resources(cpu=4), nodes, "auto")
    with pytest.raises(ConfigError, match="no node has 2 CPUs and 1 GPUs together"):
        capacity.fitted(Resources(cpu=2, gpu=1), [*offer(8), *offer(1, 1)], "auto")


LAUNCHED = {
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}},
        "spot": {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 2},
        "fallback": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 2},
    },
}


def test_what_a_launcher_file_may_add_is_its_largest_workers_up_to_its_bound():
    growth = capacity.launched_growth(LAUNCHED)
    assert growth == Growth([*offer(8, 2), *offer(8, 2), *offer(4, 1)])


def test_hosts_that_are_all_started_anyway_are_waited_for_but_not_asked_for():
    growth = capacity.launched_growth({"provider": {"type": "local"}, "max_workers": 2})
    assert growth == Growth(None, on_demand=False)
    assert Slots(Resources(cpu=1), offer(2), growth=growth, follow=capacity.Nodes()).now() == 2


def test_a_cluster_of_no_workers_that_may_grow_is_not_refused():
    growth = capacity.launched_growth(LAUNCHED)
    asked = Resources(cpu=2, gpu=0.5)
    assert capacity.fitted(asked, offer(0), "auto", growth) == (asked, "")
    assert Slots(asked, offer(0), growth=growth, follow=capacity.Nodes()).now() == 4 + 4 + 2
    assert Slots(asked, offer(0), 3, growth, follow=capacity.Nodes()).now() == 3


def test_a_trial_that_no_node_to_come_can_hold_is_refused():
    growth = capacity.launched_growth(LAUNCHED)
    with pytest.raises(ConfigError, match=r"cpu: a trial asks for 9, a node of Ray has at most 8"):
        capacity.fitted(Resources(cpu=9), offer(0), "auto", growth)


def test_an_autoscaler_that_does_not_say_what_it_adds_is_asked_for_more_than_there_is():
    slots = [
        Slots(Resources(cpu=1), offer(cpu), growth=Growth(None), follow=capacity.Nodes()).now()
        for cpu in (0, 2, 16)
    ]
    assert slots == [4, 6, 32]


def test_nodes_that_come_and_go_change_how_many_run(monkeypatch):
    nodes = [*offer(2)]
    monkeypatch.setattr(capacity, "offered", lambda: nodes)
    monkeypatch.setattr(capacity, "_LOOK_EVERY_S", 0.0)
    fixed = Slots(Resources(cpu=1), nodes)
    slots = Slots(Resources(cpu=1), nodes, follow=capacity.Nodes())
    assert (slots.now(), slots.most) == (2, None)
    nodes += offer(3)
    assert slots.now() == 5
    del nodes[0]
    assert slots.now() == 3
    nodes.clear()
    assert slots.now() == 1  # a search goes on when a node is back
    assert (fixed.now(), fixed.most) == (2, 2)
