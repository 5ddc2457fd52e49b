#!/usr/bin/env python3
"""A minimal Python client: streams one chat answer.

    python3 deploy/clients/chat.py HOST:PORT 'What is 44 + 9809?'
    python3 deploy/clients/chat.py HOST:PORT 'What is 44 + 9809?' --ca ca.pem --api-key-file key

Needs grpcio (Debian: python3-grpcio) and protoc with its Python plugin (Debian: protobuf-compiler,
protobuf-compiler-grpc); the stubs are made from proto/ into a temporary folder.
"""
import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROTO = pathlib.Path(__file__).resolve().parent.parent.parent / "proto"


def options():
    parser = argparse.ArgumentParser(description="Streams one chat answer.")
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("question")
    parser.add_argument("--ca", type=pathlib.Path, metavar="FILE",
                        help="TLS, to a server whose certificate this authority (PEM) has signed")
    parser.add_argument("--cert", type=pathlib.Path, metavar="FILE",
                        help="own certificate (PEM), where the server asks for one")
    parser.add_argument("--key", type=pathlib.Path, metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--api-key-file", type=pathlib.Path, metavar="FILE",
                        help="file with an API key, as `tessera keys add` prints it")
    chosen = parser.parse_args()
    if (chosen.cert is None) != (chosen.key is None) or (chosen.cert and not chosen.ca):
        parser.error("--cert and --key belong together, and to --ca")
    return chosen


def load_stubs(folder):
    subprocess.run(
        ["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}",
         f"--plugin=protoc-gen-grpc_python={shutil.which('grpc_python_plugin')}",
         str(PROTO / "tessera/v1/inference.proto")], check=True)
    sys.path.insert(0, folder)


def connect(grpc, chosen):
    # gRPC would ask a proxy that the environment names even for this machine.
    direct = [("grpc.enable_http_proxy", 0)]
    if not chosen.ca:
        return grpc.insecure_channel(chosen.address, options=direct)
    own = [file.read_bytes() if file else None for file in (chosen.key, chosen.cert)]
    return grpc.secure_channel(chosen.address, grpc.ssl_channel_credentials(
        chosen.ca.read_bytes(), *own), options=direct)


def ask(chosen):
    import grpc
    from tessera.v1 import inference_pb2 as pb
    from tessera.v1 import inference_pb2_grpc as pb_grpc

    request = pb.GenerateRequest()
    request.chat.messages.add(role="user", content=chosen.question)
    metadata = []
    if chosen.api_key_file:
        metadata.append(("authorization", f"Bearer {chosen.api_key_file.read_text().strip()}"))
    with connect(grpc, chosen) as channel:
        try:
            for message in pb_grpc.InferenceStub(channel).StreamGenerate(request, metadata=metadata):
                for choice in message.choices:
                    sys.stderr.write(choice.reasoning)
                    sys.stdout.write(choice.text)
                    sys.stdout.flush()
        except grpc.RpcError as error:
            sys.exit(f"{chosen.address}: {error.code().name}: {error.details()}")
    print()


def main():
    chosen = options()
    with tempfile.TemporaryDirectory() as folder:
        load_stubs(folder)
        ask(chosen)


if __name__ == "__main__":
    main()
