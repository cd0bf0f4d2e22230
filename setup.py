"""Finds the packages; everything else about the project is in pyproject.toml.

The sources live in top-level folders, and `src/dlcv/` holds a relative link to each. A checkout without links (Windows
without developer mode, some archives) has small text files in their place: there the folders are mapped by name.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
FOLDERS = ("cli", "export", "runtime", "train")

packages = ["dlcv"]
package_dir = {"": "src"}
for folder in FOLDERS:
    package = f"dlcv.{folder}"
    source = f"src/dlcv/{folder}"
    if not (HERE / source).is_dir():
        package_dir[package] = source = folder
    packages += [package, *(f"{package}.{child}" for child in find_packages(str(HERE / source)))]

setup(packages=packages, package_dir=package_dir)
