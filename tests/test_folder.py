"""A folder of images: every kind of file comes out right, once, and what is broken is named."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fasttricks import BASELINE, load, worker
from fasttricks.__main__ import main
from fasttricks.sources import decode as decode_module
from fasttricks.sources import folder as folder_module
from fasttricks.sources import loadable
from fasttricks.sources.decode import attempt, decode, decode_all
from fasttricks.sources.folder import load_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder for every test."""
    monkeypatch.setenv("FASTTRICKS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path):
    """A folder with two classes of coloured squares."""
    rng = np.random.default_rng(0)
    for kind, colour in (("red", 0), ("green", 1)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(15):
            pixels = rng.integers(0, 60, (40, 50, 3), dtype=np.uint8)
            pixels[..., colour] += 150
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def no_decoding(monkeypatch):
    """Whoever decodes an image fails."""

    def refuse(folder: Path, files: list[str], size: int) -> None:
        raise AssertionError(f"{len(files)} images are decoded again at {size} pixels")

    return lambda: monkeypatch.setattr(folder_module, "decode_folder", refuse)


def pixel(path: Path, size: int = 4) -> list[int]:
    """Red, green and blue in the middle of a decoded image."""
    return decode(str(path), size)[:, size // 2, size // 2].tolist()


def everything(data) -> torch.Tensor:
    """All images in the order of the array: validation, test, training."""
    return torch.cat([data.val.x, data.test.x, data.train.x])


def test_a_folder_of_images(photos):
    data = load(str(photos))
    assert data.classes == ("green", "red")
    assert [len(s) for s in (data.train, data.val, data.test)] == [24, 3, 3]
    assert data.channels == 3
    assert loadable(data.name)
    again = load(str(photos))
    assert torch.equal(again.train.x, data.train.x)
    reds = data.train.x[data.train.y == 1].float()
    assert (reds[:, 0].mean() - reds[:, 1].mean()) > 100


def test_the_draw_is_that_of_seed_0(photos):
    data = load_folder(photos)
    files = [f"{kind}/{n}" for kind in ("green", "red") for n in sorted(range(15), key=str)]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0)).tolist()
    for image, row in zip(everything(data), order, strict=True):
        assert np.array_equal(image, decode(str(photos / f"{files[row]}.png"), 64))


def test_folders_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data set"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="one subfolder a class"):
        load(str(tmp_path))
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "0.png")
    with pytest.raises(ValueError, match="10 in all; it has 1"):
        load(str(tmp_path))
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"it has 1, and none in dog"):
        load(str(tmp_path))
    with pytest.raises(ValueError, match="image_size must be 1 or more"):
        load(str(tmp_path), size=0)


def test_hidden_and_other_files_are_passed_over_and_subfolders_are_not(photos):
    (photos / ".ipynb_checkpoints").mkdir()
    (photos / "red" / ".ipynb_checkpoints").mkdir()
    (photos / "red" / "holidays.png").mkdir()
    image = photos / "red" / "0.png"
    for name in (".ipynb_checkpoints/0.png", "red/.ipynb_checkpoints/0.png", "red/._0.png"):
        (photos / name).write_bytes(image.read_bytes())
    for name in (".DS_Store", "red/.DS_Store", "red/notes.txt"):
        (photos / name).write_bytes(b"no image")
    (photos / "red" / "holidays.png" / "0.PNG").write_bytes(image.read_bytes())
    data = load_folder(photos)
    assert data.classes == ("green", "red")
    assert len(everything(data)) == 31


