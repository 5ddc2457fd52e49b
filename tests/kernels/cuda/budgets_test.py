#!/usr/bin/env python3
"""budgets.py on texts as cuobjdump prints them."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import budgets  # noqa: E402

USAGE = """
Fatbin elf code:
================
arch = sm_90a

Resource usage:
 Common:
  GLOBAL:0
 Function _Z4GemmILi64EEvPf:
  REG:40 STACK:{stack} SHARED:1024 LOCAL:{local} CONSTANT[0]:824 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
CODE = """
\tcode for sm_90a
\t\tFunction : _Z4GemmILi64EEvPf
        /*0000*/                   LDC R1, c[0x0][0x28] ;      /* 0x00000a00ff017b82 */
        /*0010*/              @!P0 LDGSTS.E [R5], [R2.64] ;    /* 0x0000000000007918 */
        /*0020*/              @UP1 UTMALDG.2D [UR4], [UR6] ;   /* 0x0000000000007918 */
        /*0028*/                   UTMALDG.2D.MULTICAST [UR4], [UR6], UR8 ; /* 0x0000000000007918 */
        /*0030*/                   {spill} ;                   /* 0x0000000000007918 */
"""


def measure(stack=0, local=0, spill="EXIT"):
    def run(program, option=None, *_):
        return (USAGE.format(stack=stack, local=local) if option == "-res-usage"
                else CODE.format(spill=spill))
    real, budgets.run = budgets.run, run
    try:
        return budgets.measure("cuobjdump", ["folder/gemm.cu.o"])
    finally:
        budgets.run = real


class BudgetsTest(unittest.TestCase):
    KEY = ("gemm.cu", "Gemm<64>", "sm_90a")

    def test_reads_registers_and_instructions(self):
        errors, table = measure()
        self.assertEqual(errors, [])
        self.assertEqual(table, {self.KEY: budgets.Usage(40, 1024, "UTMALDG,UTMALDG.MULTICAST,LDGSTS")})

    def test_refuses_stacks_spills_and_local_memory(self):
        for arguments in ({"stack": 8}, {"local": 8}, {"spill": "STL [R1], R0"},
                          {"spill": "LDL.64 R0, [R1]"}):
            errors, _ = measure(**arguments)
            self.assertEqual(len(errors), 1, arguments)

    def test_short_names(self):
        for name, short in (
                ("void tessera::cuda::(anonymous namespace)::Norm<(int)4, tessera::simt::Bf16>"
                 "(float const*, int)", "Norm<4,Bf16>"),
                ("tessera::cuda::_GLOBAL__N__44_9_sample_cu_d6::Sample(tessera::cuda::Launch)",
                 "Sample")):
            self.assertEqual(budgets.short_name(name), short)

    def test_names_every_difference(self):
        usage = budgets.Usage(40, 0, "LDGSTS")
        table = {self.KEY: usage}
        def count(actual, same_nvcc=True):
            return len(list(budgets.differences(table, actual, same_nvcc)))
        self.assertEqual(count(table), 0)
        self.assertEqual(count({}), 1)
        self.assertEqual(count({("a", "b", "c"): usage}), 2)
        self.assertEqual(count({self.KEY: usage._replace(registers=41)}), 1)
        self.assertEqual(count({self.KEY: usage._replace(registers=41)}, same_nvcc=False), 0)
        self.assertEqual(count({self.KEY: usage._replace(instructions="-")}, same_nvcc=False), 1)


if __name__ == "__main__":
    unittest.main()
