"""The one reader of pictures: exact where a file is whole, an error where it is not, a note where it had to choose."""

import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image

from amt.data import jpeg as decoder
from amt.data.errors import ImageError
from amt.data.files import read_file
from amt.data.images import read_image


@pytest.fixture(scope="module")
def photo():
    """uint8 [48, 64, 3] with smooth colours up to 255."""
    rough = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(rough, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)


def jpeg(photo, **options) -> bytes:
    import io

    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif"])
def test_lossless_files_are_read_exactly_and_without_notes(tmp_path, photo, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo).save(path)
    image, notes = read_image(path)
    np.testing.assert_array_equal(image, photo)
    assert image.flags.c_contiguous
    assert notes == ()


def test_a_jpeg_is_decoded_as_opencv_decodes_it(tmp_path, photo):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(photo))
    np.testing.assert_array_equal(read_image(path)[0], cv2.imread(str(path))[..., ::-1])


JPEGS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "optimized": {"optimize": True},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("simple", [True, False])
def test_the_upper_rows_are_those_of_the_whole_picture_whatever_decodes(tmp_path, kind, simple, monkeypatch, capfd):
    if simple:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(decoder, "_simplejpeg", lambda: None)
    noise = np.random.default_rng(0).integers(0, 256, (203, 150, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(noise, **JPEGS[kind]))
    whole = cv2.imread(str(path))[..., ::-1]
    for rows in (None, 1, 15, 16, 17, 100, 187, 203, 5000):
        image, notes = read_image(path, rows=rows)
        assert image.shape == whole.shape
        np.testing.assert_array_equal(image[:rows], whole[:rows])
        assert notes == ()
    if simple and kind != "progressive":
        assert not read_image(path, rows=100)[0][140:].any()  # it did stop
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["grey", "cmyk", "upright"])
def test_what_simplejpeg_reads_otherwise_is_left_to_opencv(tmp_path, photo, kind, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if kind == "upright" else {}
    mode = {"grey": "L", "cmyk": "CMYK", "upright": "RGB"}[kind]
    Image.fromarray(photo).convert(mode).save(tmp_path / "a.jpg", quality=90, **options)
    image = read_image(tmp_path / "a.jpg", rows=20)[0]
    assert image.shape == (photo.shape[:2][::-1] if kind == "upright" else photo.shape[:2]) + (3,)
    monkeypatch.setattr(decoder, "_simplejpeg", lambda: None)
    np.testing.assert_array_equal(image[:20], read_image(tmp_path / "a.jpg")[0][:20])


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "gif", "webp", "ppm"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_file_that_is_cut_short_is_refused(tmp_path, photo, suffix, share, capfd):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(photo).save(whole)
    data = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}: .*(breaks off|not an image).*; (copy|give)") as error:
        read_image(cut)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # the decoder's own words do not get out
    assert read_image(whole)[0].shape == photo.shape


def scans_of_one_channel_each(image: np.ndarray, count: int = 3) -> bytes:
    """A JPEG file, not interleaved: ``count`` of its three scans, each taken from a grey file of one plane."""
    planes = [jpeg(np.ascontiguousarray(image[..., k])) for k in range(3)]
    tables, scans = b"", []
    for number, data in enumerate(planes, 1):
        at = 2
        while data[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if number == 1 and data[at + 1] in (0xDB, 0xC4):
                tables += data[at:end]
            at = end
        scans.append(bytes([0xFF, 0xDA, 0, 8, 1, number, 0, 0, 63, 0]) + data[at + 10 : -2])
    sizes = b"".join(side.to_bytes(2, "big") for side in image.shape[:2])
    frame = b"\xff\xc0\x00\x11\x08" + sizes + b"\x03" + bytes(v for k in (1, 2, 3) for v in (k, 0x11, 0))
    return decoder.START + tables + frame + b"".join(scans[:count]) + decoder.END


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_jpeg_that_lacks_a_channel_s_scan_is_refused(tmp_path, photo, count):
    levels = np.asarray(Image.fromarray(photo).convert("YCbCr"))
    path = tmp_path / "a.jpg"
    path.write_bytes(scans_of_one_channel_each(levels, count))
    if count < 3:
        with pytest.raises(ImageError, match="breaks off"):
            read_image(path)
    else:
        image, notes = read_image(path)
        assert np.abs(image.astype(int) - photo).mean() < 3
        assert notes == ()


def test_a_progressive_jpeg_that_lacks_a_scan_is_refused(tmp_path, photo):
    data, path = jpeg(photo, progressive=True), tmp_path / "a.jpg"
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for at in scans[1:]:
        path.write_bytes(data[:at] + decoder.END)
        with pytest.raises(ImageError, match="breaks off"):
            read_image(path)
    path.write_bytes(data)
    assert read_image(path)[1] == ()


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(tmp_path, photo, subsampling, lost):
    data = jpeg(photo, subsampling=subsampling)
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "cut.jpg").write_bytes(data[:-lost])
    image, notes = read_image(tmp_path / "cut.jpg")
    np.testing.assert_array_equal(image, read_image(tmp_path / "whole.jpg")[0])
    assert "lacks its end marker" in notes[0]


