"""``--serve``: pictures, clips and webcams' frames over HTTP; what is wrong is one line, and nothing is left behind."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from infer_files import write_video

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from served import Stub, served

from amt.infer.predictor import load
from amt.infer.serve import server
from amt.infer.serve.uploads import Limits

FIELDS = {"intrinsics": "310, 305, 158, 121", "box": "180,110,120"}


def png(image: np.ndarray, kind: str = ".png") -> bytes:
    return cv2.imencode(kind, image[..., ::-1])[1].tobytes()


@pytest.fixture(scope="module")
def one_stub(result):
    return Stub(result)


@pytest.fixture(scope="module")
def one_server(one_stub, tmp_path_factory):
    with served(one_stub, tmp_path_factory.mktemp("serve") / "root") as asking:
        yield asking


@pytest.fixture
def stub(one_stub):
    one_stub.asked, one_stub.calls = [], []
    one_stub.go.set()
    return one_stub


@pytest.fixture
def asking(one_server, stub):
    yield one_server
    one_server.settle()


@pytest.fixture(scope="module")
def real(checkpoint, tmp_path_factory):
    predictor = load(checkpoint, device="cpu", locator="window")
    with served(predictor, tmp_path_factory.mktemp("serve") / "root") as asking:
        yield asking
        asking.settle()


def test_the_page_needs_no_other_server_and_forbids_any(asking):
    connection = asking.connect()
    connection.request("GET", "/")
    answer = connection.getresponse()
    page = answer.read().decode()
    assert answer.getheader("Content-Security-Policy").startswith("default-src 'none'; script-src 'self'")
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    texts = [page]
    for name in ("page.js", "page.css", "viewer.js", "viewer.css"):
        assert f"assets/{name}" in page
        status, content = asking.get(f"/assets/{name}")
        assert status == 200
        texts.append(content.decode())
    assert not any("http://" in text or "https://" in text or "//cdn" in text for text in texts)
    status, about = asking.get("/about")
    assert (status, about["checkpoint"], len(about["joints"])) == (200, "a-checkpoint", 21)
    assert "006_mustard_bottle" in about["objects"]


def test_a_picture_gets_the_predictors_own_answer_and_its_files(real, photo):
    predictor = real.page.answers.base.predictor
    k = np.array([[310.0, 0, 158], [0, 305, 121], [0, 0, 1]])
    expected = predictor(photo, k, (180, 110, 120), "left", "006_mustard_bottle")
    status, answer = real.post(png(photo), name="my hand.png", side="left", object="mustard_bottle", **FIELDS)
    assert status == 200, answer
    (hand,) = answer["hands"]
    np.testing.assert_allclose(hand["record"]["joints_m"], expected.joints, atol=1e-5)
    assert hand["record"]["side"] == "left"
    assert answer["camera"] == {"source": "given", "intrinsics_px": k.tolist(), "assumed_deg": None}
    assert hand["measures"]["distance_mm"] == pytest.approx(1000 * np.linalg.norm(expected.joints[0]), abs=0.1)
    assert {"predicted", "predictedTouches", "predictedObject", "predictedObjectTouches"} <= set(hand["scene"])

    assert answer["files"] == ["overlay.png", "predictions.jsonl", "predictions.npz", "predictions.csv"]
    line = json.loads(real.download(answer, "predictions.jsonl"))
    assert (line["image"], line["side"], line["object"]["class_id"]) == ("my_hand.png", "left", 5)
    np.testing.assert_allclose(line["joints_m"], expected.joints, atol=1e-5)
    with np.load(io.BytesIO(real.download(answer, "predictions.npz"))) as arrays:
        np.testing.assert_allclose(arrays["joints_m"][0], expected.joints, atol=1e-6)
        assert arrays["images"].tolist() == ["my_hand.png"]
    drawn = cv2.imdecode(np.frombuffer(real.download(answer, "overlay.png"), np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == photo.shape
    assert len(real.download(answer, "shown.jpg")) > 500


@pytest.mark.parametrize("kind", [".jpg", ".webp", ".bmp", ".tiff", ".png"])
def test_kinds_are_told_by_content_whatever_the_name(asking, photo, kind):
    status, answer = asking.post(png(photo, kind), name="clip.mp4")
    assert (status, answer["kind"], len(answer["hands"])) == (200, "picture", 1)
    assert answer["camera"]["source"] == "assumed"
    assert answer["camera"]["assumed_deg"] == 75


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"side": "up"}, "side: expected 'right' or 'left', got 'up'"),
        ({"object": "/etc/passwd"}, "object: expected a YCB name such as 006_mustard_bottle"),
        ({"object": "../model.ply"}, "object: expected a YCB name"),
        ({"object": "box:9x9x9"}, "object: expected three sides of"),
        ({"object": "22"}, "object: expected a YCB name"),
        (
            {"intrinsics": "/etc/passwd"},
            "intrinsics: expected fx, fy, cx, cy or nine numbers, in px, got '/etc/passwd'",
        ),
        ({"intrinsics": "1,2,3"}, "intrinsics: expected fx, fy, cx, cy"),
        ({"intrinsics": "nan,300,160,120"}, "intrinsics: expected fx, fy, cx, cy"),
        ({"intrinsics": "0,300,160,120"}, "intrinsics: focal lengths must be above 0 px"),
        ({"intrinsics": "300,300,160,120", "fov": "60"}, "fov: stands in for intrinsics"),
        ({"fov": "200"}, "fov: expected 0.5 to 150 degrees, got 200"),
        ({"box": "1,2"}, "box: expected cx, cy, side in px"),
        ({"box": "1,2,-3"}, "box: expected (cx, cy, side) in px with a side above 0"),
        ({"stream": "a"}, "stream: expected 8 to 64"),
        ({"path": "x"}, "path: no such field"),
        ({"name": "x" * 500}, "name: longer than 400 characters"),
    ],
)
def test_a_wrong_field_is_one_line(asking, photo, fields, message):
    status, answer = asking.post(png(photo), **fields)
    assert status == 400
    assert answer["error"].startswith(message)
    assert "\n" not in answer["error"]


def huge_png() -> bytes:
    """Its header says 60,000 x 60,000 px."""
    data = bytearray(png(np.zeros((16, 16, 3), np.uint8)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(data)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the file is empty"),
        (b"hello, this is no picture", 415, "neither a picture (JPEG"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, "neither a picture"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", 415, "neither a picture"),
        (b"<svg xmlns='x'><image href='/etc/passwd'/></svg>", 415, "neither a picture"),
        (b"\x80\x04\x95cos\nsystem\n", 415, "neither a picture"),
        (b"\0\0\0\x18ftypheic" + bytes(64), 415, "HEIC and AVIF pictures are not read"),
        (b"\0\0\0\x18ftypmp42" + bytes(64), 400, "clip: not a video that can be decoded"),
        (b"\xff\xd8\xff\xe0" + bytes(64), 400, "the picture's header is damaged"),
        (b"GIF89a" + bytes(64), 415, "neither a picture"),
        (b"\xff\xd8\xff\xe0" + b"\xff\xda" * 101, 400, "the JPEG file has more than 100 scans"),
        (b"II*\0\x08\0\0\0\x01\0" + bytes(12) + b"\x08\0\0\0", 400, "the TIFF file holds more than 100 pictures"),
        (huge_png(), 413, "the picture has 60000 x 60000 px; at most 50 megapixels are taken"),
    ],
)
def test_what_is_no_picture_or_clip_is_one_line(asking, stub, body, status, message):
    got, answer = asking.post(body)
    assert got == status, answer
    assert answer["error"].startswith(message)
    assert stub.asked == []


def test_a_picture_that_is_cut_short_is_told_by_its_name_alone(asking, photo):
    status, answer = asking.post(png(photo)[:-200], name="../../a hand.png")
    assert status == 400
    assert answer["error"].startswith("a_hand.png: ")
    assert str(asking.root) not in answer["error"]


def test_too_large_or_without_a_length_is_refused_before_it_is_read(stub, tmp_path, photo):
    limits = Limits(picture_bytes=1000, clip_bytes=2 << 20)
    with served(stub, tmp_path / "root", limits) as asking:
        status, answer = asking.post(png(photo))
        assert (status, answer["error"]) == (413, "the file is too large; a picture may have 0 MiB")
        status, answer = asking.post(bytes(3 << 20))
        assert (status, answer["error"]) == (413, "the file is too large; a clip may have 2 MiB")
        with socket.create_connection(("127.0.0.1", asking.port), timeout=20) as line:
            line.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            )
            assert line.recv(4096).startswith(b"HTTP/1.1 411")
        asking.settle()
    assert stub.asked == []


def test_only_its_own_pages_may_ask(asking, photo):
    assert asking.get("/", Host="evil.example")[0] == 403
    assert asking.get("/", Host=f"localhost:{asking.port}")[0] == 200
    assert asking.post(png(photo), {"Origin": "http://evil.example"})[0] == 403
    assert asking.post(png(photo), {"Origin": "null"})[0] == 403
    own = f"http://127.0.0.1:{asking.port}"
    assert asking.post(png(photo), {"Origin": own})[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../app.py", "/assets/..%2fapp.py", "/assets/%2e%2e/app.py", "/assets/app.py", "/../../etc/passwd",
        "/results/..%2f..%2fetc/passwd", "/results/%2e%2e/passwd", "/results/x/..%2f..%2f..%2fetc%2fpasswd",
        "/results/KEY/..%2fpredictions.jsonl", "/results/KEY/%2e%2e%2fresult-KEY%2fpredictions.jsonl",
        "/results/KEY/written-by-amt-infer.jsonl", "/results/KEY/.", "//etc/passwd", "/predict",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_what_was_published(asking, photo, path):
    _, answer = asking.post(png(photo))
    status, content = asking.get(path.replace("KEY", answer["result"]))
    assert status in (404, 405)
    assert "error" in content


def test_names_of_uploads_are_words_and_no_paths(asking, photo):
    def outside() -> set:
        return {p for p in asking.root.parent.rglob("*") if asking.root not in (p, *p.parents)}

    before = outside()
    for name in (
        "../../../escaped.png",
        "/etc/escaped.png",
        "..\\..\\escaped",
        "a\0b\r\nc.png",
        "%2e%2e%2f",
        "....",
        "ä" * 90,
    ):
        status, answer = asking.post(png(photo), name=name)
        assert status == 200
        line = json.loads(asking.download(answer, "predictions.jsonl"))
        assert "/" not in line["image"]
        assert line["image"] not in ("", ".", "..")
    assert outside() == before


def test_a_clip_is_answered_frame_by_frame(real, photo, tmp_path):
    data = write_video(tmp_path / "v.mp4", [photo] * 4, rate=10).read_bytes()
    status, lines = real.post(data, name="v.mp4", **FIELDS)
    assert status == 200
    assert [line["kind"] for line in lines] == ["clip", "frame", "frame", "frame", "frame", "end"]
    assert (lines[0]["frames"], lines[0]["rate"]) == (4, 10)
    assert [line["frame"] for line in lines[1:-1]] == [0, 1, 2, 3]
    assert all(len(line["hands"]) == 1 and line["jpeg"] for line in lines[1:-1])
    end = lines[-1]
    assert end["files"] == ["overlay.mp4", "predictions.jsonl", "predictions.npz", "predictions.csv"]
    rows = [json.loads(line) for line in real.download(end, "predictions.jsonl").splitlines()]
    assert [(row["image"], row["frame"]) for row in rows] == [("v.mp4", k) for k in range(4)]
    film = tmp_path / "film.mp4"
    film.write_bytes(real.download(end, "overlay.mp4"))
    capture = cv2.VideoCapture(str(film))
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 320 + 240


def test_a_clip_ends_at_its_limits(stub, photo, tmp_path):
    data = write_video(tmp_path / "v.mp4", [photo] * 6, rate=10).read_bytes()
    with served(stub, tmp_path / "root", Limits(frames=3)) as asking:
        _, lines = asking.post(data)
        assert (lines[0]["frames"], lines[-1]["frames"]) == (3, 3)
        assert "the clip is longer than 3 frames; the first 3 were taken" in lines[-1]["notes"]
        asking.settle()
    with served(stub, tmp_path / "other", Limits(clip_pixels=1000)) as asking:
        status, answer = asking.post(data)
        assert status == 413
        assert answer["error"].startswith("the clip's frames have 320 x 240 px")
        asking.settle()
        assert list((tmp_path / "other").iterdir()) == []


def test_a_clip_that_nobody_takes_any_longer_is_given_up(stub, photo, tmp_path):
    data = write_video(tmp_path / "v.mp4", [photo] * 60, rate=10).read_bytes()
    with served(stub, tmp_path / "root") as asking:
        connection = asking.connect()
        connection.request("POST", "/predict", data)
        answer = connection.getresponse()
        assert json.loads(answer.readline())["kind"] == "clip"
        assert json.loads(answer.readline())["kind"] == "frame"
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        asking.settle()
        assert len(stub.asked) < 60
        assert list((tmp_path / "root").iterdir()) == []


def test_an_upload_that_is_broken_off_or_stalls_leaves_nothing(stub, photo, tmp_path):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + png(photo)[:5000]
    with served(stub, tmp_path / "root", Limits(patience_s=0.3)) as asking:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", asking.port), timeout=20) as line:
                line.sendall(head)
        with socket.create_connection(("127.0.0.1", asking.port), timeout=20) as line:
            line.sendall(head)
            assert line.recv(4096).startswith(b"HTTP/1.1 408")
        asking.settle()
    assert stub.asked == []


def test_connections_without_a_whole_request_shut_nobody_out(stub, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "KEPT_S", 1.0)
    with served(stub, tmp_path / "root") as asking:
        lines = [
            socket.create_connection(("127.0.0.1", asking.port), timeout=20) for _ in range(server.CONNECTIONS + 5)
        ]
        for line in lines[::2]:
            line.sendall(b"GET / HTTP/1.1\r\nHo")
        assert all(line.recv(4096) == b"" for line in lines)  # ended by the server
        for line in lines:
            line.close()
        assert asking.get("/about")[0] == 200
        # a request after another one on the same connection, too; and work that takes longer is waited for
        stub.go.clear()
        threading.Timer(2.0, stub.go.set).start()
        with socket.create_connection(("127.0.0.1", asking.port), timeout=20) as line:
            body = png(photo)
            line.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert line.recv(20).startswith(b"HTTP/1.1 200")
            line.sendall(b"GET / HT")
            while line.recv(1 << 16):
                pass
        asking.settle()


def test_uploads_beyond_the_places_are_told_to_come_again(stub, photo, tmp_path):
    with served(stub, tmp_path / "root", Limits(at_once=3)) as asking, ThreadPoolExecutor(3) as others:
        stub.go.clear()
        waiting = [others.submit(asking.post, png(photo)) for _ in range(3)]
        end = time.monotonic() + 20
        while asking.page.places.taken < 3 and time.monotonic() < end:
            time.sleep(0.01)
        connection = asking.connect()
        connection.request("POST", "/predict", png(photo))
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Retry-After")) == (503, "1")
        assert json.load(answer)["error"] == "busy: 3 uploads are worked on already; try again in a moment"
        stub.go.set()
        assert [one.result()[0] for one in waiting] == [200, 200, 200]
        assert asking.post(png(photo))[0] == 200
        asking.settle()


def test_fifty_clients_at_once_get_an_answer_or_one_line(stub, photo, tmp_path):
    body, small = png(photo, ".jpg"), cv2.resize(photo, (80, 60))
    bodies = [body, png(small), b"nothing", body[:2000]]
    with served(stub, tmp_path / "root") as asking, ThreadPoolExecutor(50) as clients:
        start = threading.Barrier(50)

        def client(k: int) -> list[int]:
            start.wait(30)
            return [asking.post(bodies[(k + turn) % 4])[0] for turn in range(2)]

        statuses = [status for one in clients.map(client, range(50)) for status in one]
        assert len(statuses) == 100
        assert set(statuses) <= {200, 400, 415, 503}
        assert statuses.count(200) >= 8
        assert asking.post(body)[0] == 200
        asking.settle()
    assert max(stub.calls) <= stub.batch_size
    assert max(stub.calls) > 1  # what waits goes together


def test_a_webcams_frames_follow_each_other(asking, stub, photo):
    frame, before = png(photo, ".jpg"), set(asking.root.iterdir())
    for _ in range(3):
        status, answer = asking.post(frame, stream="0123456789ab", fov="60")
        assert (status, len(answer["hands"])) == (200, 1)
        assert "result" not in answer
    assert [request.near is None for request in stub.asked] == [True, False, False]
    asking.post(frame, stream="0123456789ab", fov="50")  # another camera: what was seen does not count
    assert stub.asked[-1].near is None
    asking.settle()
    assert set(asking.root.iterdir()) == before


def test_a_clip_is_no_frame_of_a_webcam(asking, photo, tmp_path):
    data = write_video(tmp_path / "v.mp4", [photo] * 2, rate=10).read_bytes()
    status, answer = asking.post(data, stream="0123456789ab")
    assert (status, answer["error"][:36]) == (415, "stream: a webcam's frames are pictur")


def test_a_fault_is_one_line_for_whom_it_concerns_and_the_page_goes_on(asking, stub, photo, capsys, monkeypatch):
    predict = stub.predict_many

    def broken(requests):
        if any(request.side == "left" for request in requests):
            raise KeyError("a fault of the code")
        return predict(requests)

    monkeypatch.setattr(stub, "predict_many", broken)
    status, answer = asking.post(png(photo), side="left")
    assert (status, answer["error"]) == (500, "a fault of the server; its terminal says more")
    assert "KeyError: 'a fault of the code'" in capsys.readouterr().err
    assert asking.post(png(photo))[0] == 200


def test_nothing_about_guesses_is_printed_by_the_server(asking, photo, capfd):
    asking.post(png(photo))
    assert capfd.readouterr() == ("", "")
