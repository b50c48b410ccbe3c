"""The package ``lrformer``. ``make setup`` installs it, pinned by constraints.txt."""

import re
import shutil
from itertools import chain
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
PACKAGES = "projects/LRFormer"


def read_version() -> str:
    # Read, not imported: importing lrformer needs what is only about to be installed.
    text = (ROOT / PACKAGES / "lrformer" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f'{PACKAGES}/lrformer/__init__.py has no line __version__ = "..."')
    return match.group(1)


def read_readme() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


class BuildWithConfigs(build_py):
    """Puts configs/ into the package, but for an editable installation, which finds it here."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "lrformer", "configs")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / "configs", target, ignore=shutil.ignore_patterns("__pycache__"))


ENGINES = {
    "openvino": ["openvino>=2025.0"],
    "onnxruntime": ["onnx>=1.23", "onnxscript>=0.7", "onnxruntime>=1.23"],
}

SERVE = ["fastapi>=0.115", "uvicorn>=0.30"]

setup(
    name="lrformer",
    version=read_version(),
    description="LRFormer, semantic segmentation with low-resolution self-attention, on detectron2",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    package_dir={"": PACKAGES},
    packages=find_packages(PACKAGES),
    package_data={
        "lrformer.hf": ["*.md"],
        "lrformer.report": ["templates/*"],
        "lrformer.serve": ["*.html"],
    },
    cmdclass={"build_py": BuildWithConfigs},
    python_requires=">=3.10",
    # detectron2 is needed too, but cannot be declared: its authors publish it on no package index.
    # tools/install_detectron2.py installs one; any from mid-2021 to the newest will do.
    install_requires=[
        "fvcore>=0.1.5.post20211023",
        "jinja2>=3.0",
        "matplotlib>=3.6",
        "numpy>=1.24",
        # The headless build: the other one does not import on a machine without libGL.
        "opencv-python-headless>=4.6",
        "pillow>=10.1",
        "pyyaml>=6.0",
        "safetensors>=0.4",
        "scipy>=1.10",
        "tabulate>=0.9",
        "timm>=1.0.21",
        "torch>=2.4",
        "torchvision>=0.19",  # detectron2 imports it and does not declare it
        "tqdm>=4.62",
    ],
    extras_require={
        # Without OpenVINO, whose tests run where it is installed: in one process with all others
        # they ended in a broken heap (`make test ARGS=tests/inference/test_engines.py`).
        "dev": [
            "hypothesis>=6.100",
            "packaging>=23",
            "pytest>=8",
            "ruff>=0.15",
            *ENGINES["onnxruntime"],
            # The newest FastAPI's client for tests, which needs Python 3.11.
            *(f"{name}; python_version >= '3.11'" for name in (*SERVE, "httpx2>=2")),
        ],
        # What tests and tools/bench.py time compare with; without it those are left out.
        "peers": ["transformers>=4.45"],
        "vlm": ["peft>=0.15", "transformers>=5.0"],  # lrformer.referring
        # TEST.RUNTIME.ENGINE, and the files of tools/export.py for these engines.
        **ENGINES,
        "export": ["nncf>=3.0", *chain(*ENGINES.values())],  # nncf: int8 for OpenVINO
        # tools/predict.py: --ray, and --format geojson and zarr.
        "ray": ["ray[data]>=2.40"],
        "geo": ["rasterio>=1.4"],
        "zarr": ["zarr>=3.0"],
        # TRACKER
        "wandb": ["wandb>=0.17"],
        "mlflow": ["mlflow>=2.14"],
        "serve": SERVE,  # tools/serve.py
        # lrformer.hf; accelerate is what transformers' Trainer needs.
        "hf": ["accelerate>=1.1", "transformers>=5.16"],
        # Fast deformable attention for LRFormer+ on GPUs; without it plain PyTorch computes it.
        "gpu": ["deformops>=3.0; python_version >= '3.12'"],
    },
)
