"""Model folders that say the same thing differently in two files, or say it elsewhere."""
import json
import pathlib
import tempfile
import unittest

from harness import NANO, run_json, run_tessera

ROW_BYTES = 512  # one row of the bundled model's embedding
IM_END = 1647
PROMPT = ["--prompt", "Count: 1 2 3", "--temperature", 0, "--max-tokens", 4]


def read_tensors():
    data = (NANO / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"],
                   data[begin + entry["data_offsets"][0]:begin + entry["data_offsets"][1]])
            for name, entry in header.items()}


def write_tensors(path, tensors):
    header, end = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, data in tensors.values():
            file.write(data)


class OddCheckpoint(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for file in NANO.iterdir():
            (self.folder / file.name).symlink_to(file)

    def change(self, name, **members):
        path = self.folder / name
        content = json.loads(path.read_text()) | members
        path.unlink()
        path.write_text(json.dumps(content))

    def weights(self, tensors):
        path = self.folder / "model.safetensors"
        path.unlink()
        write_tensors(path, tensors)


class HeadTest(OddCheckpoint):
    def setUp(self):
        super().setUp()
        self.tensors = read_tensors()
        dtype, shape, rows = self.tensors["model.embed_tokens.weight"]
        # Every answer's id moves by one.
        self.shifted = (dtype, shape, rows[-ROW_BYTES:] + rows[:-ROW_BYTES])
        self.tied = run_json("generate", NANO, *PROMPT)["token_ids"]

    def answer(self):
        return run_json("generate", self.folder, *PROMPT)["token_ids"]

    def test_a_stored_head_wins_with_a_warning(self):
        self.weights(self.tensors | {"lm_head.weight": self.shifted})
        self.change("config.json", tie_word_embeddings=False)
        untied = self.answer()
        self.assertNotEqual(untied, self.tied)
        self.change("config.json", tie_word_embeddings=True)
        result = run_tessera("generate", self.folder, *PROMPT, "--json")
        self.assertEqual(json.loads(result.stdout)["token_ids"], untied)
        self.assertIn("the stored one is used", result.stderr)
        self.assertIn("the stored one is used", run_tessera("check", self.folder).stdout)

    def test_a_copy_of_the_embedding_changes_nothing(self):
        self.weights(self.tensors | {"lm_head.weight": self.tensors["model.embed_tokens.weight"]})
        result = run_tessera("generate", self.folder, *PROMPT, "--json")
        self.assertEqual(json.loads(result.stdout)["token_ids"], self.tied)
        self.assertNotIn("lm_head", result.stderr)

    def test_a_head_alone_is_the_embedding(self):
        tensors = dict(self.tensors)
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        self.weights(tensors)
        self.assertEqual(self.answer(), self.tied)
        result = run_tessera("check", self.folder)
        self.assertEqual(result.returncode, 0, result.stdout)


class EndTokenTest(OddCheckpoint):
    ASK = ["--chat", "What is 44 + 9809?", "--temperature", 0, "--max-tokens", 120]

    def test_the_tokenizers_counts_beside_the_models(self):
        # As the folders of Base models: only <|endoftext|>.
        self.change("config.json", eos_token_id=1645)
        self.change("generation_config.json", eos_token_id=1645)
        answer = run_json("generate", self.folder, *self.ASK)
        self.assertEqual((answer["finish_reason"], answer["stop_token_id"]), ("stop", IM_END))
        self.assertIn("eos_token of tokenizer_config.json", run_tessera("check", self.folder).stdout)

    def test_those_of_both_configurations_count(self):
        self.change("tokenizer_config.json", eos_token=None)
        self.change("config.json", eos_token_id=IM_END)
        self.change("generation_config.json", eos_token_id=[1645])
        answer = run_json("generate", self.folder, *self.ASK)
        self.assertEqual((answer["finish_reason"], answer["stop_token_id"]), ("stop", IM_END))


class AddedTokenTest(OddCheckpoint):
    def test_one_that_wants_normalised_text(self):
        tokenizer = json.loads((self.folder / "tokenizer.json").read_text())
        tokenizer["added_tokens"].append(
            {"id": 1671, "content": "<myfunc>", "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": True, "special": False})
        self.change("tokenizer.json", added_tokens=tokenizer["added_tokens"])
        result = run_tessera("tokenize", self.folder, stdin="a <myfunc> b")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("1671", result.stdout)


class EmptyArgumentsTest(OddCheckpoint):
    CODER = ("{% for m in messages %}{% for t in m.tool_calls %}"
             "{% for k, v in t.function.arguments|items %}{{ k }}{% endfor %}"
             "{{ t.function.arguments|tojson }}{% endfor %}{% endfor %}")

    def test_are_an_object_for_the_template(self):
        self.change("tokenizer_config.json", chat_template=self.CODER)
        messages = self.folder / "messages.json"
        for arguments in ({}, {"arguments": None}, {"arguments": ""}, {"arguments": " "},
                          {"arguments": "null"}, {"arguments": "{}"}, {"arguments": {}}):
            with self.subTest(arguments=arguments):
                messages.write_text(json.dumps([
                    {"role": "user", "content": "time?"},
                    {"role": "assistant", "content": None, "tool_calls": [
                        {"id": "1", "type": "function",
                         "function": {"name": "now"} | arguments}]}]))
                answer = run_json("generate", self.folder, "--messages", messages,
                                  "--max-tokens", 1)
                self.assertEqual(answer["usage"]["prompt_tokens"], 2, "{}")


if __name__ == "__main__":
    unittest.main()
