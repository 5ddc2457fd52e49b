#!/usr/bin/env python3
"""A worker whose copy of the weights is damaged is refused, whichever byte of whichever tensor it is,
also one that its ranks never read."""
import json
import pathlib
import shutil
import struct
import tempfile

from served_cluster import Supervised
from harness import NANO

LAYOUT = ["--tensor-parallel-size", 2]


def tensors(path):
    """{name: (begin, end)} in bytes of the file."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    return {name: tuple(8 + size + offset for offset in entry["data_offsets"])
            for name, entry in header.items() if name != "__metadata__"}


def main():
    places = tensors(NANO / "model.safetensors")
    names = sorted(places)
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "nano"
        shutil.copytree(NANO, copy)
        weights = copy / "model.safetensors"
        for name, at_end in ((names[0], False), (names[len(names) // 2], True), (names[-1], True)):
            position = places[name][1] - 1 if at_end else places[name][0]
            with open(weights, "r+b") as file:
                file.seek(position)
                byte = file.read(1)[0]
                file.seek(position)
                file.write(bytes([byte ^ 1]))
            group = Supervised(folder, LAYOUT, 2)
            group.start_head()
            group.workers.append(group.cluster.worker(model=copy))
            try:
                assert group.head.wait(60) == 1, group.report()
                assert group.workers[0].wait(20) == 1, group.report()
                for process in group.processes():
                    assert f'"{name}" has other bytes' in process.errors(), group.report()
            finally:
                group.end()
            with open(weights, "r+b") as file:
                file.seek(position)
                file.write(bytes([byte]))
            print(f"ok: one bit of byte {position}, in {name}")
        group = Supervised(folder, LAYOUT, 2)
        group.start_head()
        group.workers.append(group.cluster.worker(model=copy))
        try:
            group.wait_ready()
        finally:
            group.end()
        print("ok: an equal copy is let in")


if __name__ == "__main__":
    main()