MODES = {
    "grey": (Image.new("L", (8, 8), 100), [100, 100, 100]),
    "one bit": (Image.new("1", (8, 8), 1), [255, 255, 255]),
    "palette": (Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4), [10, 200, 30]),
    "16 bits": (Image.fromarray(np.full((8, 8), 40 * 257, np.uint16)), [40, 40, 40]),
    "clear": (Image.new("RGBA", (8, 8), (9, 9, 9, 0)), [255, 255, 255]),
    "half clear": (Image.new("RGBA", (8, 8), (0, 100, 255, 51)), [204, 224, 255]),
    "half clear grey": (Image.new("LA", (8, 8), (0, 51)), [204, 204, 204]),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_colour(name, tmp_path):
    image, wanted = MODES[name]
    image.save(tmp_path / "image.png")
    assert pixel(tmp_path / "image.png") == wanted


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_named_transparent_is_white(mode, tmp_path):
    image = Image.new(mode, (8, 8))
    image.save(tmp_path / "image.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert pixel(tmp_path / "image.png") == [255, 255, 255]


def test_print_colours_and_deep_greys(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "cyan.jpg", quality=100)
    assert pixel(tmp_path / "cyan.jpg") == pytest.approx([0, 255, 255], abs=3)
    Image.fromarray(np.full((8, 8), 60 * 257, np.int32)).save(tmp_path / "deep.tif")
    assert pixel(tmp_path / "deep.tif") == [60, 60, 60]
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "floats.tif")
    assert "floats" in attempt(str(tmp_path / "floats.tif"), 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_camera(orientation, tmp_path):
    """Red above, blue below, as the eye is to see it, stored in each of the eight ways."""
    seen = np.zeros((32, 32, 3), np.uint8)
    seen[:16, :, 0] = seen[16:, :, 2] = 255
    seen[:, :8] //= 2  # left is darker
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Transpose that undoes each
    image = Image.fromarray(seen)
    if orientation > 1:
        image = image.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, settings in (("t.jpg", {"quality": 100, "subsampling": 0}), ("t.png", {})):
        image.save(tmp_path / name, exif=exif, **settings)
        found = decode(str(tmp_path / name), 32).transpose(1, 2, 0).astype(int)
        assert np.abs(found - seen)[::9, ::5].max() < 40


def test_damaged_notes_do_not_cost_the_picture(tmp_path):
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "image.png", exif=b"Exif\0\0no notes at all")
    assert pixel(tmp_path / "image.png") == [0, 0, 255]


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (1600, 1200), (3, 5), (1, 400)])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_the_middle_square_of_any_size(shape, ending, tmp_path):
    """Against a whole decode, cropped and then resized: large JPEGs are read at a fraction."""
    width, height = shape
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = Image.fromarray(np.stack([across, down, 255 - across], 2).astype(np.uint8))
    image.save(tmp_path / f"image.{ending}")
    side = min(shape)
    left, top = (width - side) / 2, (height - side) / 2
    with Image.open(tmp_path / f"image.{ending}") as whole:
        box = (left, top, left + side, top + side)
        wanted = whole.resize((32, 32), Image.Resampling.BILINEAR, box)
    found = decode(str(tmp_path / f"image.{ending}"), 32)
    assert found.shape == (3, 32, 32)
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - np.asarray(wanted).transpose(2, 0, 1)).max() <= 4


@pytest.fixture
def broken(photos):
    """The photos with four files that cannot be read, three of them red; their paths."""
    harmed = [photos / "green" / "3.png", *(photos / "red" / f"{n}.png" for n in (1, 2, 3))]
    harmed[0].write_bytes(harmed[0].read_bytes()[:500])
    harmed[1].write_bytes(b"no image")
    harmed[2].write_bytes(b"")
    harmed[3].unlink()
    harmed[3].symlink_to(photos / "gone.png")
    return harmed


def test_broken_files_are_counted_and_named(photos, broken, cache):
    with pytest.raises(
        ValueError, match=r"^4 of 30 images in .* cannot be read.*--skip-broken"
    ) as told:
        load_folder(photos)
    assert sum(str(path) in str(told.value) for path in broken) == 3
    assert "and so on" in str(told.value)
    assert "\n" not in str(told.value)
    assert not cache.exists(), "nothing is kept"


