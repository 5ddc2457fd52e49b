"""The commands that need no server, against the golden data."""
import gzip
import json
import pathlib
import subprocess
import tempfile
import unittest

import grpc

from harness import (BIN, NANO, REFERENCE, Server, load_jsonl, pb, run_json, run_tessera,
                     violations)


def ids_text(ids):
    return ",".join(map(str, ids))


class ScoreTest(unittest.TestCase):
    def test_reference_checkpoints(self):
        for folder in sorted((REFERENCE / "models").iterdir()):
            golden = json.loads((folder / "golden.json").read_text())
            for prompt in golden["prompts"]:
                with self.subTest(model=folder.name, tokens=len(prompt["ids"])):
                    score = run_json("score", folder, "--token-ids", ids_text(prompt["ids"]),
                                     "--dtype", "float32")
                    self.assertEqual(score["argmax"], prompt["argmax_all"])
                    self.assertEqual(len(score["logprobs"]), len(prompt["ids"]) - 1)
                    self.assertAlmostEqual(score["nll"], prompt["nll"], places=4)
                    worst = max(abs(a - b) for a, b in
                                zip(score["last_logits"], prompt["logits_last"]))
                    self.assertLess(worst, 5e-5)

    def test_logprobs_sum_to_nll(self):
        score = run_json("score", NANO, "--token-ids", "1,2,3,4,5", "--dtype", "float32")
        self.assertAlmostEqual(-sum(score["logprobs"]) / 4, score["nll"], places=5)


class GenerateTest(unittest.TestCase):
    def test_reference_checkpoints(self):
        for folder in sorted((REFERENCE / "models").iterdir()):
            golden = json.loads((folder / "golden.json").read_text())
            prompt = golden["prompts"][-1]
            with self.subTest(model=folder.name):
                answer = run_json("generate", folder, "--token-ids", ids_text(prompt["ids"]),
                                  "--max-tokens", 32, "--temperature", 0, "--ignore-eos",
                                  "--dtype", "float32")
                self.assertEqual(answer["token_ids"], prompt["greedy"])
                self.assertEqual(answer["finish_reason"], "length")
                self.assertEqual(answer["usage"]["prompt_tokens"], len(prompt["ids"]))


