"""Package mapping: the top-level folders below install as subpackages of adapass."""

from setuptools import find_packages, setup

MAPPED = ("passes", "codegen", "targets")

setup(
    packages=find_packages(include=["adapass", "adapass.*"])
    + [f"adapass.{package}" for name in MAPPED for package in find_packages(include=[name, f"{name}.*"])],
    package_dir={f"adapass.{name}": name for name in MAPPED},
)
