#!/usr/bin/env python3
"""A minimal Python client: streams one chat answer.

    python3 deploy/clients/chat.py HOST:PORT 'What is 44 + 9809?'

Needs grpcio (Debian: python3-grpcio) and protoc with its Python plugin (Debian: protobuf-compiler,
protobuf-compiler-grpc); the stubs are made from proto/ into a temporary folder.
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROTO = pathlib.Path(__file__).resolve().parent.parent.parent / "proto"


def load_stubs():
    folder = tempfile.mkdtemp()
    subprocess.run(
        ["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}",
         f"--plugin=protoc-gen-grpc_python={shutil.which('grpc_python_plugin')}",
         str(PROTO / "tessera/v1/inference.proto")], check=True)
    sys.path.insert(0, folder)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    load_stubs()
    import grpc
    from tessera.v1 import inference_pb2 as pb
    from tessera.v1 import inference_pb2_grpc as pb_grpc

    request = pb.GenerateRequest()
    request.chat.messages.add(role="user", content=sys.argv[2])
    # gRPC would ask a proxy that the environment names even for this machine.
    direct = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(sys.argv[1], options=direct) as channel:
        for message in pb_grpc.InferenceStub(channel).StreamGenerate(request):
            for choice in message.choices:
                sys.stderr.write(choice.reasoning)
                sys.stdout.write(choice.text)
                sys.stdout.flush()
    print()


if __name__ == "__main__":
    main()
