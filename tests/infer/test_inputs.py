"""Images and videos from disk: what can be read is read exactly, what cannot is told in one line with name and remedy."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from infer_files import write_image, write_video

from amt.infer.inputs import Images, InputError, Video, open_source, read_image


def test_an_image_is_read_as_rgb(tmp_path, photo):
    read = read_image(write_image(tmp_path / "a.png", photo))
    np.testing.assert_array_equal(read, photo)


def test_grey_and_transparent_images_become_rgb(tmp_path, photo):
    cv2.imwrite(str(tmp_path / "grey.png"), photo[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(photo[..., :1], 3, 2))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([photo[..., ::-1], photo[..., 0]]))
    assert read_image(tmp_path / "alpha.png").shape == photo.shape


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_image_is_an_error(tmp_path, photo, suffix, share):
    whole = write_image(tmp_path / f"whole{suffix}", photo)
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"cut.*(breaks off|not an image).*\b(copy|give)\b"):
        read_image(cut)
    assert read_image(whole).shape == photo.shape


def test_the_end_marker_of_a_thumbnail_does_not_hide_that_a_jpeg_is_cut(tmp_path, photo):
    data = write_image(tmp_path / "a.jpg", photo).read_bytes()
    thumbnail = cv2.imencode(".jpg", photo[:16, :16])[1].tobytes()
    segment = b"\xff\xe5" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    (tmp_path / "whole.jpg").write_bytes(whole)
    assert read_image(tmp_path / "whole.jpg").shape == photo.shape
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match="breaks off"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "is empty"), (b"no picture at all", "not an image")],
)
def test_what_is_no_image_is_named(tmp_path, content, message, capfd):
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.jpg: .*{message}") as error:
        read_image(path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # the decoder's own words are kept back


def test_a_folder_gives_its_images_in_order(tmp_path, photo):
    for name in ("b.jpg", "a.png", "c.JPG"):
        write_image(tmp_path / name, photo)
    (tmp_path / "notes.txt").write_text("x")
    source = open_source([str(tmp_path)])
    assert [p.name for p in source.paths] == ["a.png", "b.jpg", "c.JPG"]
    assert len(open_source([str(tmp_path / "*.jpg")])) == 1


def test_a_cameras_folder_gives_colour_and_not_depth(tmp_path, photo):
    for name in ("color_000000.jpg", "aligned_depth_to_color_000000.png"):
        write_image(tmp_path / name, photo)
    assert [p.name for p in open_source([str(tmp_path)]).paths] == ["color_000000.jpg"]


@pytest.mark.parametrize("given", ["", "nowhere", "*.jpg"])
def test_an_empty_folder_and_wrong_paths_are_named(tmp_path, given):
    (tmp_path / "notes.txt").write_text("x")
    target = str(tmp_path / given) if given else str(tmp_path)
    with pytest.raises(InputError, match=r"no image|no such"):
        open_source([target])


def test_names_of_results_differ_and_hold_no_folder(tmp_path, photo, monkeypatch):
    paths = [write_image(tmp_path / p, photo) for p in ("x/a.jpg", "y/a.jpg", "y/a.png", "y/b.jpg", "overview.jpg")]
    root_file = type(paths[0])("/a.jpg")
    names = Images([*paths, paths[0], root_file]).names
    assert len(set(names)) == len(names) == 7
    assert names[3] == "b"
    assert "overview" not in names
    assert all("/" not in name for name in names)


def test_a_video_gives_its_frames(tmp_path, photo):
    frames = [np.roll(photo, 5 * i, 1) for i in range(5)]
    video = open_source([str(write_video(tmp_path / "v.mp4", frames))])
    assert isinstance(video, Video)
    assert (len(video), video.frames_per_second) == (5, 12.0)
    read = list(video)
    assert [p.frame for p in read] == list(range(5))
    assert read[3].time_s == pytest.approx(0.25)
    assert np.abs(read[3].image.astype(int) - frames[3]).mean() < 12  # lossy, but this frame and its colours
    assert np.abs(read[3].image.astype(int) - frames[0]).mean() > 24


def test_an_unreadable_video_is_named(tmp_path, photo):
    whole = write_video(tmp_path / "v.mp4", [photo] * 5)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:2000])
    for path in (cut, tmp_path / "none.mp4"):
        with pytest.raises(InputError, match=rf"{path.name}: .*(not a video|no such)"):
            open_source([str(path)])
    with pytest.raises(InputError, match="taken alone"):
        open_source([str(whole), str(whole)])
