"""Networks of a user's own: how the file is loaded, where the trunk ends, and what the untrained control is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from facespec.models.layers import list_layers
from facespec.models.networks import adopt_network, build_network
from facespec.models.user_networks import build_trunk, draw_trunk, load_network, measure_trunk
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from toys import USER_MODULE, USER_NETWORKS, random_images, seeded

CLASSES = {"expression": 7, "identity": 3}


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of a user's files, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("toy.py").write_text(USER_MODULE)
    Path("networks.py").write_text(USER_NETWORKS)


def name_block(function: str = "joint(5)", file: str = "networks.py") -> NetworkBlock:
    return NetworkBlock(trunk=f"{file}:{function}", channels=[4], convolutions=1, branch_after=None)


# --- loading


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("toy.py", "", "--module toy.py: expected FILE.py:FUNCTION, for example networks.py:resnet"),
        ("toy.py:", "", "--module toy.py:: expected FILE.py:FUNCTION"),
        ("toy:network", "", "--module toy:network: expected FILE.py:FUNCTION"),
        ("tay.py:network", "", "--module tay.py:network: no file tay.py"),
        (
            "toy.py:netwerk",
            USER_MODULE,
            "toy.py: no function 'netwerk': did you mean 'network'? Allowed: 'Toy', 'network'",
        ),
        ("toy.py:network", "network = 3", "toy.py: no function 'network': it has none"),
        ("toy.py:network", "def network(:", "toy.py raises SyntaxError: invalid syntax (toy.py, line 1)"),
        ("toy.py:network", "import notthere", "toy.py raises ModuleNotFoundError: No module named 'notthere'"),
        ("toy.py:network", "def network(): raise OSError('no weights')", "network() raises OSError: no weights"),
        ("toy.py:network", "import sys; sys.exit()", "toy.py ends the program (SystemExit: None), and no network is"),
        (
            "toy.py:network",
            "import argparse; argparse.ArgumentParser().parse_args(['--epochs'])",
            "toy.py ends the program (SystemExit: 2), and no network is made. Put what parses arguments",
        ),
        ("toy.py:network", "def network(): exit(0)", "toy.py: network() ends the program (SystemExit: 0)"),
        ("toy.py:network", "def network(): return 3", "network() returns int, not a torch.nn.Module with weights"),
        (
            "toy.py:network",
            "from torch.nn import ReLU as network",
            "network() returns ReLU, not a torch.nn.Module with",
        ),
    ],
)
def test_modules_that_cannot_be_used(module: str, source: str, message: str) -> None:
    Path("toy.py").write_text(source)
    with pytest.raises(StudyError) as error:
        load_network(module, option="--module")
    assert message in str(error.value).replace(f"{Path.cwd()}/", "")


def test_a_module_is_loaded_from_its_file_every_time() -> None:
    before = list(sys.path)
    first = load_network("toy.py:network", option="--module")
    assert sys.path == before and "toy" not in sys.modules
    assert type(first).__name__ == "Toy"
    Path("toy.py").write_text(USER_MODULE.replace("Conv2d(3, 7, 1)", "Conv2d(3, 9, 1)"))
    assert load_network("toy.py:network", option="--module").conv.out_channels == 9


@pytest.mark.parametrize(("source", "drawn"), [("def network(seed):", [3, 4]), ("def network(sed=0):", [0, 0])])
def test_functions_that_take_a_seed_are_called_with_it(source: str, drawn: list[int]) -> None:
    Path("toy.py").write_text(f"""
from torch import nn
{source}
    made = nn.Linear(2, 2)
    made.bias.data.fill_({"seed" if "seed" in source else "sed"})
    return made