class TokenizeTest(unittest.TestCase):
    def test_a_chat_template_of_ones_own(self):
        with tempfile.TemporaryDirectory() as folder:
            own, messages = pathlib.Path(folder) / "own.jinja", pathlib.Path(folder) / "m.json"
            own.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
            messages.write_text('[{"role": "user", "content": "hi"}]')
            render = ("tokenize", NANO, "--messages", messages, "--render", "--chat-template", own)
            self.assertEqual(run_tessera(*render).stdout, "[hi]")
            run_tessera("check", NANO, "--chat-template", own)
            own.write_text("\n{{ messages | groupby('role') }}")
            for command in (("check", NANO, "--chat-template", own), render,
                            ("serve", NANO, "--chat-template", own)):
                refused = run_tessera(*command, check=False)
                self.assertNotEqual(refused.returncode, 0, command)
                self.assertIn("own.jinja: template line 2: there is no filter 'groupby'",
                              refused.stderr)

    def test_tokenizer_goldens(self):
        goldens = load_jsonl(REFERENCE / "tokenizer/goldens.jsonl")
        with tempfile.TemporaryDirectory() as folder:
            data = gzip.decompress((REFERENCE / "tokenizer/tokenizer.json.gz").read_bytes())
            (pathlib.Path(folder) / "tokenizer.json").write_bytes(data)
            config = (REFERENCE / "tokenizer/tokenizer_config.json").read_bytes()
            (pathlib.Path(folder) / "tokenizer_config.json").write_bytes(config)
            lines = "".join(json.dumps(golden["text"]) + "\n" for golden in goldens)
            out = run_tessera("tokenize", folder, "--lines", stdin=lines).stdout.splitlines()
            self.assertEqual([json.loads(line) for line in out], [g["ids"] for g in goldens])

    def test_messages(self):
        for golden in load_jsonl(NANO / "golden.jsonl"):
            with tempfile.NamedTemporaryFile("w", suffix=".json") as messages, \
                    tempfile.NamedTemporaryFile("w", suffix=".json") as tools:
                json.dump(golden["messages"], messages)
                messages.flush()
                arguments = ["tokenize", NANO, "--messages", messages.name,
                             f"--enable-thinking={str(golden['enable_thinking']).lower()}"]
                if golden["tools"]:
                    json.dump(golden["tools"], tools)
                    tools.flush()
                    arguments += ["--tools", tools.name]
                rendered = run_tessera(*arguments, "--render").stdout
                self.assertEqual(rendered.removesuffix("\n"),
                                 golden["prompt"].removesuffix("\n"))
                ids = json.loads(run_tessera(*arguments).stdout)
                self.assertEqual(ids, golden["prompt_ids"])


    def refuses(self, *arguments, stdin=""):
        done = run_tessera("tokenize", NANO, *arguments, stdin=stdin, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        return done.stderr

    def test_input_that_is_no_text_and_ids_that_are_no_tokens(self):
        self.assertIn("UTF-8", self.refuses(stdin="a\udcff\udcfe"))
        for ids in ("[1728]", "[5, -1]", "[99999999999]", "[1.5]", "{}", "[1"):
            self.refuses("--decode", stdin=ids)
        self.assertIn("1728", self.refuses("--decode", stdin="[5, 1728]"))
        self.assertIn("line 2", self.refuses("--lines", "--decode", stdin="[5]\n[1728]\n"))
        self.assertIn("line 1", self.refuses("--lines", stdin='"a\udcff"\n'))

    def test_messages_that_are_no_messages(self):
        for text in ("[1]", "{}", '["hi"]', "[", "[[]]", "null"):
            with tempfile.NamedTemporaryFile("w", suffix=".json") as messages:
                messages.write(text)
                messages.flush()
                self.assertIn("messages", self.refuses("--messages", messages.name))

    def test_content_in_parts_is_the_templates_business(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as messages:
            json.dump([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], messages)
            messages.flush()
            done = run_tessera("tokenize", NANO, "--messages", messages.name, "--render")
            self.assertNotIn("Hello", done.stdout)
            self.assertIn("in parts", done.stderr)


class PromptTest(unittest.TestCase):
    def test_files_of_no_use(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as messages, \
                tempfile.NamedTemporaryFile("w", suffix=".json") as broken:
            json.dump([{"role": "user", "content": "hi"}], messages)
            broken.write('{"')
            for file in (messages, broken):
                file.flush()
            for files, culprit in ((["--messages", "/nowhere.json"], "/nowhere.json"),
                                   (["--messages", "/"], "/"),
                                   (["--messages", broken.name], broken.name),
                                   (["--messages", messages.name, "--tools", broken.name],
                                    broken.name)):
                for command in (["generate", NANO], ["client", "127.0.0.1:1"],
                                ["tokenize", NANO]):
                    done = run_tessera(*command, *files, check=False)
                    self.assertEqual(done.returncode, 1, done.stderr)
                    self.assertIn(f"{culprit}: ", done.stderr)

    def test_text_that_is_not_utf8(self):
        for option in ("--prompt", "--chat", "--stop"):
            prompt = [] if option == "--prompt" or option == "--chat" else ["--prompt", "x"]
            done = run_tessera("generate", NANO, *prompt, option, "a\udcff", check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn(f"{option}: must be UTF-8", done.stderr)

    def test_a_mistyped_command(self):
        done = run_tessera("genrate", NANO, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn('did you mean "generate"?', done.stderr)

    def test_output_that_cannot_be_written(self):
        for command in (["generate", NANO, "--prompt", "x", "--max-tokens", "2"],
                        ["score", NANO, "--token-ids", "1,2", "--json"], ["tokenize", NANO]):
            with open("/dev/full", "w") as full:
                done = subprocess.run([BIN, *map(str, command)], stdin=subprocess.DEVNULL,
                                      stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
            self.assertEqual(done.returncode, 1)
            self.assertIn("cannot write the output", done.stderr)


class UsageTest(unittest.TestCase):
    """A value that no model allows ends every command with 2, before it loads or asks anything."""

    GENERATION = [("temperature", "-1"), ("temperature", "nan"), ("temperature", "inf"),
                  ("temperature", "warm"), ("top-p", "2"), ("top-p", "0"), ("top-k", "-2"),
                  ("min-p", "2"), ("repetition-penalty", "0"), ("presence-penalty", "3"),
                  ("frequency-penalty", "-3"), ("max-tokens", "0"), ("max-tokens", "-1"),
                  ("max-tokens", "99999999999"), ("min-tokens", "-1"), ("n", "0"), ("n", "17"),
                  ("logprobs", "21"), ("prompt-logprobs", "-1"), ("priority", "1001"),
                  ("max-thinking-tokens", "-1"), ("stop-token-ids", "a"),
                  ("stop-token-ids", "-1"), ("stop-token-ids", "1,,2"),
                  ("stop-token-ids", "+1"), ("cache-salt", "a/b"), ("stop", ""),
                  ("bad-words", ""), ("seed", "x")]
    MODEL = [("threads", "-3"), ("max-num-seqs", "0"), ("tensor-parallel-size", "0"),
             ("data-parallel-size", "0"), ("dtype", "float16"), ("backend", "gpu"),
             ("moe-comm", "x"), ("cpu-isa", "sse"), ("kv-cache-memory", "2 cows"),
             ("kv-cache-memory", "-1"), ("block-size", "0"), ("max-model-len", "-1"),
             ("batch-wait-ms", "-1"), ("expert-rebalance-interval", "-1"),
             ("expert-spare-slots", "-1")]
    HEAD = [("nodes", "0"), ("step-timeout", "-1"), ("step-timeout", "0"), ("join-timeout", "nan")]
    SERVER = [("port", "99999"), ("port", "-1"), ("metrics-port", "65536"),
              ("max-message-size", "0"), ("max-message-size", "2GiB"), ("drain-timeout", "-1"),
              ("log-level", "loud"), ("max-concurrent-requests", "0")]
    WORKER = [("join", "x"), ("join", "127.0.0.1:99999"), ("node-index", "-2"), ("threads", "-1"),
              ("join-timeout", "x")]
    PLAN = [("gpu", "x99"), ("gpus", "0"), ("gpu-memory-utilization", "2"),
            ("gpu-memory-utilization", "0"), ("dtype", "float3"), ("goal", "x"),
            ("context", "-1"), ("max-num-batched-tokens", "1"), ("expert-replicas", "-1"),
            ("expert-replicas", "1")]
    BENCH = [("num-requests", "-1"), ("concurrency", "-1"), ("input-len", "0"),
             ("output-len", "0"), ("memory-bandwidth", "0"), ("memory-bandwidth", "fast")]
    NOWHERE = "127.0.0.1:1"  # nobody answers there
    COMMANDS = [(["generate", NANO, "--prompt", "x"], GENERATION + MODEL + HEAD),
                (["client", NOWHERE, "--prompt", "x"], [*GENERATION, ("timeout", "-1")]),
                (["chat", NANO], GENERATION + MODEL), (["chat", NOWHERE], GENERATION),
                (["serve", NANO], MODEL + HEAD + SERVER),
                (["score", NANO, "--token-ids", "1"], [*MODEL, *HEAD, ("token-ids", "a"),
                                                       ("token-ids", "1,-2")]),
                (["bench", "latency", NANO], BENCH + MODEL + HEAD),
                (["worker", NANO], WORKER), (["plan", NANO], PLAN)]

    def refuses(self, option, *arguments):
        with self.subTest(arguments):
            done = run_tessera(*arguments, check=False)
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            error, hint = done.stderr.splitlines()
            self.assertRegex(error, f"^tessera {arguments[0]}: --{option}\\b"
                                    ".* (must|needs|no|not|only)\\b")
            self.assertIn("--help", hint)

    def test_addresses(self):
        for address in ("foo", "http://127.0.0.1:50051", "127.0.0.1:99999"):
            done = run_tessera("client", address, "--prompt", "x", check=False)
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            self.assertIn("HOST:PORT", done.stderr)

    def test_values_out_of_range(self):
        for command, options in self.COMMANDS:
            for option, value in options:
                self.refuses(option, *command, f"--{option}", value)

    def test_bench_takes_the_bandwidth_of_another_memory(self):
        limits = [json.loads(run_tessera("bench", "latency", NANO, "--num-requests", 1, "--input-len", 2,
                                         "--output-len", 2, "--json", *flags).stdout)["limit"]
                  for flags in (["--memory-bandwidth", 1], ["--memory-bandwidth", 3])]
        self.assertGreater(limits[0], 0)
        self.assertAlmostEqual(limits[1] / limits[0], 3, places=4)

    def test_values_that_do_not_go_together(self):
        for command in (["generate", NANO, "--prompt", "x"], ["chat", NANO]):
            self.refuses("min-tokens", *command, "--min-tokens", 9, "--max-tokens", 3)
        self.refuses("enable-thinking", "generate", NANO, "--prompt", "x", "--enable-thinking")
        self.refuses("cluster-address", "serve", NANO, "--nodes", 2, "--cluster-address", "x")

    def test_what_the_model_or_the_server_refuses(self):
        """Is a failure: a missing folder, a token that the model does not have, its context."""
        for arguments in (["generate", "/no/such/model", "--prompt", "x"],
                          ["check", "/no/such/model"], ["plan", "/no/such/model"],
                          ["generate", NANO, "--token-ids", "99999"],
                          ["generate", NANO, "--prompt", "x", "--tensor-parallel-size", 7],
                          ["client", self.NOWHERE, "--prompt", "x"]):
            with self.subTest(arguments):
                done = run_tessera(*arguments, check=False)
                self.assertEqual(done.returncode, 1, done.stderr)
        with Server() as server:
            done = run_tessera("client", server.address, "--token-ids", "99999", check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("token_ids", done.stderr)


class CheckTest(unittest.TestCase):
    def test_says_what_it_is(self):
        text = run_tessera("check", NANO).stdout
        self.assertIn("Qwen3MoeForCausalLM", text)
        self.assertIn("ok: this model can be served", text)

    def test_a_tensor_too_many(self):
        """Weights that config.json does not mention are of another model."""
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            self.copy_nano(folder)
            config = json.loads((folder / "config.json").read_text())
            config["num_hidden_layers"] -= 1
            (folder / "config.json").write_text(json.dumps(config))
            for command in (("check",), ("score", "--token-ids", "1,2")):
                done = run_tessera(command[0], folder, *command[1:], check=False)
                self.assertEqual(done.returncode, 1)
                self.assertIn('model.safetensors: tensor "model.layers.3.', done.stderr)

    def copy_nano(self, folder):
        for file in NANO.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    def test_weights_that_are_no_numbers(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            self.copy_nano(folder)
            weights = bytearray((folder / "model.safetensors").read_bytes())
            size = int.from_bytes(weights[:8], "little")
            begin, end = json.loads(weights[8:8 + size])["model.norm.weight"]["data_offsets"]
            weights[8 + size + begin:8 + size + end] = b"\xff\x7f" * ((end - begin) // 2)
            (folder / "model.safetensors").write_bytes(weights)
            done = run_tessera("check", folder, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn('"model.norm.weight": 256 values are NaN or infinite', done.stderr)
            done = run_tessera("score", folder, "--token-ids", "1,2,3", "--json", check=False)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn("not finite", done.stderr)

    def test_a_tokenizer_of_another_model(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            self.copy_nano(folder)
            tokenizer = json.loads((folder / "tokenizer.json").read_text())
            tokenizer["added_tokens"].append(
                {"id": 2000000, "content": "<foo>", "special": True, "single_word": False,
                 "lstrip": False, "rstrip": False, "normalized": False})
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
            self.assertIn("token ids up to 2000000", run_tessera("check", folder).stdout)
            with Server("--dtype", "float32", model=folder) as server:
                for field in ("repetition_penalty", "prompt_logprobs"):
                    request = pb.GenerateRequest(text="a<foo>b", parse_special_tokens=True)
                    if field == "repetition_penalty":
                        request.sampling.repetition_penalty = 1.3
                    else:
                        request.response.prompt_logprobs = 2
                    with self.assertRaises(grpc.RpcError) as caught:
                        server.stub.Generate(request)
                    self.assertEqual(violations(caught.exception), ["text"])
                request = pb.GenerateRequest(text="a<foo>b")  # letters, not the token
                request.constraints.bad_words.append("<foo>")
                request.stopping.max_tokens = 2
                server.stub.Generate(request)

    def test_a_link_to_nothing(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for file in NANO.iterdir():
                (folder / file.name).symlink_to(file)
            (folder / "model.safetensors").unlink()
            (folder / "model.safetensors").symlink_to("/nowhere/blob")
            done = run_tessera("check", folder, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("model.safetensors: is a link to /nowhere/blob", done.stderr)

    def test_without_a_tokenizer(self):
        text = run_tessera("check", REFERENCE / "models/dense").stdout
        self.assertNotIn("can be served", text)
        self.assertIn("token ids", text)


class PlanTest(unittest.TestCase):
    LARGE = REFERENCE / "configs/Qwen3-235B-A22B.config.json"

    def test_layouts_of_a_large_model(self):
        plan = run_json("plan", self.LARGE, "--gpus", 8, "--gpu", "H100", "--goal", "latency")
        self.assertEqual(plan["gpu"], "h100")
        best = plan["layouts"][0]
        self.assertEqual((best["tensor_parallel"], best["data_parallel"]), (8, 1))
        self.assertTrue(best["fits"])
        self.assertEqual(best["weights_bytes_per_rank"], 58_961_213_440)
        self.assertEqual(best["kv_bytes_per_token_per_rank"], 48_128)
        self.assertEqual(set(best["decode_step_ms"]), {"1", "32", "128"})

    def test_table(self):
        text = run_tessera("plan", NANO, "--gpus", 2, "--dtype", "int4").stdout
        self.assertIn("int4 weights, on 2 x H100", text)

    def test_expert_placement(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as stats:
            json.dump({"layers": [[1000] + [10] * 15] * 4}, stats)
            stats.flush()
            plan = run_json("plan", NANO, "--gpus", 4, "--expert-stats", stats.name,
                            "--expert-replicas", 1)
        placement = plan["expert_placement"]
        self.assertGreater(placement["max_over_mean_before"], 3)
        self.assertLess(placement["max_over_mean_after"], 1.15)
        self.assertEqual({len(layer["slots"]) for layer in placement["layers"]}, {20})

    def test_numbers_of_gpus_that_do_not_work(self):
        failed = run_tessera("plan", self.LARGE, "--gpus", 7, check=False)
        self.assertEqual(failed.returncode, 1)
        self.assertIn("numbers of GPUs that work: 1, 2, 3, 4, 6, 8,", failed.stderr)


if __name__ == "__main__":
    unittest.main()
