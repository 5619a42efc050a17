"""Two packages from one tree: `tinydl` and, from the folder `kernels`, `tinydl_kernels`.

Everything declarative stands in pyproject.toml. Only the folder mapping is here: a top-level package
called plain `kernels` would collide with others, so the folder's one package has a name of its own.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tinydl", "tinydl.*"]), *find_packages("kernels")],
    package_dir={"tinydl_kernels": "kernels/tinydl_kernels"},
)
