"""``--serve`` on the command line: what it goes with, the packages and the port that it needs, what it shows."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from amt.infer.__main__ import main
from amt.infer.serve import server


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.png", "--serve"], "--serve: expected a CHECKPOINT and no INPUT, which the page is given; got also x.png"),
        (["--serve", "--live"], "--live: does not go with --serve"),
        (["--serve", "--out", "d"], "--out: does not go with --serve"),
        (["--serve", "--engine", "ray"], "--engine: does not go with --serve"),
        (["x.png", "--host", "0.0.0.0"], "--host: belongs to --serve"),
        (["--serve", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: cannot be used"),
    ],
)
def test_what_does_not_go_with_serve_is_one_line(checkpoint, capsys, words, message):
    assert main([str(checkpoint), *words]) == 2
    assert message in capsys.readouterr().err


def test_without_the_packages_the_remedy_is_named(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("amt.infer.command.find_spec", lambda name: None if name == "uvicorn" else object())
    assert main([str(checkpoint), "--serve"]) == 2
    assert "pip install amt[serve]" in capsys.readouterr().err


def test_the_command_shows_its_address_and_warns_of_open_ones(checkpoint, monkeypatch, capsys):
    def interrupted(self, sockets):
        raise KeyboardInterrupt

    monkeypatch.setattr(server.uvicorn.Server, "run", interrupted)
    assert main([str(checkpoint), "--serve", "--port", "0"]) == 130
    out, err = capsys.readouterr()
    assert out.startswith("page at http://127.0.0.1:")
    assert "--host" not in err
    assert main([str(checkpoint), "--serve", "--port", "0", "--host", "0.0.0.0"]) == 130
    assert "--host 0.0.0.0: everybody who reaches port" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named():
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(server.InputError, match=rf"--host 127.0.0.1 --port {port}: cannot be used"):
            server.listen("127.0.0.1", port)