def test_broken_files_are_skipped(photos, broken, capsys, no_decoding):
    whole = decode(str(photos / "green" / "0.png"), 64)
    data = load_folder(photos, skip_broken=True)
    said = capsys.readouterr().err
    assert "4 of 30 images in" in said
    assert "skipped" in said
    assert [len(s) for s in (data.train, data.val, data.test)] == [22, 2, 2]
    y = torch.cat([data.val.y, data.test.y, data.train.y])
    assert torch.bincount(y).tolist() == [14, 12]
    x = everything(data).float()
    assert torch.equal(x[:, 0].mean((1, 2)) > x[:, 1].mean((1, 2)), y == 1), "each has its label"
    assert any(np.array_equal(image, whole) for image in everything(data))
    no_decoding()
    again = load_folder(photos, skip_broken=True)
    assert torch.equal(everything(again), everything(data))
    assert "skipped" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="decoded again"):
        load_folder(photos)


def test_too_few_whole_files(photos):
    for path in photos.glob("red/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="none in red"):
        load_folder(photos, skip_broken=True)


@pytest.mark.parametrize("most", [1_000, 1_999])
def test_a_decompression_bomb_is_broken(photos, most, monkeypatch):
    """Pillow warns above its limit, and raises at twice as many pixels; an image has 2,000."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most - 1)
    with pytest.raises(ValueError, match=r"30 of 30 images.*\.png.*decompression bomb"):
        load_folder(photos)


def test_images_are_decoded_once(photos, no_decoding):
    first = load_folder(photos, 32)
    no_decoding()
    second = load_folder(photos, 32)
    for part in ("train", "val", "test"):
        before, after = getattr(first, part), getattr(second, part)
        assert torch.equal(before.x, after.x)
        assert torch.equal(before.y, after.y)
    second.train.x.add_(1)  # it is the caller's own


def test_another_way_to_the_same_folder(photos, no_decoding, monkeypatch):
    load_folder(photos)
    no_decoding()
    monkeypatch.chdir(photos)
    assert load_folder(Path()).name == "."


@pytest.mark.parametrize("change", ["touched", "added", "removed", "renamed", "other size"])
def test_a_change_is_seen(photos, cache, change, no_decoding):
    load_folder(photos, 32)
    (old,) = cache.iterdir()
    file = photos / "red" / "0.png"
    if change == "touched":
        os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
    elif change == "added":
        (photos / "red" / "new.png").write_bytes(file.read_bytes())
    elif change == "removed":
        file.unlink()
    elif change == "renamed":
        file.rename(photos / "green" / "red.png")
    size = 16 if change == "other size" else 32
    load_folder(photos, size)
    assert old.exists() == (change == "other size"), "older ones of a folder and size are removed"
    assert len(list(cache.iterdir())) == 1 + (change == "other size")
    no_decoding()
    load_folder(photos, size)


@pytest.mark.parametrize("harm", ["cut", "altered", "empty", "garbage", "a folder"])
def test_a_damaged_cache_is_made_again(photos, cache, harm):
    first = load_folder(photos)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    wrong = {"cut": content[:5000], "altered": content, "empty": b"", "garbage": b"garbage"}
    if harm == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(wrong[harm])
    assert torch.equal(everything(load_folder(photos)), everything(first))
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_no_cache_is_no_error(photos, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    monkeypatch.setenv("FASTTRICKS_CACHE", str(tmp_path / "taken" / "cache"))
    assert len(load_folder(photos).train) == 24


def test_a_full_disk_is_no_error(photos, cache, monkeypatch):
    def full(found: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    assert len(load_folder(photos).train) == 24
    assert list(cache.iterdir()) == [], "nothing half-written"


def test_splits_are_views(photos):
    for _ in range(2):  # decoded, and from the cache
        data = load_folder(photos, 16)
        start, image = data.val.x.data_ptr(), 3 * 16 * 16
        assert data.val.x.untyped_storage().nbytes() == 30 * image
        assert data.test.x.data_ptr() == start + 3 * image
        assert data.train.x.data_ptr() == start + 6 * image


def test_processes_find_what_one_finds(photos, broken):
    paths = [str(path) for path in sorted(photos.glob("*/*"))] * 5
    alone, together = (list(decode_all(paths, 24, processes)) for processes in (1, 3))
    assert sum(isinstance(one, str) for one in alone) == 20
    for one, other in zip(alone, together, strict=True):
        assert type(one) is type(other)
        assert np.array_equal(one, other)


@pytest.mark.parametrize("last", ["import sys; sys.stdin.read()", "raise SystemExit"])
def test_a_process_that_dies_is_told_of(last, photos, monkeypatch, tmp_path):
    (tmp_path / "dies.py").write_text(last, encoding="utf-8")
    monkeypatch.setattr(decode_module, "__file__", str(tmp_path / "dies.py"))
    with pytest.raises(ChildProcessError, match=r"died at .*0\.png"):
        list(decode_all([str(photos / "red" / "0.png")] * 9_000, 24, 2))


SPAWNED = """
import multiprocessing, sys
from pathlib import Path
from fasttricks.sources.folder import load_folder
multiprocessing.set_start_method("spawn")
print(len(load_folder(Path(sys.argv[1])).train))
"""


def test_a_script_needs_no_guard(photos, tmp_path):
    """Where Python starts processes anew, as on macOS, an unguarded script must not run again."""
    for number in range(100):
        os.link(photos / "red" / "0.png", photos / "red" / f"more{number}.png")
    (tmp_path / "script.py").write_text(SPAWNED, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "script.py"), str(photos)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "104\n"


MEMORY = """
import gc
import sys
from pathlib import Path
from fasttricks.sources.folder import load_folder

def peak():
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

before = peak()
for turn in ("decoded", "from the cache"):
    data = load_folder(Path(sys.argv[1]), 128)
    held = sum(part.x.nbytes for part in (data.train, data.val, data.test))
    assert held == 1200 * 3 * 128 * 128
    del data
    gc.collect()
    print((peak() - before) / held)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak there")
def test_memory_holds_the_images_once(tmp_path):
    (tmp_path / "many" / "one").mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "0.jpg")
    for number in range(1200):
        os.link(tmp_path / "0.jpg", tmp_path / "many" / "one" / f"{number}.jpg")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "many")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    decoded, cached = map(float, done.stdout.split())
    assert 0.9 < decoded <= cached < 1.2