""")
    with torch.random.fork_rng():
        made = [load_network("toy.py:network", option="--module", seed=seed) for seed in (3, 4)]
    assert [network.state_dict()["bias"][0].item() for network in made] == drawn


# --- trunks


def compute_features(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The average of what the last block of a user's network gives."""
    maps: list[torch.Tensor] = []
    with network.last.register_forward_hook(lambda *call: maps.append(call[-1])):  # type: ignore[operator,union-attr]
        network(images)
    return maps[0].clamp(min=0).mean(dim=(2, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_trunk_computes_the_average_of_the_users_last_map(channels: int) -> None:
    images = random_images(3, channels, 32, 20)
    with torch.random.fork_rng(), torch.no_grad():
        user = load_network("networks.py:joint", option="x", seed=5).eval()
        expected = compute_features(user, images.expand(-1, 3, -1, -1))
        network = adopt_network(name_block(), CLASSES, channels=channels).eval()
        got = network.penultimate(images, "identity")
    assert torch.allclose(got, expected, atol=1e-6) and expected.std() > 0.01
    assert network.width == 9 and {key.partition(".")[0] for key in network.trunk.state_dict()} == {
        "first",
        "norm",
        "last",
    }
    assert [layer[:2] for layer in list_layers(network)] == [
        ("trunk.first", "trunk.relu"),
        ("trunk.last", "trunk.relu_2"),
    ]


def test_loading_moves_no_random_state_and_other_seeds_are_other_networks() -> None:
    before = torch.random.get_rng_state()
    five, six, again = (adopt_network(name_block(f"joint({seed})"), CLASSES, channels=1) for seed in (5, 6, 5))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [network.get_parameter("trunk.last.weight") for network in (five, six, again)]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])


def test_the_untrained_trunk_has_none_of_the_users_weights() -> None:
    given = build_trunk("networks.py:joint(5)", channels=1).state_dict()
    drawn = draw_trunk("networks.py:joint(5)", channels=1, generator=seeded(1)).state_dict()
    again = draw_trunk("networks.py:joint(6)", channels=1, generator=seeded(1)).state_dict()
    assert given.keys() == drawn.keys() == again.keys()
    for key, values in drawn.items():
        assert torch.equal(values, again[key])  # the same for every replicate of the user's
        assert key == "norm.num_batches_tracked" or not torch.equal(values, given[key])
    assert float(drawn["norm.running_var"].std()) == 0 and float(drawn["last.bias"].abs().max()) == 0
    # He normal, fan out: 4 inputs, 9 units of 3x3
    assert float(drawn["last.weight"].std()) == pytest.approx((2 / (9 * 9)) ** 0.5, rel=0.15)
    other = build_network(name_block(), CLASSES, channels=1, generator=seeded(2)).trunk.state_dict()
    assert not torch.equal(other["last.weight"], drawn["last.weight"])


def test_the_smallest_image_is_measured() -> None:
    trunk = build_trunk("networks.py:joint(5)", channels=1)
    assert measure_trunk(trunk, "networks.py:joint", channels=1) == (
        9,
        3,
    )  # (3 + 2 - 3) // 2 + 1 = 2 cells, pooled to 1


MODULE = """
import torch
from torch import nn
from torch.nn import functional as F

class Made(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        BODY

def made():
    return Made()
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return self.head(x.flatten(1)[:, :4])", "no map is found on the way to its output"),
        ("return self.a(x).mean((2, 3)), self.b(self.a(x)).mean((2, 3))", "its output reads several last maps, "),
        ("return self.head(self.b(self.a(x if x.sum() > 0 else -x)).mean((2, 3)))", "torch.fx cannot trace it (symb"),
        (
            "return self.head(self.b(self.a(x) * self.scale).mean((2, 3)))",
            "as the untrained control needs: scale.",
        ),
        ("return self.head(self.b(F.relu(self.b(self.a(x)))).mean((2, 3)))", "it calls layer 'b' more than once"),
        ("return self.head(self.b(self.a(x[:, :, :5])).mean((2, 3)).view(7))", ""),
    ],
)
def test_networks_that_cannot_be_analysed(body: str, message: str) -> None:
    Path("made.py").write_text(MODULE.replace("BODY", body))
    block = name_block("made", "made.py")
    if not message:  # what stops behind the last map is left out
        assert build_network(block, CLASSES, channels=1, generator=seeded()).width == 4
        return
    with pytest.raises(StudyError) as caught:
        build_network(block, CLASSES, channels=1, generator=seeded())
    assert message in str(caught.value) and str(caught.value).startswith("network made.py:made")


def test_pools_and_vectors_behind_the_last_map_are_left_out() -> None:
    body = "return self.head(F.adaptive_avg_pool2d(F.avg_pool2d(self.b(self.a(x)), 2), 3).sum((2, 3)) * 2)"
    Path("made.py").write_text(MODULE.replace("BODY", body))
    network = adopt_network(name_block("made", "made.py"), CLASSES, channels=1).eval()
    images = random_images(2, 1, 9, 9)
    with torch.no_grad():
        expected = network.trunk.b(network.trunk.a(images)).mean((2, 3))  # type: ignore[operator,union-attr]
        assert torch.equal(network.penultimate(images, "identity"), expected)
