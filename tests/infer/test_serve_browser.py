"""The page in headless Chromium, where one is installed: clicked through by pointer and by keys, narrow, wide, dark and light."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
from infer_files import write_image, write_video
from served import Stub, served

PACKAGES = ("uvicorn", "starlette", "websockets")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
PATIENCE = 60  # s
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
    pytest.mark.skipif(any(find_spec(name) is None for name in PACKAGES), reason=f"needs {', '.join(PACKAGES)}"),
]


class Browser:
    """One page of a Chromium that is told what to do through its debugging protocol."""

    def __init__(self, socket):
        self.socket, self.count, self.events = socket, 0, []

    def do(self, method: str, **parameters) -> dict:
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            told = json.loads(self.socket.recv(timeout=PATIENCE))
            if told.get("id") == self.count:
                assert "error" not in told, told
                return told["result"]
            self.events.append(told)

    def eval(self, script: str):
        answer = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if found := self.eval(script):
                return found
            time.sleep(0.05)
        raise AssertionError(f"{script}: still not; status: {self.eval(STATUS)}")

    def click(self, selector: str) -> None:
        """Presses the pointer in the middle of an element, as a hand would."""
        place = self.eval(
            f"(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def key(self, key: str, code: int = 0) -> None:
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def choose(self, path) -> None:
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        node = self.do("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.do("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def look(self, path, width: int, scheme: str) -> None:
        """A picture of the whole page, which must not be wider than the screen."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.eval("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert self.eval("document.documentElement.scrollWidth") <= width
        shot = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(shot))


STATUS = "document.getElementById('status').textContent"
PIXELS = """(() => { const c = document.getElementById('viewer');
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let n = 0, sum = 0; for (let i = 3; i < d.length; i += 4) if (d[i]) { n++; sum += i % 9973; } return [n, sum]; })()"""


