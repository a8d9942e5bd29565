"""Writes torch_xla/: what XLA dumps of a small PyTorch/XLA training step, after it optimizes the module.

Made with torch 2.9.0 and torch_xla 2.9.0, from a folder of packages whose path names no machine:
    pip install --target /tmp/packages torch torch_xla && PYTHONPATH=/tmp/packages python torch_xla_train.py
"""

import gzip
import os
import tempfile
from pathlib import Path

FOLDER = Path(__file__).with_name("torch_xla")

with tempfile.TemporaryDirectory() as dumped:
    os.environ |= {"PJRT_DEVICE": "CPU", "XLA_FLAGS": f"--xla_dump_to={dumped} --xla_dump_hlo_as_proto"}
    import torch  # both read the environment
    import torch_xla

    device = torch_xla.device()
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 10)
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    images, labels = torch.zeros((16, 1, 8, 8), device=device), torch.zeros((16,), dtype=torch.long, device=device)
    for _ in range(2):  # the first step makes Adam's moments
        torch_xla.sync()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch_xla.sync()
    FOLDER.mkdir(exist_ok=True)
    largest = max(Path(dumped).glob("*after_optimizations.hlo.pb"), key=lambda file: file.stat().st_size)
    (FOLDER / f"{largest.name}.gz").write_bytes(gzip.compress(largest.read_bytes(), 9, mtime=0))
