"""How pip and colcon install this package; the metadata stands here because ament_python reads setup.py."""

from __future__ import annotations

from glob import glob

from setuptools import find_packages, setup

NAME = "vla_ros"
SHARE = f"share/{NAME}"

# The core. A robot's computer needs this and a ROS installation, and nothing of the extras.
CORE = [
    "coal>=3",
    "numpy>=1.26",
    "opencv-python-headless",
    "pillow",
    "pin>=3",
    "pydantic>=2",
    "pyyaml",
    "rich",
    "ruamel.yaml",
    "ruckig",
    "transforms3d",
    "typer",
]
EXTRAS = {
    "sim": ["matplotlib", "mujoco>=3.1,<4"],
    # What runs and trains a model. Without a GPU install torch's CPU build first: the usual one brings 3 GB of CUDA.
    "models": ["safetensors>=0.5", "tokenizers", "torch>=2.6", "transformers>=4.56"],
    "record": ["av>=15.1", "matplotlib", "pyarrow", "rosbags"],
    # ROS 2 Kilted from wheels, for machines without a ROS installation.
    "ros": [
        "ros-kilted-common-interfaces",
        "ros-kilted-rclpy",
        "ros-kilted-rosgraph-msgs",
        "ros-rclpy[fastrtps]",
    ],
    # What builds `interfaces/` on those wheels; their metadata does not ask for all of it.
    "interfaces": [
        "catkin-pkg",
        "cmake>=3.20,<4",
        "empy<4",
        "ninja",
        "ros-ament-cmake-include-directories",
        "ros-ament-cmake-ros-core",
        "ros-ament-package",
        "ros-kilted-ament-cmake",
        "ros-kilted-ament-cmake-ros",
        "ros-kilted-rosidl-default-generators",
        "ros-python-cmake-module",
        "ros-rosidl-core-generators",
    ],
    "dev": [
        "colcon-common-extensions",
        "hypothesis",
        "import-linter",
        "mypy",
        "pytest",
        "pytest-xdist",
        "ruff",
        "types-PyYAML",
        "xacro",
    ],
}

setup(
    name=NAME,
    version="0.1.0",
    description="Unified vision-language-action models on real arms, through ROS 2",
    license="Apache-2.0",
    author="The vla_ros authors",
    maintainer="The vla_ros authors",
    maintainer_email="vla_ros@users.noreply.github.com",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["py.typed"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["vla-ros = vla_ros.cli:main"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/launch", sorted(glob("launch/*.launch.py"))),
        (f"{SHARE}/config", sorted(glob("config/*.*"))),
        (f"{SHARE}/urdf", sorted(glob("urdf/*.*"))),
        (f"{SHARE}/up-vla-demo", sorted(glob("resource/up-vla-demo/*.*"))),
        (f"{SHARE}/up-vla-demo/text", sorted(glob("resource/up-vla-demo/text/*.*"))),
        # The nodes are installed as executable files and not as entry points: `ros2 run` and `ros2 launch` look in
        # lib/<package>, where pip puts no entry point. The usual [install] install_scripts of a setup.cfg would move
        # them there under colcon, but `vla-ros` as well, which belongs in bin; so there is no setup.cfg.
        (f"lib/{NAME}", sorted(glob("scripts/nodes/*"))),
    ],
    zip_safe=False,
)