def test_the_command_line_asks_for_size_and_skips(photos, broken, cache, capsys):
    words = ["train", "--data", str(photos), "--recipe", str(photos / "recipe.json"),
             "--image-size", "40", "--images", "64"]  # fmt: skip
    recipe = {**BASELINE.to_json(), "batch": 16}
    (photos / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    assert main(words) == 2
    assert "4 of 30 images in" in capsys.readouterr().err.splitlines()[-1]
    assert main([*words, "--skip-broken"]) == 0
    assert "4 of 30 images in" in capsys.readouterr().err
    x, unreadable, _ = torch.load(next(cache.iterdir()), weights_only=True)
    assert (x.shape, len(unreadable)) == ((30, 3, 40, 40), 4)


def test_a_launched_process_finds_the_cache(photos, broken, tmp_path, monkeypatch, no_decoding):
    data = load_folder(photos, 40, skip_broken=True)
    job = SimpleNamespace(data=data.name, data_size=40, labels=22, fingerprint=data.fingerprint)
    seen = []

    def train_here(job, data, started):
        seen.append(data)
        return SimpleNamespace(to_json=dict)

    (tmp_path / "job.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(worker, "Job", SimpleNamespace(from_json=lambda _: job))
    monkeypatch.setattr(worker, "train_here", train_here)
    monkeypatch.setenv(worker.WORKER, "0")
    monkeypatch.setenv("RANK", "1")
    no_decoding()
    assert worker.work(tmp_path) == {}
    assert torch.equal(everything(seen[0]), everything(data))
