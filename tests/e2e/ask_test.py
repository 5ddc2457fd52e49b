"""`tessera ask`: facts planted in files of every kind are found where they stand, and a model is asked."""
import os
import pathlib
import random
import tempfile
import time
import unittest

from harness import NANO, Server, run_json, run_tessera

WORDS = "river stone window market engine garden letter paper metal winter signal harbour".split()


def filler(generator, lines):
    return [" ".join(generator.choices(WORDS, k=9)) for _ in range(lines)]


def write_pdf(path, pages):
    """A PDF of pages of lines, made by hand."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", None,
               "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for lines in pages:
        text = "BT /F1 9 Tf 12 TL 40 800 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        objects.append(f"<< /Length {len(text)} >>\nstream\n{text}\nendstream")
        kids.append(len(objects) + 1)
        objects.append("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources "
                       f"<< /Font << /F1 3 0 R >> >> /Contents {len(objects)} 0 R >>")
    objects[1] = (f"<< /Type /Pages /Count {len(kids)} /Kids [" +
                  " ".join(f"{kid} 0 R" for kid in kids) + "] >>")
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    data += (f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n"
             f"<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n").encode()
    path.write_bytes(data)


class AskTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder_object = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.folder_object.name)
        seed = int(os.environ.get("SEED", random.randrange(2**32)))
        print(f"SEED={seed}")
        generator = random.Random(seed)
        lines = filler(generator, 400)
        lines[250] = "The vault opens with the number 4711."
        (cls.folder / "notes.txt").write_text("\n".join(lines))
        lines = filler(generator, 80)
        lines[33] = "# Kitchen\n\nThe chef of the canteen is called Ottilie."
        (cls.folder / "house.md").write_text("\n".join(lines))
        rows = [f"<p>{line}</p>" for line in filler(generator, 120)]
        rows[77] = "<p>The ferry to Elba leaves at <b>6&nbsp;o&#39;clock</b>.</p>"
        (cls.folder / "trip.html").write_text("<html><body>\n" + "\n".join(rows) + "</body></html>")
        pages = [filler(generator, 50) for _ in range(200)]
        pages[136][20] = "The warranty of the turbine ends after 18 months."
        cls.pdf = cls.folder / "-manual.pdf"
        write_pdf(cls.pdf, pages)
        cls.files = [cls.folder / "notes.txt", cls.folder / "house.md", cls.folder / "trip.html",
                     cls.pdf]

    @classmethod
    def tearDownClass(cls):
        cls.folder_object.cleanup()

    def search(self, question, *flags, files=None):
        return run_json("ask", "none", *(files or self.files), question, "--search-only", *flags)

    def test_planted_facts_are_found_where_they_stand(self):
        begin = time.monotonic()
        for question, file, fact, line, page in (
                ("Which number opens the vault?", "notes.txt", "4711", 251, None),
                ("Who is the chef of the canteen?", "house.md", "Ottilie", 36, None),
                ("When does the ferry to Elba leave?", "trip.html", "6 o'clock", 79, None),
                ("When ends the warranty of the turbine?", "-manual.pdf", "18 months", 21, 137)):
            best = self.search(question)[0]
            self.assertEqual(best["file"], file)
            self.assertIn(fact, best["text"])
            self.assertLessEqual(best.get("first_page"), page) if page else None
            self.assertEqual(best.get("last_page", page) >= page if page else True, True)
            if best.get("first_page") == best.get("last_page"):
                self.assertTrue(best["first_line"] <= line <= best["last_line"], best["place"])
        self.assertLess(time.monotonic() - begin, 60)

    def test_a_model_here_or_on_a_server_answers_with_sources(self):
        question = "Which number opens the vault?"
        flags = ("--passages", 2, "--max-answer-tokens", 24)
        with Server("--dtype", "float32") as server:
            there = run_json("ask", server.address, *self.files, question, *flags)
        here = run_json("ask", NANO, *self.files, question, *flags, "--dtype", "float32")
        self.assertEqual(here, there)
        self.assertEqual(len(here["read"]), 2)
        self.assertEqual(here["read"][0]["file"], "notes.txt")
        self.assertTrue({source["place"] for source in here["sources"]}
                        <= {read["place"] for read in here["read"]})
        self.assertEqual(bool(here["answer"]), bool(here["sources"]))
        done = run_tessera("ask", NANO, *self.files, question, *flags)
        self.assertTrue("Sources:\n  " in done.stdout or "do not answer" in done.stdout)
        self.assertIn("4 files: ", done.stderr)
        self.assertIn("passage 2 of 2 read", done.stderr)
        quiet = run_tessera("ask", NANO, *self.files, question, *flags, "--no-progress")
        self.assertNotIn("passage", quiet.stderr)

    def test_what_cannot_be_read_is_named(self):
        broken = self.folder / "broken.pdf"
        broken.write_bytes(b"%PDF-1.4\nnothing")
        binary = self.folder / "binary"
        binary.write_bytes(b"a\0b")
        for file, problem in ((broken, "pdftotext cannot read it"), (binary, "is no text"),
                              (self.folder / "none", "none")):
            done = run_tessera("ask", NANO, file, "What?", check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(problem, done.stderr)
        done = run_tessera("ask", NANO, "What?", check=False)
        self.assertEqual(done.returncode, 2)
        done = run_tessera("ask", self.folder / "none", self.files[0], "What?", check=False)
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    unittest.main()
