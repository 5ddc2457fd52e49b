# A control of a kernel: its source with one bug, which the emulator, or the comparison of values,
# must find. The kernel itself stays free of it: the bug is one replacement in a copy, and a text that
# is no longer there exactly once is an error, so that a control cannot go stale.
#   tessera_kernel_control(gemm_missing_barrier KERNEL kernels/cuda/kernels/gemm.cu
#     FIND "__syncthreads();  // the stage is free" REPLACE "")
# makes the object library gemm_missing_barrier. The launchers of the copy are in a namespace of that
# name inside of tessera::cuda; a test declares the one that it calls:
#   namespace tessera::cuda::gemm_missing_barrier { cudaError_t LaunchGemm(...); }
include(${PROJECT_SOURCE_DIR}/tests/support/seeded_fault.cmake)
function(tessera_kernel_control name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "KERNEL;FIND;REPLACE" "")
  tessera_seed_fault(text ${name} ${ARG_KERNEL} "${ARG_FIND}" "${ARG_REPLACE}")
  tessera_require_once(${name} ${ARG_KERNEL} "${text}" "\nnamespace tessera::cuda {\n")
  string(REPLACE "\nnamespace tessera::cuda {\n" "\nnamespace tessera::cuda::${name} {\n" text "${text}")
  set(copy ${CMAKE_CURRENT_BINARY_DIR}/controls/${name}.cu)
  file(GENERATE OUTPUT ${copy} CONTENT "${text}")
  tessera_emulated_kernels(${name} SRCS ${copy})
endfunction()
