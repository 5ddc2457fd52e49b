#!/usr/bin/env python3
"""What include_direction.py must catch."""
import unittest

import include_direction as checked


def reasons(path, header):
    return list(checked.violations(path, f'#include <vector>\n#include "{header}"\n'))


class IncludeDirectionTest(unittest.TestCase):
    def test_top_folders(self):
        self.assertEqual(reasons("engine/engine.cc", "kernels/ops.h"), [])
        self.assertTrue(reasons("kernels/ops.cc", "engine/engine.h"))
        self.assertTrue(reasons("parallel/topology.cc", "kernels/ops.h"))
        self.assertTrue(reasons("engine/model/moe.cc", "grpcpp/grpcpp.h"))

    def test_rooms(self):
        self.assertEqual(reasons("engine/model/weights.h", "engine/checkpoint/checkpoint.h"), [])
        self.assertIn("engine/checkpoint may include only engine/files, not engine/model",
                      reasons("engine/checkpoint/checkpoint.cc", "engine/model/model_config.h")[0])
        self.assertTrue(reasons("server/metrics/recorder.cc", "server/grpc/drain.h"))
        self.assertTrue(reasons("server/request_builder.cc", "server/commands/command.h"))
        self.assertEqual(reasons("server/main.cc", "server/commands/command.h"), [])

    def test_leaf_headers(self):
        self.assertEqual(reasons("engine/scheduler/scheduler.h", "engine/options.h"), [])
        self.assertTrue(reasons("engine/scheduler/scheduler.h", "engine/engine.h"))
        self.assertTrue(reasons("engine/types.h", "engine/kv/block_pool.h"))

    def test_new_folders(self):
        self.assertIn("not among the ROOMS", reasons("engine/new/a.cc", "engine/types.h")[0])
        self.assertTrue(reasons("engine/engine.cc", "engine/new/a.h"))

    def test_cycles(self):
        self.assertEqual(list(checked.cycles()), [])
        allowed = checked.ROOMS["engine/checkpoint"]
        allowed.append("engine/model")
        self.assertEqual(len(list(checked.cycles())), 3)
        allowed.pop()


if __name__ == "__main__":
    unittest.main()
