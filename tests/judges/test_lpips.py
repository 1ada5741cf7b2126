"""LPIPS: figures of lpips 0.1.4, a distance, its standard error, and weights that are none."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rfscale.judges.base import JudgeError
from rfscale.judges.metrics import LPIPS
from rfscale.judges.published.lpips import ALEXNET, VGG16, Perceptual, Trunk, load_lpips
from rfscale.judges.reconstruction import compared, distance_of

# lpips 0.1.4 with its own weights w_l, on the networks of torchvision 0.28.0 with `waves` for weights, of three pairs
# of `waves`: (network, height, width) -> distances. They agreed to the last bit on the machine that they were made on.
LPIPS_0_1_4 = {
    ("vgg16", 32, 32): (0.006935895420610905, 0.04508563131093979, 0.08095209300518036),
    ("vgg16", 37, 50): (0.04759511351585388, 0.12815414369106293, 0.15425227582454681),
    ("alexnet", 32, 32): (0.026197103783488274, 0.09599687904119492, 0.07410787045955658),
    ("alexnet", 37, 50): (0.006137888878583908, 0.02235272154211998, 0.04371022805571556),
}
TRUNKS = {"vgg16": VGG16, "alexnet": ALEXNET}


def waves(shape: tuple[int, ...], step: float) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * step).reshape(shape).float()


def weights(trunk: Trunk) -> dict[str, Tensor]:
    """In the place of torchvision's, under its names."""
    found = {}
    for name, tensor in Perceptual(trunk).state_dict().items():
        if name.startswith("features."):
            scale = math.sqrt(3 / tensor[0].numel()) if tensor.ndim > 1 else 0.1
            found[name] = waves(tuple(tensor.shape), 1.0 + len(name) / 7) * scale
    return found | {"classifier.1.weight": torch.zeros(2, 2)}  # what torchvision's files hold beside


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name, trunk in TRUNKS.items():
        torch.save(weights(trunk), folder / f"{name}.pth")
    save_file(weights(ALEXNET), folder / "alexnet.safetensors")
    return folder


@pytest.mark.parametrize("name", TRUNKS)
def test_the_figures_of_lpips(name: str, files: Path) -> None:
    network = load_lpips(files / f"{name}.pth")
    assert network.trunk is TRUNKS[name]
    for (of, height, width), expected in LPIPS_0_1_4.items():
        if of == name:
            shape = (3, 3, height, width)
            x, y = waves(shape, 0.013), waves(shape, 0.0131)
            assert network(x, y).tolist() == pytest.approx(expected, rel=1e-4)
            assert network(y, x).tolist() == pytest.approx(expected, rel=1e-4)
            assert network(x, x).tolist() == [0, 0, 0]
    least = waves((1, 3, TRUNKS[name].least, TRUNKS[name].least), 0.1)
    assert network(least, -least) > 0
    with pytest.raises(RuntimeError):
        network(least[..., 1:, 1:], least[..., 1:, 1:])


def test_a_metric_with_its_standard_error(files: Path) -> None:
    """Over pairs; grey is three equal channels; parts that were updated apart are one."""
    network = load_lpips(files / "alexnet.safetensors")
    x, y = waves((6, 3, 32, 32), 0.013), waves((6, 3, 32, 32), 0.0131)
    each = network(x, y).numpy()
    whole, one, other = (LPIPS(network) for _ in range(3))
    whole.update(x, y)
    one.update(x[:2], y[:2])
    other.update(x[2:], y[2:])
    one.merge_state(other)
    for metric in (whole, one):
        value, se = metric.compute()
        assert value.item() == pytest.approx(each.mean(), rel=1e-5)
        assert se.item() == pytest.approx(each.std(ddof=1) / math.sqrt(6), rel=1e-4)
    grey = x[:, :1]
    torch.testing.assert_close(network(grey, -grey), network(grey.repeat(1, 3, 1, 1), -grey.repeat(1, 3, 1, 1)))
    with pytest.raises(JudgeError, match=r"have the shapes \(6, 3, 32, 32\) and \(5, 3, 32, 32\)"):
        whole.update(x, y[:5])
    with pytest.raises(JudgeError, match="no compared images yet"):
        LPIPS(network).compute()


def test_table_3_has_it_where_weights_are_given(files: Path) -> None:
    x, y = (waves((20, 3, 32, 32), step).numpy() for step in (0.013, 0.0131))
    distance = distance_of(str(files / "alexnet.pth"))
    assert distance is not None
    found = compared(x, y, None, distance)
    each = distance.network(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    assert found.lpips == pytest.approx(each.mean(), rel=1e-5)
    assert found.lpips_se == pytest.approx(each.std(ddof=1) / math.sqrt(20), rel=1e-4)
    assert found.perceptual.startswith("AlexNet (")
    without = compared(x, y, None)
    assert (without.perceptual, np.isnan(without.lpips), without.psnr) == ("", True, found.psnr)
    small = compared(x[..., :24, :24], y[..., :24, :24], None, distance)
    assert np.isnan(small.lpips), "smaller than AlexNet reads"


def test_weights_that_are_none(files: Path, tmp_path: Path) -> None:
    whole = weights(ALEXNET)
    cases: dict[str, object] = {
        "lacking.pth": {name: tensor for name, tensor in whole.items() if name != "features.10.weight"},
        "shape.pth": whole | {"features.3.weight": torch.zeros(192, 64, 3, 3)},
        "nan.pth": whole | {"features.6.bias": torch.full((384,), math.nan)},
        "heads.pth": {"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)},
        "list.pth": [1, 2],
    }
    for name, content in cases.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Path("somewhere")))
    said = {
        "lacking.pth": "lacks 1 of the weights of AlexNet, such as features.10.weight; give torchvision's file vgg16-",
        "shape.pth": "lacks 1 of the weights of AlexNet, such as features.3.weight",
        "nan.pth": "such as features.6.bias",
        "heads.pth": "lacks 26 of the weights of VGG16",
        "list.pth": "cannot be loaded",
        "text.pth": "cannot be loaded",
        "text.safetensors": "cannot be loaded",
        "code.pth": "cannot be loaded (it holds something other than weights); give torchvision's file",
        "absent.pth": "cannot be loaded (FileNotFoundError",
    }
    for name, sentence in said.items():
        with pytest.raises(JudgeError) as raised:
            load_lpips(tmp_path / name)
        assert sentence in str(raised.value), name
        assert str(tmp_path / name) in str(raised.value)
        assert "\n" not in str(raised.value)
