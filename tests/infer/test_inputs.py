"""Paths, folders and patterns: which pictures or which video they name. What reads a picture is tested in tests/data."""

from __future__ import annotations

import numpy as np
import pytest
from infer_files import write_image, write_video

from amt.data.errors import ImageError
from amt.infer.checks import InputError
from amt.infer.inputs import Images, open_source
from amt.infer.video import Video


def test_a_picture_that_cannot_be_read_is_named_at_its_turn(tmp_path, photo):
    whole = write_image(tmp_path / "a.png", photo)
    (tmp_path / "b.png").write_bytes(whole.read_bytes()[:3000])
    source = open_source([str(tmp_path)])
    np.testing.assert_array_equal(source.read(0).image, photo)
    with pytest.raises(ImageError, match=r"b\.png: .*breaks off"):
        source.read(1)


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


def test_with_a_rate_the_images_are_frames_of_a_video(tmp_path, photo):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, photo)
    frame = open_source([str(tmp_path)], rate=4).read(1)
    assert (frame.frame, frame.time_s) == (1, 0.25)


@pytest.mark.parametrize("given", ["", "nowhere", "*.jpg"])
def test_an_empty_folder_and_wrong_paths_are_named(tmp_path, given):
    (tmp_path / "notes.txt").write_text("x")
    target = str(tmp_path / given) if given else str(tmp_path)
    with pytest.raises(InputError, match=r"no image|no such"):
        open_source([target])


def test_names_of_results_differ_and_hold_no_folder(tmp_path, photo):
    paths = [write_image(tmp_path / p, photo) for p in ("x/a.jpg", "y/a.jpg", "y/a.png", "y/b.jpg", "overview.jpg")]
    root_file = type(paths[0])("/a.jpg")
    names = Images([*paths, paths[0], root_file]).names
    assert len(set(names)) == len(names) == 7
    assert names[3:5] == ["b", "overview_jpg"]
    assert "overview" not in names
    assert all("/" not in name for name in names)


def test_images_of_one_stem_are_named_by_their_paths_below_the_folder_that_they_share(tmp_path):
    def names(*paths):
        return Images([tmp_path / path for path in paths]).names

    assert names("a/x.jpg", "b/x.jpg", "x.png", "y.jpg") == ["a_x_jpg", "b_x_jpg", "x_png", "y"]
    assert names("a/x.jpg", "a/x.png") == ["x_jpg", "x_png"]
    assert names("a/c/x.jpg", "b/c/x.jpg", "b/x.v2.jpg") == ["a_c_x_jpg", "b_c_x_jpg", "x.v2"]
    assert names("x.jpg", "x.jpg", "x_jpg.png") == ["x_jpg", "x_jpg_2", "x_jpg_3"]


def test_a_video_is_taken_alone_and_has_its_own_rate(tmp_path, photo):
    video = str(write_video(tmp_path / "v.mp4", [photo] * 2))
    assert isinstance(open_source([video]), Video)
    with pytest.raises(InputError, match="taken alone"):
        open_source([video, video])
    with pytest.raises(InputError, match=r"--video: .*v\.mp4 is a video and has its own times"):
        open_source([video], rate=30)
