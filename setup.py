"""Which folders are which import names; everything else stands in pyproject.toml.

The zoo lives in ``models/`` and installs as ``jaxmem_models``: a top-level package called ``models`` would collide with
users' own.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jaxmem", "jaxmem.*"]), "jaxmem_models", "jaxmem_models.registry"],
    package_dir={"jaxmem_models": "models"},
    package_data={
        "jaxmem": ["py.typed", "report/html/assets/*", "result/schemas/*.json"],
        "jaxmem_models": ["py.typed"],
    },
)