@contextmanager
def opened(url: str, profile):
    """A browser that is at ``url``."""
    from websockets.sync.client import connect

    options = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0",
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--remote-allow-origins=*",
        "--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen([CHROMIUM, *options], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        port, end = profile / "DevToolsActivePort", time.monotonic() + PATIENCE
        while not (port.is_file() and "\n" in port.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json/list"
        pages = json.load(urllib.request.urlopen(address, timeout=PATIENCE))
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        with connect(address, max_size=1 << 28, open_timeout=PATIENCE) as socket:
            browser = Browser(socket)
            for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
                browser.do(f"{domain}.enable")
            browser.do("Page.navigate", url=url)
            browser.wait("document.readyState === 'complete' && document.getElementById('checkpoint')?.textContent")
            yield browser
            browser.eval("1")
    finally:
        process.kill()
        process.wait(timeout=30)


def test_the_page_is_clicked_through(result, photo, tmp_path):
    picture = write_image(tmp_path / "hand.png", photo)
    clip = write_video(tmp_path / "v.mp4", [photo] * 5, rate=10)
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:300])
    with (
        served(Stub(result), tmp_path / "root") as asking,
        opened(f"http://127.0.0.1:{asking.port}/", tmp_path / "p") as b,
    ):
        # what stands before anything was sent
        assert b.eval(STATUS) == "Nothing was sent yet."
        b.look(tmp_path / "empty-1280.png", 1280, "light")

        # a picture
        b.choose(picture)
        b.wait(f"{STATUS}.startsWith('1 hand in ')")
        b.wait("document.getElementById('picture').naturalWidth === 320")
        drawn = b.eval(PIXELS)
        assert drawn[0] > 5000
        text = b.eval("document.getElementById('cards').textContent")
        distance = f"{1000 * float((result.joints[0] ** 2).sum()) ** 0.5:.1f} mm"
        assert distance in text
        assert "assumed, 75° over the diagonal" in text
        assert b.eval("document.querySelectorAll('#joints tbody tr').length") == 21
        assert b.eval("document.querySelectorAll('#downloads a').length") == 4
        for width, scheme in ((1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")):
            b.look(tmp_path / f"picture-{width}-{scheme}.png", width, scheme)
        b.do("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)

        # every download is there
        sizes = b.eval(
            "Promise.all([...document.querySelectorAll('#downloads a')].map((a) => fetch(a.href).then((r) => r.ok && r.blob())"
            ".then((f) => f.size)))"
        )
        assert min(sizes) > 300

        # turned by keys, by pointer, and nearer
        b.eval("document.getElementById('viewer').focus()")
        before = b.eval(PIXELS)
        for key in ("ArrowLeft", "ArrowUp", "+"):
            b.key(key)
            after = b.wait(f"((now) => String(now) !== '{before[0]},{before[1]}' && now)({PIXELS})")
            assert after != before
            before = after

        # fields, and once more
        b.eval("document.querySelector('[name=intrinsics]').value = '310, 305, 158, 121'")
        b.click("#again")
        b.wait("document.getElementById('cards').textContent.includes('given')")
        b.eval("document.querySelector('[name=intrinsics]').value = 'nothing'")
        b.click("#again")
        b.wait(f"{STATUS}.startsWith('intrinsics: expected fx, fy, cx, cy')")
        assert b.eval("document.getElementById('status').classList.contains('bad')")
        b.eval("document.querySelector('[name=intrinsics]').value = ''")

        # a file that is no picture, whole
        b.choose(broken)
        b.wait(f"{STATUS}.startsWith('broken.png: ')")

        # a clip, and its frames
        b.choose(clip)
        b.wait(f"{STATUS} === '5 frames'")
        assert b.eval("document.getElementById('frame').max") == "4"
        b.eval(
            "(() => { const f = document.getElementById('frame'); f.value = 2; f.dispatchEvent(new Event('input')); })()"
        )
        assert b.eval("document.getElementById('time').textContent") == "0.20 s"
        b.look(tmp_path / "clip-1280.png", 1280, "dark")

        # a webcam: frames, a picture of it
        b.click("#webcam")
        b.wait(f"/pictures.s; 1 hand/.test({STATUS}) && !document.getElementById('live').hidden")
        b.wait("document.getElementById('live').width > 100")
        b.look(tmp_path / "webcam-1280.png", 1280, "light")
        b.click("#shoot")
        b.wait(f"{STATUS}.startsWith('1 hand in ') && document.getElementById('shoot').hidden")
        assert b.eval("document.getElementById('webcam').textContent") == "Use webcam"

        # by keys alone, everything is reached
        reached = []
        b.eval("document.activeElement.blur(); window.scrollTo(0, 0)")
        for _ in range(40):
            b.key("Tab", 9)
            reached.append(
                b.eval("(document.activeElement.id || document.activeElement.name || document.activeElement.tagName)")
            )
        assert {
            "file",
            "webcam",
            "side",
            "object",
            "intrinsics",
            "fov",
            "box",
            "again",
            "A",
            "BUTTON",
            "viewer",
        } <= set(reached)

        own = (f"http://127.0.0.1:{asking.port}/", "data:", "blob:", "about:")
        asked = [e["params"]["request"]["url"] for e in b.events if e["method"] == "Network.requestWillBeSent"]
        assert asked
        assert [url for url in asked if not url.startswith(own)] == []
        faults = [e for e in b.events if e["method"] == "Runtime.exceptionThrown"]
        assert faults == []
        security = [
            e for e in b.events if e["method"] == "Log.entryAdded" and e["params"]["entry"]["source"] == "security"
        ]
        assert security == []
        asking.settle()


def test_drawn_text_of_a_stranger_is_text(result, photo, tmp_path):
    """A name that is HTML, and one that is a path, end up as words."""
    hostile = write_image(tmp_path / "<img src=x onerror=document.title=1>.png", photo)
    with (
        served(Stub(result), tmp_path / "root") as asking,
        opened(f"http://127.0.0.1:{asking.port}/", tmp_path / "p") as b,
    ):
        hostile.write_bytes(hostile.read_bytes()[:300])
        b.choose(hostile)
        b.wait("document.getElementById('status').classList.contains('bad')")
        assert b.eval("document.title") == "AMT"
        assert b.eval("document.querySelectorAll('#status img').length") == 0
