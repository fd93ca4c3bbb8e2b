"""Preferred stimuli against a slow reference: one unit at a time, the whole network, every formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from facespec.analyses.preferred import COLOURS, Recipe, optimise_stimuli
from facespec.data.batches import Preset
from facespec.models.networks import FaceNetwork, build_network
from facespec.responses.recording import record_with_grad
from facespec.study.params import NetworkBlock
from facespec.study.seeds import generator

Array = np.ndarray
RECIPE = Recipe(steps=5, learning_rate=0.3, starts=3, batch_size=2)


def make_network(channels: int) -> FaceNetwork:
    block = NetworkBlock(trunk="small_vgg", channels=[3, 5], convolutions=1, branch_after=None)
    random = torch.Generator().manual_seed(8)
    network = build_network(block, {"identity": 4}, channels=channels, generator=random).train()
    network(torch.rand((9, channels, 13, 13), generator=random) * 2 - 1)
    return network.eval().double()


class SlowReference:
    """Optimises the picture of one unit, in float64; renders and transforms by matrices."""

    def __init__(self, network: FaceNetwork, layer: str, unit: int, size: int) -> None:
        self.network, self.layer, self.unit, self.size = network, layer, unit, size
        self.channels = network.channels
        k = np.fft.fftfreq(size) * size  # cycles per image
        distance = np.maximum(np.sqrt(k[:, None] ** 2 + k**2), 1)
        decay = 1 / distance / np.sqrt(2 * (1 / distance**2).mean())
        half = size // 2 + 1
        basis = [
            np.fft.irfft2(decay[:, :half] * plane, s=(size, size), norm="ortho")
            for plane in self._list_spectra((size, half))
        ]
        self.basis = np.array(basis).reshape(size * half * 2, size * size)
        colours = np.array(COLOURS) if self.channels == 3 else np.ones((1, 1))
        self.colours = colours / np.sqrt((colours**2).sum() / self.channels)

    @staticmethod
    def _list_spectra(shape: tuple[int, int]) -> list[Array]:
        """Spectra with one coefficient, real or imaginary, of 1."""
        planes = []
        for index in np.ndindex(shape):
            for part in (1.0, 1.0j):
                plane = np.zeros(shape, complex)
                plane[index] = part
                planes.append(plane)
        return planes

    def render(self, coefficients: Array) -> Array:
        planes = coefficients.reshape(self.channels, -1) @ self.basis
        return 1 / (1 + np.exp(-self.colours @ planes))  # (channels, pixels)

    def make_transform(self, move: Array, recipe: Recipe) -> Array:
        """Bilinear weights (pixels after, pixels before); edge pixels are repeated."""
        right, down, scale, rotation = move
        zoom, angle = 1 / (1 + scale * recipe.scale), np.deg2rad(rotation * recipe.turn)
        centre = (self.size - 1) / 2
        y, x = (axis - centre for axis in np.mgrid[: self.size, : self.size])
        from_x = zoom * (np.cos(angle) * x - np.sin(angle) * y) + recipe.shift * self.size * right + centre
        from_y = zoom * (np.sin(angle) * x + np.cos(angle) * y) + recipe.shift * self.size * down + centre
        dots = np.eye(self.size**2).reshape(-1, self.size, self.size)
        return np.array([map_coordinates(dot, [from_y, from_x], order=1, mode="nearest").ravel() for dot in dots]).T

    def respond(self, picture: Array) -> tuple[float, Array]:
        """The unit's mean response to a picture (channels, pixels), and its gradient."""
        image = torch.from_numpy((picture - 0.5) / 0.5).reshape(1, self.channels, self.size, self.size).requires_grad_()
        with record_with_grad(self.network, [self.layer]) as responses:
            self.network(image)
            response = responses[self.layer][0, self.unit].mean()
            (gradient,) = torch.autograd.grad(response, image)
        return response.item(), gradient.reshape(self.channels, -1).numpy() / 0.5

    def optimise(self, stream: np.random.Generator, recipe: Recipe) -> tuple[Array, float, float, list[float]]:
        """Picture, response, baseline and course; the unit must not be silent at the best start."""
        shape = (recipe.starts, self.channels, self.size, self.size // 2 + 1, 2)
        starts = recipe.contrast * stream.standard_normal(shape, dtype=np.float32).astype(np.float64)
        moves = stream.uniform(-1, 1, (recipe.steps, 4)) * (1 - np.arange(recipe.steps) / (recipe.steps - 1))[:, None]
        start_responses = [self.respond(self.render(start))[0] for start in starts]
        assert max(start_responses) > 0
        coefficients = starts[int(np.argmax(start_responses))].reshape(self.channels, -1)
        mean, square, course = 0.0, 0.0, []
        for step, move in enumerate(moves, start=1):
            picture, weights = self.render(coefficients), self.make_transform(move, recipe)
            response, gradient = self.respond(picture @ weights.T)
            course.append(response)
            ascent = self.colours.T @ ((gradient @ weights) * picture * (1 - picture)) @ self.basis.T
            mean, square = 0.9 * mean + 0.1 * ascent, 0.999 * square + 0.001 * ascent**2
            root = np.sqrt(square / (1 - 0.999**step))
            direction = np.divide(mean / (1 - 0.9**step), root, out=np.zeros_like(root), where=root > 1e-13)
            coefficients = coefficients + recipe.learning_rate * direction
        picture = self.render(coefficients)
        return picture, self.respond(picture)[0], float(np.mean(start_responses)), course


@pytest.mark.parametrize(("channels", "layer", "size"), [(1, "trunk.relu1", 12), (3, "trunk.relu2", 9)])
def test_pictures_are_those_of_the_slow_loop(channels: int, layer: str, size: int) -> None:
    network, units = make_network(channels), [2, 0, 1]
    expected = [SlowReference(network, layer, unit, size).optimise(generator(3, layer, unit), RECIPE) for unit in units]
    preset = Preset("toy", size, channels, resize=None, shift=0, flip=False, grey_probability=0.0)
    stimuli = optimise_stimuli(
        network.float(),
        layer,
        {unit: generator(3, layer, unit) for unit in units},
        preset=preset,
        recipe=RECIPE,
        device=torch.device("cpu"),
    )
    for row, (picture, response, baseline, course) in enumerate(expected):
        image = picture.reshape(channels, size, size).transpose(1, 2, 0).squeeze()
        # float32 against float64: coefficients with small gradients may take steps of another size
        np.testing.assert_allclose(stimuli.images[row], image, atol=5e-3)
        np.testing.assert_allclose(stimuli.response[row], response, rtol=1e-3)
        np.testing.assert_allclose(stimuli.baseline[row], baseline, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(stimuli.course[row], course, rtol=1e-3, atol=1e-6)