@pytest.mark.parametrize("ending", [b"", bytes(50), bytes(9000), b"\xff" * 300])
def test_a_jpeg_that_lacks_more_is_refused_whatever_follows(tmp_path, photo, ending):
    data = jpeg(photo)
    for lost in (3, 10, 300):
        (tmp_path / "cut.jpg").write_bytes(data[:-lost] + ending)
        with pytest.raises(ImageError, match="breaks off"):
            read_image(tmp_path / "cut.jpg")


def test_the_end_marker_of_a_thumbnail_does_not_hide_that_a_jpeg_is_cut(tmp_path, photo):
    data, thumbnail = jpeg(photo), jpeg(photo[:16, :16])
    segment = b"\xff\xe5" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    (tmp_path / "whole.jpg").write_bytes(whole)
    assert read_image(tmp_path / "whole.jpg")[0].shape == photo.shape
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ImageError, match="breaks off"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_samples_are_scaled_by_the_depth_that_they_use(tmp_path, photo, bits, suffix):
    samples = photo.astype(np.uint16) << (bits - 8)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), samples[..., ::-1])
    image, notes = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(image, photo)
    assert (notes == ()) == (bits == 16)
    assert all(f"use only {bits}" in note for note in notes)


def test_samples_that_are_no_integers_are_refused(tmp_path, photo):
    cv2.imwrite(str(tmp_path / "a.tif"), photo.astype(np.float32) / 255)
    with pytest.raises(ImageError, match="float32 samples; export"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_of_several_pictures_is_taken_and_said(tmp_path, photo, suffix):
    path = tmp_path / f"a.{suffix}"
    frames = [Image.fromarray(np.roll(photo, 20 * k, 1)) for k in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    image, notes = read_image(path)
    assert notes == ("the file holds 3 pictures; the first is taken",)
    distance = [np.abs(image.astype(int) - np.asarray(frame)).mean() for frame in frames]

    assert np.argmin(distance) == 0
    frames[0].save(path)
    assert read_image(path)[1] == ()


def test_grey_is_said_and_alpha_dropped(tmp_path, photo):
    cv2.imwrite(str(tmp_path / "grey.png"), photo[..., 0])
    image, notes = read_image(tmp_path / "grey.png")
    np.testing.assert_array_equal(image, np.repeat(photo[..., :1], 3, 2))
    assert "grey" in notes[0]
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([photo[..., ::-1], photo[..., 0]]))
    image, notes = read_image(tmp_path / "alpha.png")
    np.testing.assert_array_equal(image, photo)
    assert notes == ()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_turns_a_picture_upright(tmp_path, photo, suffix):
    exif = Image.Exif()
    exif[274] = 6  # a quarter clockwise
    Image.fromarray(photo).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    upright = np.rot90(photo, -1)
    assert np.abs(read_image(tmp_path / f"a.{suffix}")[0].astype(int) - upright).mean() < 3


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "is empty"), (b"no picture at all", "not an image"), ("folder", "cannot be read")],
)
def test_what_is_no_image_is_named(tmp_path, content, message, capfd):
    path = tmp_path / "x.jpg"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"x\.jpg: .*{message}") as error:
        read_image(path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_small_file_is_read_without_memory_for_the_largest_one(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 1000)
    tracemalloc.start()
    try:
        assert read_file(path, 1 << 30) == b"x" * 1000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
