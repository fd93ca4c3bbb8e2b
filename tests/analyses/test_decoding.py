"""A decoder reads separable classes, and nothing from shuffled labels, whatever the scale of the responses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from facespec.analyses.decoding import decode_classes, fit_linear_head
from facespec.study.errors import StudyError
from facespec.study.seeds import generator


def make_clusters(
    n: int, classes: int, *, units: int = 11, seed: int = 0, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Responses of `classes` noisy clusters; their centres do not depend on `seed`."""
    centres = generator(99, classes, units).normal(size=(classes, units)) * 2
    random = generator(seed, n)
    codes = random.integers(classes, size=n)
    return (centres[codes] + spread * random.normal(size=(n, units))).astype(np.float32), codes


def test_separable_classes_are_read_out() -> None:
    fit, test = make_clusters(300, 5, seed=1, spread=0.2), make_clusters(200, 5, seed=2, spread=0.2)
    predicted = decode_classes(*fit, test[0], penalty=1.0, iterations=300)
    np.testing.assert_array_equal(predicted, test[1])


def test_shuffled_labels_are_read_out_at_chance() -> None:
    """Mean accuracy over 20 shuffles lies within 4 standard errors of chance."""
    (fit, codes), (test, true) = make_clusters(210, 7, seed=3), make_clusters(490, 7, seed=4)
    shuffles = [
        decode_classes(fit, generator(i).permutation(codes), test, penalty=1.0, iterations=500) for i in range(20)
    ]
    accuracy = np.mean([(predicted == true).mean() for predicted in shuffles])
    # the shuffles share the test images; 490 / 7 images per class bound the effective number of tests from below
    assert abs(accuracy - 1 / 7) < 4 * np.sqrt(1 / 7 * 6 / 7 / 490)


@settings(max_examples=4)
@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_the_scale_of_responses_does_not_matter(scale: float, shift: float) -> None:
    (fit, codes), (test, _) = make_clusters(120, 3, seed=5), make_clusters(60, 3, seed=6)
    plain = decode_classes(fit, codes, test, penalty=1.0, iterations=500)
    scaled = decode_classes(fit * scale + shift, codes, test * scale + shift, penalty=1.0, iterations=500)
    assert (plain == scaled).mean() > 0.98  # float32 rounding may move an image on the border


@settings(max_examples=4)
@given(st.permutations(range(4)))
def test_renaming_classes_renames_predictions(names: list[int]) -> None:
    (fit, codes), (test, _) = make_clusters(160, 4, seed=7), make_clusters(80, 4, seed=8)
    renamed = decode_classes(fit, np.array(names)[codes], test, penalty=1.0, iterations=500)
    plain = decode_classes(fit, codes, test, penalty=1.0, iterations=500)
    assert (renamed == np.array(names)[plain]).mean() > 0.97  # lbfgs stops at a tolerance, not at the optimum


def test_silent_units_change_nothing() -> None:
    (fit, codes), (test, true) = make_clusters(200, 3, seed=9, spread=0.1), make_clusters(50, 3, seed=10, spread=0.1)
    fit[:, 4] = test[:, 4] = 0
    np.testing.assert_array_equal(decode_classes(fit, codes, test, penalty=1.0, iterations=300), true)


def test_one_class_is_refused() -> None:
    with pytest.raises(StudyError, match="at least 2 classes to tell apart, got 1 in 4 images"):
        decode_classes(np.zeros((4, 2)), np.zeros(4, int), np.zeros((1, 2)), penalty=1.0, iterations=10)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_head_is_the_decoder_in_weights_and_bias(classes: int) -> None:
    """Its logits give scikit-learn's probabilities, although units are far from unit variance."""
    (fit, codes), (test, _) = make_clusters(150, classes, seed=11), make_clusters(80, classes, seed=12)
    scale, shift = np.geomspace(0.01, 90, 11), np.linspace(-40, 60, 11)
    fit, test = (fit * scale + shift).astype(np.float32), (test * scale + shift).astype(np.float32)
    fit[:, 4] = test[:, 4] = 3  # a silent unit
    weight, bias = fit_linear_head(fit, codes, classes=classes, penalty=0.7, iterations=900)
    assert weight.shape == (classes, 11) and bias.shape == (classes,)
    decoder = make_pipeline(StandardScaler(), LogisticRegression(C=0.7, max_iter=900))
    expected = decoder.fit(fit.astype(float), codes).predict_proba(test.astype(float))
    np.testing.assert_allclose(softmax(test @ weight.T + bias, axis=1), expected, atol=1e-9)
    predicted = decode_classes(fit, codes, test, penalty=0.7, iterations=900)
    np.testing.assert_array_equal((test @ weight.T + bias).argmax(axis=1), predicted)


@pytest.mark.parametrize("present", [[1, 4], [0, 2, 5]])
def test_a_class_without_images_is_never_chosen(present: list[int]) -> None:
    (fit, codes), (test, true) = make_clusters(90, len(present), seed=13), make_clusters(40, len(present), seed=14)
    head = fit_linear_head(fit, np.array(present)[codes], classes=6, penalty=1.0, iterations=300)
    weight, bias = (values.astype(np.float32) for values in head)
    absent = np.setdiff1d(np.arange(6), present)
    assert not weight[absent].any() and np.isfinite(bias).all()
    dense, _ = fit_linear_head(fit, codes, classes=len(present), penalty=1.0, iterations=300)
    np.testing.assert_allclose(weight[present], dense, rtol=1e-5)
    chosen = (test @ weight.T + bias).argmax(axis=1)
    assert set(chosen) <= set(present) and (chosen == np.array(present)[true]).mean() > 0.9
    with pytest.raises(StudyError, match="at least 2 classes to tell apart, got 1 in 3 images"):
        fit_linear_head(np.zeros((3, 2)), np.full(3, 4), classes=6, penalty=1.0, iterations=10)
