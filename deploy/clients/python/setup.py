"""Compiles the API's proto files into one file of descriptors inside of the package."""
import pathlib
import shutil
import sys

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
PROTOS = ("tessera/v1/inference.proto", "tessera/v1/error_details.proto")


def proto_folder():
    """That of the tree, or the copy in a source distribution."""
    for folder in (HERE / "proto", HERE.parent.parent.parent / "proto"):
        if (folder / PROTOS[0]).exists():
            return folder
    sys.exit(f"no {PROTOS[0]}: install from the folder deploy/clients/python of Tessera's tree")


class BuildWithSchema(build_py):
    def run(self):
        super().run()
        import grpc_tools
        from grpc_tools import protoc
        out = pathlib.Path(self.build_lib) / "tessera_client/schema.binpb"
        known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
        done = protoc.main(["protoc", f"-I{proto_folder()}", f"-I{known}", "--include_imports",
                            f"--descriptor_set_out={out}", *PROTOS])
        if done != 0:
            sys.exit("protoc failed")


class DistributionWithProtos(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        for name in PROTOS:
            target = pathlib.Path(base_dir) / "proto" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(proto_folder() / name, target)


setup(cmdclass={"build_py": BuildWithSchema, "sdist": DistributionWithProtos})
