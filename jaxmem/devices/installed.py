"""What this environment can compile for, from the metadata of what is installed alone."""

from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """What a platform's compiler needs.

    Attributes:
        platform: the platform.
        name: of the extra of jaxmem that installs it; empty where nothing needs to be.
        packages: each as the names under which it may be installed; the first is the extra's.
        like_jaxlib: packages that must be of jaxlib's own version.
    """

    platform: str
    name: str
    packages: tuple[tuple[str, ...], ...]
    like_jaxlib: tuple[str, ...] = ()


EXTRAS = (
    Extra(platform="cpu", name="", packages=(("jaxlib",),)),
    Extra(
        platform="cuda",
        name="cuda",
        packages=(
            ("jax-cuda12-plugin", "jax-cuda13-plugin"),
            ("jax-cuda12-pjrt", "jax-cuda13-pjrt"),
            ("nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc"),
        ),
        like_jaxlib=("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-cuda12-pjrt", "jax-cuda13-pjrt"),
    ),
    Extra(platform="tpu", name="tpu", packages=(("libtpu",),)),
)


def compiler_packages(platform: str) -> tuple[str, ...]:
    """Every package whose version decides what a compile for the platform gives, besides jax and jaxlib."""
    return tuple(name for extra in EXTRAS if extra.platform == platform for names in extra.packages for name in names)


def obstacle(platform: str) -> str | None:
    """Why this environment cannot compile for the platform, and the line that changes it; None where it can."""
    extra = next(each for each in EXTRAS if each.platform == platform)
    line = pip_line(platform)
    missing = [names[0] for names in extra.packages if all(version_of(name) is None for name in names)]
    if missing:
        return f"not installed: {', '.join(missing)}. Install: {line}"
    jaxlib = version_of("jaxlib")
    for name in extra.like_jaxlib:
        if (found := version_of(name)) is not None and found != jaxlib:
            wanted = [one for one in extra.like_jaxlib if version_of(one) is not None]
            return (
                f"{name} is {found}, and jaxlib {jaxlib} loads its own version alone. "
                f"Install: pip install {' '.join(f'{one}=={jaxlib}' for one in wanted)}"
            )
    return None


def pip_line(platform: str) -> str:
    """What installs the compiler of a platform."""
    extra = next(each for each in EXTRAS if each.platform == platform)
    return f'pip install "jaxmem[{extra.name}]"' if extra.name else "pip install jaxmem"


def version_of(package: str) -> str | None:
    """The installed version of a package; None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
