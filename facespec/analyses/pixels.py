"""What can be read out of pixels alone? Two baselines for every decoder of a network's responses.

Classes differ in the pictures before any network has seen them. A network that is read out no better than its own
input has made nothing easier to read. One baseline is strong: linear discriminants of principal components, with
shrinkage ("Fisherfaces"). The other is plain: the class of the most similar known picture.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline

from facespec.study.errors import StudyError


def classify_by_discriminants(
    fit_pixels: np.ndarray, fit_codes: np.ndarray, test_pixels: np.ndarray, *, components: int
) -> np.ndarray:
    """Fit linear discriminants to principal components of some images' pixels and predict the classes of others.

    Parameters
    ----------
    fit_pixels : array of shape (n_fit, n_pixels)
        Images to which components and discriminants are fitted; 2 or more.
    fit_codes : integer array of shape (n_fit,)
        Their classes; 2 different ones or more.
    test_pixels : array of shape (n_test, n_pixels)
        Images whose classes are predicted.
    components : int
        Principal components at most; fewer if there are fewer images or pixels.

    Returns
    -------
    integer array of shape (n_test,)
        Predicted classes.

    Raises
    ------
    StudyError
        If there are fewer than 2 classes.

    Notes
    -----
    The covariance within classes is shrunk as Ledoit and Wolf (2004) compute it, so that no number has to be chosen.
    Priors are the shares of the classes in the fitted images. Memory: a few copies of the pixels in float64, and
    n_pixels squared numbers.

    References
    ----------
    Belhumeur, Hespanha & Kriegman 1997, "Eigenfaces vs. Fisherfaces", IEEE Transactions on Pattern Analysis and Machine
    Intelligence 19:711-720. Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
    matrices", Journal of Multivariate Analysis 88:365-411.

    Examples
    --------
    >>> pixels = np.array([[0.0, 1.0], [0.2, 0.9], [1.0, 0.1], [0.9, 0.2]])
    >>> classify_by_discriminants(pixels, np.array([3, 3, 5, 5]), np.array([[0.1, 1.0]]), components=2)
    array([3])
    """
    _check_classes(fit_codes)
    kept = min(components, len(fit_pixels) - 1, fit_pixels.shape[1])
    classifier = make_pipeline(
        PCA(kept, svd_solver="covariance_eigh"), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    )
    with warnings.catch_warnings():  # a class with one image has no spread, and adds none
        warnings.filterwarnings("ignore", "Only one sample available", UserWarning)
        classifier.fit(fit_pixels.astype(np.float64), fit_codes)
    return classifier.predict(test_pixels.astype(np.float64))


def classify_by_nearest(fit_pixels: np.ndarray, fit_codes: np.ndarray, test_pixels: np.ndarray) -> np.ndarray:
    """The class of the fitted image at the smallest Euclidean distance from each test image: integers (n_test,).

    Shapes and errors as for `classify_by_discriminants`.

    Examples
    --------
    >>> pixels = np.array([[0.0, 1.0], [1.0, 0.1], [0.9, 0.2]])
    >>> classify_by_nearest(pixels, np.array([3, 5, 4]), np.array([[0.8, 0.3], [0.1, 1.0]]))
    array([4, 3])
    """
    _check_classes(fit_codes)
    classifier = KNeighborsClassifier(n_neighbors=1, algorithm="brute").fit(fit_pixels, fit_codes)
    return classifier.predict(test_pixels)


def measure_nearness(fit_pixels: np.ndarray, fit_codes: np.ndarray, test_pixels: np.ndarray) -> np.ndarray:
    """How near is each test image to the nearest fitted image of every class? float64 (n_test, classes).

    Nearness is the negative Euclidean distance; the class with the largest is that of `classify_by_nearest`. Codes are
    0, 1, ...; a class without fitted images is infinitely far away. Other shapes and errors as there.

    Examples
    --------
    >>> pixels = np.array([[0.0, 3.0], [4.0, 0.0]])
    >>> measure_nearness(pixels, np.array([0, 1]), np.array([[0.0, 0.0]])).tolist()
    [[-3.0, -4.0]]
    """
    _check_classes(fit_codes)
    nearness = np.full((len(test_pixels), int(fit_codes.max()) + 1), -np.inf)
    for code in np.unique(fit_codes):
        neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(fit_pixels[fit_codes == code])
        nearness[:, code] = -neighbours.kneighbors(test_pixels)[0][:, 0]
    return nearness


def _check_classes(fit_codes: np.ndarray) -> None:
    if len(np.unique(fit_codes)) < 2:
        raise StudyError(
            f"all {len(fit_codes)} images to fit are of one class; a baseline needs at least 2 to tell apart."
        )
