"""Fetch the picture sets and the names of their pictures from the public npm registry, with install scripts off.

A package that is already unpacked in the pinned version is not fetched again, so an interrupted fetch continues.
"""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from recipes.emoji.settings import WORK

PACKAGES = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/twemoji": "1.2.5",
    "emojibase-data": "17.0.0",
}
FOLDER = WORK / "packages"


def package_folder(name: str) -> Path:
    return FOLDER / name


def fetched(name: str, version: str) -> bool:
    manifest = package_folder(name) / "package.json"
    return manifest.exists() and json.loads(manifest.read_text())["version"] == version


def fetch_package(name: str, version: str) -> None:
    """`npm pack` one package and unpack it, aside first, so that a folder that exists is complete."""
    aside = FOLDER / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    command = ["npm", "pack", "--ignore-scripts", "--silent", "--pack-destination", str(aside), f"{name}@{version}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(aside.glob("*.tgz"))) as archive:
        archive.extractall(aside, filter="data")
    target = package_folder(name)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    (aside / "package").rename(target)
    shutil.rmtree(aside)


def main() -> None:
    for name, version in PACKAGES.items():
        if not fetched(name, version):
            fetch_package(name, version)
        print(f"fetched {name} {version}")


if __name__ == "__main__":
    main()
